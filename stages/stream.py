"""Speech that sounds while the rest is being made: the windows of `speak`, each as soon as what it needs is there.

    semantic   s s s s s s s s s s s s s s │ s s …         one step at a time, until a coarse window is full
    coarse     [====window 0====]          │ [=window 1 …
    fine       [====window 0====]          │
    codec      ▶ sound                     │ ▶ sound       a little of what came before is decoded again, and left out

Invariant: the tokens are those of `Cascade.speak`, whose windows lie in the same places; memory is that of a window,
of the tokens themselves and, where levels are expected, of a latent a frame. Knows no bundle.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.lm.decode import run
from triptych.stages.bundle import Voice
from triptych.stages.request import Request
from triptych.stages.takes import make_coarse
from triptych.tokenizers.waveform import Waveform


def stream(job: Request, pieces: Sequence[NDArray[np.uint16]], voice: Voice) -> Iterator[Waveform]:
    """Waveforms [n], one after another, of pieces of text."""
    cascade = job.cascade
    frames = sum(job.longest_frames(len(piece)) for piece in pieces) // 2
    steps = run(cascade.rules.of("semantic", frames), [job.say(pieces, voice)])
    coarse, fine, decoded = job.coarse_work(voice), job.fine_work(voice), 0
    rule = cascade.rules.of("coarse", frames)
    while not coarse.done:
        if not coarse.ended:
            with job.clock("semantic"):
                coarse.ended = _until_enough(job, steps, cascade.grid.beats(0.5) * cascade.grid.semantic_per_beat)
            coarse.semantic = job.said(ended=coarse.ended)
        make_coarse([job], [coarse], rule, 1, windows=1)
        with job.clock("fine"):
            fine.go_on(coarse.made[: fine.stage.config.coarse_levels], coarse.done)
        with job.clock("codec"):
            piece, decoded = _sound(job, fine.made[: job.levels], coarse.shift, decoded, coarse.done)
        if len(piece):
            yield piece


def _until_enough(job: Request, steps: Iterator[None], frames: int) -> bool:
    """Decodes semantic tokens, about `frames` more; whether all have come."""
    return all(taken < frames for taken, _ in enumerate(steps))


def _sound(
    job: Request, codes: NDArray[np.uint16], shift: NDArray[np.float32] | None, decoded: int, ended: bool
) -> tuple[Waveform, int]:
    """The waveform of codes [Q, T'] from frame `decoded` on, and the frame that it reaches; see `Request.decode`."""
    codec = job.cascade.tokenizers.acoustic
    stop = codes.shape[1]
    if not ended:
        stop -= codec.ahead
    if stop <= decoded:
        return np.zeros(0, np.float32), decoded
    return codec.decode_span(codes, decoded, stop, shift), stop
