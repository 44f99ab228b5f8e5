"""Fine codes from coarse ones: a pass a level, all frames of a window at once. Knows no audio."""

import numpy as np
import torch

from triptych.lm.sampling import Sampling, choose
from triptych.stages.fine.model import FineModel
from triptych.stages.fine.sequence import FineStage
from triptych.stages.span import Span
from triptych.stages.speech import Tokens
from triptych.stages.windows import windows

TAIL_SECONDS = 0.5
"""of the window before, seen again for context"""


@torch.inference_mode()
def generate_fine(
    stage: FineStage,
    model: FineModel,
    coarse: Tokens,
    prompt: Span,
    sampling: Sampling,
    generator: torch.Generator,
    made: Tokens | None = None,
    levels: int | None = None,
) -> Tokens:
    """Codes [levels, T'] whose first levels are `coarse` [coarse_levels, T'], T' whole beats.

    Args:
        prompt: the voice, with all Q levels; may be empty.
        made: codes [Q, n] of the first frames, where these exist already; the result begins with them.
        levels: to make, at least the coarse ones; None: all Q.
    """
    grid, full = stage.specs.grid, stage.specs.acoustic.levels
    wanted = full if levels is None else levels
    a = grid.acoustic_per_beat
    longest = grid.beats(stage.config.prompt.max_seconds) - prompt.codes.shape[1] // a
    made = np.zeros((full, 0), np.uint16) if made is None else made
    tail_beats = min(grid.beats(TAIL_SECONDS), longest // 2)
    for window in windows(coarse.shape[1] // a, longest, tail_beats, made.shape[1] // a):
        codes = np.zeros((full, (window.stop - window.context) * a), np.uint16)
        codes[: len(coarse)] = coarse[:, window.context * a : window.stop * a]
        known = np.concatenate([prompt.codes, codes], axis=1)
        filled = _fill(model, known, prompt.codes.shape[1], wanted, sampling, generator)
        made = np.concatenate([made, filled[:, prompt.codes.shape[1] + (window.start - window.context) * a :]], axis=1)
    return made[:wanted]


def _fill(
    model: FineModel, codes: Tokens, prompt: int, levels: int, sampling: Sampling, generator: torch.Generator
) -> Tokens:
    """`codes` [Q, n] with the frames after `prompt` filled up to `levels`; the levels above stay as they are."""
    device = model.flag.weight.device
    grid = torch.from_numpy(codes.astype(np.int64))[None].to(device)
    prompted = (torch.arange(grid.shape[2], device=device) < prompt)[None]
    for q in range(model.coarse_levels, levels):
        hidden = model.hidden(grid, torch.tensor([[q]], device=device), prompted)[0, prompt:]
        logits = model.logits(q, hidden)
        legal = torch.ones(logits.shape[-1], dtype=torch.bool, device=device)
        grid[0, q, prompt:] = choose(logits, legal, sampling, generator)
    return grid[0].cpu().numpy().astype(np.uint16)
