"""Several takes of the coarse stage, window by window, of which the cascade's own ear keeps one.

    tokens asked for ──coarse stage──▶ take 0 ──codec──▶ sound ──semantic tokenizer──▶ tokens heard
                          └ side by side ▶ take 1 ──…          the take with fewest edits between the two is kept

What was asked for is known, and whether it came out can be heard: a take that swallows a sound has other tokens. The
edits are counted between runs, since how long a sound is held is not what goes wrong. Take 0 is what would be made
without takes; a tie goes to the earlier one. Knows no text and no recogniser.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from triptych.lm.decode import run
from triptych.stages.coarse.generate import CoarseWork
from triptych.stages.three import STAGES
from triptych.tokenizers.semantic.ctc import edits_a_run

if TYPE_CHECKING:
    from triptych.stages.request import Request


def make_coarse(jobs: "Sequence[Request]", works: Sequence[CoarseWork], rule: Any, slots: int) -> None:
    """Makes what can be made of the semantic tokens of each work, a request each, up to `slots` rows at a time; the
    takes of one window are always side by side. The stage's time is on the clock of the first, the ear's on each one's.
    """
    single = [work for job, work in zip(jobs, works, strict=True) if job.settings.takes == 1]
    with jobs[0].clock("coarse"):
        for _ in run(rule, [work.job(rule) for work in single], slots):
            pass
    open_ = [pair for pair in zip(jobs, works, strict=True) if pair[0].settings.takes > 1]
    while open_:
        tried = [(job, work, [replace(work, generator=stream) for stream in streams(job)]) for job, work in open_]
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


def streams(job: "Request") -> list[torch.Generator]:
    """The random streams of the coarse stage, one a take; the first is the request's own."""
    if not job.takes:
        place = list(STAGES).index("coarse")
        seeds = ((job.settings.seed + 1_000_003 * take) * len(STAGES) + place for take in range(1, job.settings.takes))
        job.takes = [job.streams["coarse"], *(torch.Generator().manual_seed(seed) for seed in seeds)]
    return job.takes


def edits(job: "Request", before: CoarseWork, take: CoarseWork) -> float:
    """Edits, a run of tokens that was asked for, between those and what is heard of the window that `take` added."""
    grid, tokenizers = job.cascade.grid, job.cascade.tokenizers
    first, last = (work.made.shape[1] // grid.acoustic_per_beat * grid.semantic_per_beat for work in (before, take))
    known = before.made.shape[1]
    sound = tokenizers.acoustic.decode(take.made[:, known:], None if take.shift is None else take.shift[:, known:])
    (heard,) = tokenizers.semantic.encode([sound], job.cascade.sample_rate)
    return edits_a_run(heard, take.semantic[first:last])
