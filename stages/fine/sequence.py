"""The grid of the fine stage: it fills one level at a time, all frames at once.

    frame        0   1   2   3   4   5   6   7
    level 0      v   v   v   c   c   c   c   c       c: known, summed at each frame
    level 1      v   v   v   c   c   c   c   c
    level 2      v   v   v   ?   ?   ?   ?   ?       ?: asked for; the loss lies here
    level 3      v   v   v                           v: the voice prompt, known at all levels and flagged

A non-causal transformer sees the whole span. A row asks for one random level; the lower half of them twice as often.
Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic.dataclasses import dataclass as config_dataclass
from torch import nn

from triptych.lm.packing import Packed
from triptych.lm.transformer import TransformerConfig
from triptych.stages.span import PromptConfig, Span, draw_span
from triptych.stages.speech import Speech, fit_length
from triptych.stages.stage import Batch, Specs, learned_positions
from triptych.training.config import STRICT


@config_dataclass(frozen=True, config=STRICT)
class FineConfig:
    """The fine stage: its model, and how its rows are drawn."""

    coarse_levels: int = 2
    """levels that are given, the first ones"""
    transformer: TransformerConfig = TransformerConfig(dim=768, layers=12, heads=12, causal=False)
    """the transformer over frames; not causal"""
    prompt: PromptConfig = PromptConfig()
    """the voice prompt, and the length of a row"""


@dataclass(frozen=True)
class Row:
    """A span, and the level that is asked for."""

    span: Span
    level: int


@dataclass(frozen=True)
class FineStage:
    """Coarse codes to the remaining levels."""

    name: ClassVar[str] = "fine"
    conditions: ClassVar[tuple[str, ...]] = ("coarse", "prompt")
    config: FineConfig
    specs: Specs

    def __post_init__(self) -> None:
        if not 0 < self.config.coarse_levels < self.specs.acoustic.levels:
            raise ValueError(
                f"coarse_levels={self.config.coarse_levels}: with {self.specs.acoustic.levels} levels of the codec, "
                f"1 to {self.specs.acoustic.levels - 1} can be given"
            )
        if self.config.transformer.causal:
            raise ValueError("the fine stage sees both sides: set stage.transformer.causal=false")

    def measured(self, speech: Speech) -> "FineStage":
        return self

    def model(self) -> nn.Module:
        from triptych.stages.fine.model import FineModel

        return FineModel(self.config, self.specs)

    def semantic_rows(self) -> dict[str, int]:
        return {}

    def usable(self, speech: Speech) -> list[int]:
        return [index for index in speech.indices if speech.beats(index)]

    def length(self, speech: Speech, index: int) -> int:
        return self.config.prompt.expected_beats(speech, index) * speech.grid.acoustic_per_beat

    def row(self, speech: Speech, index: int, rng: np.random.Generator, given: str | None = None) -> Row:
        """See `Stage.row`."""
        levels, known = self.specs.acoustic.levels, self.config.coarse_levels
        asked = np.arange(known, levels)
        weights = np.where(asked < (known + levels) / 2, 2.0, 1.0)
        level = int(rng.choice(asked, p=weights / weights.sum()))
        span = draw_span(
            speech, index, rng, levels, self.config.prompt, "prompt" if given == "prompt" else given and "own"
        )
        if given == "coarse":
            codes = span.codes.copy()
            other = speech.clip(speech.stranger(index)).codes
            codes[:level, span.prompt :] = fit_length(other, codes.shape[1] - span.prompt)[:level]
            span = Span(span.semantic, codes, span.prompt)
        return Row(span, level)

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Of all rows: codes int64 [Q, T'], prompted bool [T'], level int64 [T']; learned_q int64 [M]: frames that
        learn level q."""
        packed = Packed.of([row.span.codes.shape[1] for row in rows])
        level = torch.tensor([row.level for row in rows]).repeat_interleave(torch.tensor(packed.lengths))
        learned = learned_positions(packed, [row.span.prompt for row in rows])
        prompted = torch.ones(packed.positions, dtype=torch.bool)
        prompted[learned] = False
        codes = np.concatenate([row.span.codes for row in rows], axis=1).astype(np.int64)
        tensors = {"codes": torch.from_numpy(codes), "prompted": prompted, "level": level}
        asked = range(self.config.coarse_levels, self.specs.acoustic.levels)
        return Batch(tensors | {f"learned_{q}": learned[level[learned] == q] for q in asked}, {"rows": packed})
