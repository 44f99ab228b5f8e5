"""Several takes of a stage, of which the cascade's own ear keeps one.

    text ──semantic stage──▶ take 0 ──centroids──▶ phonemes, as CTC hears them: is the text surely read in them?
                          └ if not, side by side ▶ take 1 ──…           the take in which it is read best is kept

    tokens asked for ──coarse stage──▶ take 0 ──codec──▶ sound ──semantic tokenizer──▶ tokens heard
                          └ side by side ▶ take 1 ──…          the take with fewest edits between the two is kept

What was asked for is known, and whether it came out can be seen in tokens, and heard in sound: a take that swallows a
sound, or says a word twice, has others. Edits are counted between runs, since how long a sound is held is not what goes
wrong. Take 0 is what would be made without takes; a tie goes to the earlier one. Knows no recogniser.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.lm.decode import run
from triptych.stages.coarse.generate import CoarseWork
from triptych.stages.three import STAGES
from triptych.tokenizers.semantic.ctc import TextClasses, edits_a_run, nats_a_class
from triptych.tokenizers.trio import Tokenizers

if TYPE_CHECKING:
    from triptych.stages.request import Request

SURE = 0.1
"""nats a phoneme, below which another take is not asked for; a quarter of the starter's own recordings lie below"""


class Proofreader:
    """Reads texts in semantic tokens, without a sound."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        """
        Raises:
            ValueError: the tokens know no phonemes, or not those of the text front end.
        """
        self._semantic, text = tokenizers.semantic, tokenizers.text
        compared = tokenizers.semantic.compared
        classes = (
            TextClasses.named(text, compared.head.classes) if text and compared.head and compared.phonemes else None
        )
        if classes is None or not set(range(len(classes.names))) <= set(classes.class_of):
            why = "needs semantic tokens that know the front end's phonemes ('fit semantic phonemes=')"
            raise ValueError(f"semantic_takes {why}: say semantic_takes=1")
        self._classes = classes

    def __call__(self, text: NDArray[np.uint16], tokens: NDArray[np.uint16]) -> float:
        """How badly text tokens [L] are read in semantic tokens [T]: nats a phoneme, 0 at best."""
        heard = self._semantic.heard_in(tokens)
        assert heard is not None
        return nats_a_class(heard, self._classes.of_tokens(text))


def make_coarse(
    jobs: "Sequence[Request]", works: Sequence[CoarseWork], rule: Any, slots: int, windows: int | None = None
) -> None:
    """Makes what can be made of the semantic tokens of each work, a request each, up to `slots` rows at a time, and
    `windows` of each at most; the takes of one window are always side by side. The stage's time is on the clock of the
    first, the ear's on each one's.
    """
    single = [work for job, work in zip(jobs, works, strict=True) if job.settings.takes == 1]
    with jobs[0].clock("coarse"):
        for _ in run(rule, [work.job(rule, windows) for work in single], slots):
            pass
    open_, made = [pair for pair in zip(jobs, works, strict=True) if pair[0].settings.takes > 1], 0
    while open_ and made != windows:
        made += 1
        tried = [
            (job, work, [replace(work, generator=own) for own in streams(job, "coarse", job.settings.takes)])
            for job, work in open_
        ]
        rows = [take.job(rule, windows=1) for _, _, takes in tried for take in takes]
        with jobs[0].clock("coarse"):
            for _ in run(rule, rows, max(slots, *(job.settings.takes for job, _ in open_))):
                pass
        open_ = []
        for job, work, takes in tried:
            if takes[0].number > work.number:
                with job.clock("ear"):
                    best = min(takes, key=lambda take: edits(job, work, take))
                work.made, work.number, work.shift = best.made, best.number, best.shift
                open_.append((job, work))


def streams(job: "Request", stage: str, takes: int) -> list[torch.Generator]:
    """The random streams of a stage, one a take; the first is the request's own."""
    if stage not in job.takes:
        place = list(STAGES).index(stage)
        seeds = ((job.settings.seed + 1_000_003 * take) * len(STAGES) + place for take in range(1, takes))
        job.takes[stage] = [job.streams[stage], *(torch.Generator().manual_seed(seed) for seed in seeds)]
    return job.takes[stage]


def edits(job: "Request", before: CoarseWork, take: CoarseWork) -> float:
    """Edits, a run of tokens that was asked for, between those and what is heard of the window that `take` added."""
    grid, tokenizers = job.cascade.grid, job.cascade.tokenizers
    first, last = (work.made.shape[1] // grid.acoustic_per_beat * grid.semantic_per_beat for work in (before, take))
    known = before.made.shape[1]
    sound = tokenizers.acoustic.decode(take.made[:, known:], None if take.shift is None else take.shift[:, known:])
    (heard,) = tokenizers.semantic.encode([sound], job.cascade.sample_rate)
    return edits_a_run(heard, take.semantic[first:last])
