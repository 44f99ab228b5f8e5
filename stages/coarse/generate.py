"""Coarse codes from semantic tokens, in the voice of a prompt. Knows no audio."""

import numpy as np
import torch

from triptych.lm.decode import generate
from triptych.lm.sampling import Sampling, choose
from triptych.stages.coarse.model import AlignedModel, FlattenedModel
from triptych.stages.coarse.sequence import CoarseStage
from triptych.stages.span import Span
from triptych.stages.speech import Tokens
from triptych.stages.windows import windows

TAIL_SECONDS = 2.0
"""of what is made already, heard again by the next window"""


@torch.inference_mode()
def generate_coarse(
    stage: CoarseStage,
    model: AlignedModel | FlattenedModel,
    semantic: Tokens,
    prompt: Span,
    sampling: Sampling,
    generator: torch.Generator,
    made: Tokens | None = None,
) -> Tokens:
    """Codes [levels, T'] of semantic tokens [T], T whole beats; windows where they are longer than a training row.

    Args:
        prompt: the voice: its semantic tokens and codes; may be empty.
        made: codes [Q, n] of the first frames, where these exist already; the result begins with them.
    """
    grid, levels = stage.specs.grid, stage.config.levels
    s, a = grid.semantic_per_beat, grid.acoustic_per_beat
    longest = grid.beats(stage.config.prompt.max_seconds) - len(prompt.semantic) // s
    made = np.zeros((levels, 0), np.uint16) if made is None else made[:levels]
    tail_beats = min(grid.beats(TAIL_SECONDS), longest // 2)
    for window in windows(len(semantic) // s, longest, tail_beats, made.shape[1] // a):
        tail = made[:, window.context * a : window.start * a]
        known = np.concatenate([prompt.codes[:levels], tail], axis=1)
        heard = np.concatenate([prompt.semantic, semantic[window.context * s : window.stop * s]])
        span = Span(heard, known, prompt.codes.shape[1])
        new = (window.stop - window.start) * a
        if isinstance(model, AlignedModel):
            codes = _aligned(model, span, new, sampling, generator)
        else:
            codes = _flattened(model, span, new, sampling, generator)
        made = np.concatenate([made, codes], axis=1)
    return made


def _aligned(model: AlignedModel, span: Span, new: int, sampling: Sampling, generator: torch.Generator) -> Tokens:
    """`new` frames after those of `span`, whose semantic tokens cover both."""
    device = model.start.device
    known = span.codes.shape[1]
    condition = model.encode(torch.from_numpy(span.semantic.astype(np.int64))[None].to(device))
    prompted = (torch.arange(known + new, device=device) < span.prompt).long()[None]
    legal = torch.ones(model.size, dtype=torch.bool, device=device)
    cache = model.cache(known + new)
    codes = torch.zeros(model.levels, known + new, dtype=torch.long, device=device)
    codes[:, :known] = torch.from_numpy(span.codes.astype(np.int64))
    start = model.start.expand(1, 1, -1)
    before = torch.cat([start, model.embed(codes[None, :, :known])], dim=1)
    hidden = model.step(before, condition[:, : known + 1], prompted[:, : known + 1], cache=cache)[:, -1]
    for frame in range(known, known + new):
        for q in range(model.levels):
            logits = model.logits(q, hidden, codes[:, frame : frame + 1])
            codes[q, frame] = choose(logits, legal, sampling, generator)[0]
        if frame + 1 < known + new:
            at = slice(frame + 1, frame + 2)
            before = model.embed(codes[None, :, frame : frame + 1])
            hidden = model.step(before, condition[:, at], prompted[:, at], cache=cache)[:, -1]
    return codes[:, known:].cpu().numpy().astype(np.uint16)


def _flattened(model: FlattenedModel, span: Span, new: int, sampling: Sampling, generator: torch.Generator) -> Tokens:
    flat = model.flattening
    given, positions = flat.prefix(span.semantic)
    known = flat.flatten(span.codes)
    after = [flat.position_of(j) for j in range(len(known))]
    ids = generate(
        model.language_model,
        torch.from_numpy(np.concatenate([given, known])),
        legal=flat.legal(),
        eos_id=None,
        max_new=new * flat.levels,
        sampling=sampling,
        generator=generator,
        positions=torch.from_numpy(np.concatenate([positions, np.array(after, dtype=np.float32)])),
        position_of=lambda i: flat.position_of(len(known) + i),
    )
    return flat.unflatten(np.array(ids, dtype=np.int64))
