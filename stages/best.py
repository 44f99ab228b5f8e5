"""The best of several candidates for one text.

    seeds s, s + 1, … ──semantic stage──▶ candidates ──log p(s | text) − log p(s), a second──▶ a ranking
    with ears: the first of the ranking is made sound and heard, and the next one, until one is heard without error

Candidate k is what seed s + k says alone. Knows no recogniser: the caller counts the errors.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.stages.request import Request, Settings, Utterance
from triptych.stages.together import say_all
from triptych.tokenizers.waveform import Waveform

if TYPE_CHECKING:
    from triptych.stages.cascade import Cascade

Errors = Callable[[Waveform, int], float]
"""word error of a waveform [N] at a sample rate, against what should be said"""


def speak_best(
    cascade: "Cascade",
    text: str,
    candidates: int,
    *,
    voice: str | Path | None = None,
    voice_text: str | None = None,
    settings: Settings | None = None,
    errors: Errors | None = None,
) -> Utterance:
    """`Cascade.speak` of the best of so many candidates; its notes say what was done.

    Raises:
        ValueError: as `speak`, or fewer candidates than one.
    """
    if candidates < 1:
        raise ValueError(f"best of {candidates}: give at least 1")
    settings = settings or cascade.settings
    jobs = [Request(cascade, replace(settings, seed=settings.seed + k)) for k in range(candidates)]
    pieces = cascade.text_pieces(text)
    spoken_by = cascade.voice(voice, voice_text, jobs[0])
    said = say_all(jobs, [pieces] * candidates, [spoken_by] * candidates, min(candidates, 8))
    gains = [job.explained(pieces, spoken_by) for job in jobs]
    order = sorted(range(candidates), key=lambda k: -gains[k])
    ranking = ", ".join(f"seed {jobs[k].settings.seed}: {gains[k]:.1f}" for k in order)
    note = f"best of {candidates} by nats a second that the text explains ({ranking})"
    if errors is None:
        jobs[order[0]].notes.append(note)
        return jobs[order[0]].utter(said[order[0]], spoken_by, text=text)
    heard: list[tuple[float, Utterance]] = []
    for k in order:
        made = jobs[k].utter(said[k], spoken_by, text=text)
        heard.append((errors(made.waveform, made.sample_rate), made))
        if heard[-1][0] == 0:
            break
    errors_of = ", ".join(
        f"seed {jobs[k].settings.seed}: {error:.2f}" for k, (error, _) in zip(order, heard, strict=False)
    )
    least, best = min(heard, key=lambda pair: pair[0])
    return replace(best, notes=(*best.notes, note, f"heard with word error {least:.2f} ({errors_of})"))
