"""Fine codes from coarse ones: a pass a level, all frames of a window at once. Knows no audio."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from triptych.lm.sampling import Sampling, choose
from triptych.stages.fine.model import FineModel
from triptych.stages.fine.sequence import FineStage
from triptych.stages.span import Span
from triptych.stages.speech import Tokens
from triptych.stages.windows import Schedule

TAIL_SECONDS = 0.5
"""of the window before, seen again for context"""


@dataclass
class FineWork:
    """Codes in the making: of a request, window by window."""

    stage: FineStage
    model: FineModel
    prompt: Span
    """the voice, with all Q levels; may be empty"""
    sampling: Sampling
    generator: torch.Generator
    made: Tokens
    """[Q, n] so far"""
    levels: int
    """to make, at least the coarse ones"""
    first_seconds: float = 0.0
    """of the first window; 0: the longest"""
    number: int = 0
    """windows made"""

    @torch.inference_mode()
    def go_on(self, coarse: Tokens, ended: bool) -> None:
        """Makes what can be made of coarse codes [coarse_levels, T'], all so far; `ended`: they are all there is."""
        grid, full, given = self.stage.specs.grid, self.stage.specs.acoustic.levels, self.prompt.codes.shape[1]
        a = grid.acoustic_per_beat
        longest = grid.beats(self.stage.config.prompt.max_seconds) - given // a
        schedule = Schedule.of(grid, longest, TAIL_SECONDS, self.first_seconds)
        while (window := schedule.next(self.number, self.made.shape[1] // a, coarse.shape[1] // a, ended)) is not None:
            codes = np.zeros((full, (window.stop - window.context) * a), np.uint16)
            codes[: len(coarse)] = coarse[:, window.context * a : window.stop * a]
            known = np.concatenate([self.prompt.codes, codes], axis=1)
            half = next(_matrices(self.model)).weight.dtype == torch.bfloat16
            with torch.autocast(self.model.flag.weight.device.type, torch.bfloat16, enabled=half):
                filled = _fill(self.model, known, given, self.levels, self.sampling, self.generator)
            new = filled[:, given + (window.start - window.context) * a :]
            self.made, self.number = np.concatenate([self.made, new], axis=1), self.number + 1


def with_half_products(model: FineModel) -> FineModel:
    """A copy whose matrix products are in bfloat16; sums, norms and embeddings stay as they are."""
    half = copy.deepcopy(model)
    for matrix in _matrices(half):
        matrix.weight.data = matrix.weight.data.to(torch.bfloat16)
    return half


def _matrices(model: FineModel) -> Iterator[nn.Linear]:
    return (part for part in model.modules() if isinstance(part, nn.Linear))


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
    full = stage.specs.acoustic.levels
    wanted = full if levels is None else levels
    before = np.zeros((full, 0), np.uint16) if made is None else made
    work = FineWork(stage, model, prompt, sampling, generator, before, wanted)
    work.go_on(coarse, ended=True)
    return work.made[:wanted]


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
