"""Many requests side by side: each stage works for all of a lot, up to `slots` at a time, before the next stage does.

    requests ──semantic──▶ drafts: semantic tokens, a voice each ──coarse──▶ codes ──fine──▶ codes ──codec──▶ Utterances
               together                                         together           one by one

Invariant: a request becomes what it becomes alone (as `lm.decode` promises); work that was done together is shared out
by the tokens that came of it. Memory is that of a lot of tokens, of a latent a frame where levels are expected,
and one waveform. Knows no bundle, no file and no text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from triptych.lm.decode import Job, run
from triptych.stages.bundle import Voice
from triptych.stages.takes import make_coarse
from triptych.stages.utterance import Utterance, share_time

if TYPE_CHECKING:
    from triptych.stages.request import Request

LOT = 4
"""requests a slot that go through the stages together; their sound is there before the next lot begins"""
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Draft:
    """A request that knows what to say, and has no sound yet."""

    job: "Request"
    semantic: NDArray[np.uint16]
    """[T]"""
    voice: Voice
    """the prompt of the coarse and fine stages"""
    text: str | None = None
    """what was to be said"""
    coarse: NDArray[np.uint16] | None = None
    """[coarse levels at least, T'] true codes; the coarse stage is left out then"""
    before: Voice | None = None
    """a recording that is continued"""
    made: NDArray[np.uint16] | None = None
    """[Q, n] codes of its end, with which `semantic` begins"""


def lots(things: Iterable[Thing], slots: int) -> Iterator[list[Thing]]:
    """As many as go through the stages together, again and again."""
    assert slots > 0
    rest = iter(things)
    return iter(lambda: list(islice(rest, LOT * slots)), [])


def say_all(
    jobs: "Sequence[Request]", pieces: Sequence[Sequence[NDArray[np.uint16]]], voices: Sequence[Voice], slots: int
) -> list[NDArray[np.uint16]]:
    """Semantic tokens [T] of each request, for its pieces of text, at the speed that it asks for."""
    frames = sum(jobs[0].longest_frames(len(piece)) for each in pieces for piece in each) // 2
    works = [job.say(each, voice) for job, each, voice in zip(jobs, pieces, voices, strict=True)]
    _semantic(jobs, works, frames, slots)
    return [job.said() for job in jobs]


def go_on_all(
    jobs: "Sequence[Request]", prompts: Sequence[NDArray[np.uint16]], beats: int, slots: int
) -> list[NDArray[np.uint16]]:
    """`beats` beats of semantic tokens [T] after each prompt, without a text."""
    frames = len(jobs) * beats * jobs[0].cascade.grid.semantic_per_beat
    _semantic(jobs, [job.go_on(prompt, beats) for job, prompt in zip(jobs, prompts, strict=True)], frames, slots)
    return [np.concatenate(job.pieces) for job in jobs]


def _semantic(jobs: "Sequence[Request]", works: Sequence[Job], frames: int, slots: int) -> None:
    rule = jobs[0].cascade.rules.of("semantic", frames)
    with jobs[0].clock("semantic"):
        for _ in run(rule, works, slots):
            pass
    share_time("semantic", jobs, [sum(map(len, job.pieces)) for job in jobs])


def utter_all(drafts: Iterable[Draft], slots: int) -> Iterator[Utterance]:
    """Coarse, fine and codec, of one draft after another; they are asked for a lot at a time."""
    for lot in lots(drafts, slots):
        for draft, (coarse, shift) in zip(lot, _coarse(lot, slots), strict=True):
            yield _finish(draft, coarse, shift)


def _coarse(drafts: Sequence[Draft], slots: int) -> list[tuple[NDArray[np.uint16], NDArray[np.float32] | None]]:
    """Coarse codes of each draft: its own, or those that the stage makes; and their shift, as in `CoarseWork`."""
    rest = [draft for draft in drafts if draft.coarse is None]
    works = []
    for draft in rest:
        works.append(draft.job.coarse_work(draft.voice, draft.made))
        works[-1].semantic, works[-1].ended = draft.semantic, True
    if rest:
        jobs = [draft.job for draft in rest]
        rule = jobs[0].cascade.rules.of("coarse", sum(len(draft.semantic) for draft in rest))
        make_coarse(jobs, works, rule, slots)
        share_time("coarse", jobs, [work.made.shape[1] for work in works])
    made = ((work.made, work.shift) for work in works)
    return [next(made) if draft.coarse is None else (draft.coarse, None) for draft in drafts]


def _finish(draft: Draft, coarse: NDArray[np.uint16], shift: NDArray[np.float32] | None) -> Utterance:
    """Fine and codec; a continuation gets its recording before it."""
    job, before, made = draft.job, draft.before, draft.made
    semantic, codes = draft.semantic, job.fill(coarse, draft.voice, made)
    if before is not None and made is not None:
        grid = job.cascade.grid
        new = made.shape[1] // grid.acoustic_per_beat * grid.semantic_per_beat
        semantic = np.concatenate([before.semantic, semantic[new:]])
        codes = np.concatenate([before.codes[: len(codes)], codes[:, made.shape[1] :]], axis=1)
        if shift is not None:
            none = np.zeros((len(shift), before.codes.shape[1]), np.float32)
            shift = np.concatenate([none, shift[:, made.shape[1] :]], axis=1)
    return job.decode(semantic, codes, draft.text, shift)
