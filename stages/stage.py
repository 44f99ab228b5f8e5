"""What a stage is: three stages are one idea, used three times.

    what is given      condition: text, semantic tokens, coarse codes, and the user's prompt
    what is learned    target
    where the loss lies, and which ids are legal there

A stage is a small frozen record that satisfies `Stage`. It draws training rows as inference builds them, and makes its
model; the training loop and the cascade know no more of it than this. Knows no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from triptych.corpus.shards import ShardSet
from triptych.lm.packing import Packed
from triptych.stages.speech import Speech
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec


@dataclass(frozen=True)
class Specs:
    """The tokenizers whose tokens a stage reads and writes; saved with every checkpoint."""

    semantic: TokenizerSpec
    acoustic: TokenizerSpec
    text: TokenizerSpec | None = None

    @property
    def grid(self) -> TimeGrid:
        return TimeGrid.of(self.semantic, self.acoustic)

    def to_json(self) -> dict[str, Any]:
        return {
            "semantic": self.semantic.to_json(),
            "acoustic": self.acoustic.to_json(),
            "text": self.text.to_json() if self.text else None,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Specs":
        text = record["text"]
        return cls(
            TokenizerSpec(**record["semantic"]),
            TokenizerSpec(**record["acoustic"]),
            TokenizerSpec(**text) if text else None,
        )


@dataclass(frozen=True)
class Batch:
    """A micro-batch: rows side by side on one axis. Its tensors' meaning is drawn in the stage's own sequence.py."""

    tensors: dict[str, Tensor]
    packed: dict[str, Packed]
    """where each row lies on each axis"""
    clips: tuple[int, ...] = ()
    """the recordings that the rows learn, as rows of `shards`"""
    shards: ShardSet | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def names(self) -> list[str]:
        """Of the recordings. Read from disk: for the one batch that somebody asks for."""
        return [self.shards.row(clip).id for clip in self.clips] if self.shards else []

    def of(self, clips: Sequence[int], shards: ShardSet) -> "Batch":
        return replace(self, clips=tuple(clips), shards=shards)

    def to(self, device: Any) -> "Batch":
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, packed={name: rows.to(device) for name, rows in self.packed.items()})


@dataclass(frozen=True)
class Prediction:
    """What a model expects at the places of a batch where it learns, of one level."""

    rows: Packed
    """where each row lies"""
    at: Tensor
    """int64 [M]: positions on the axis of `rows`"""
    logits: Tensor
    """[M, V]"""
    targets: Tensor
    """int64 [M]: the true ids"""
    level: Tensor
    """int64 [M], or one number for all: of the codec; 0 for semantic tokens"""
    legal: Tensor | None = None
    """bool [V] or [M, V]: what may stand there; None: every id"""


class Stage(Protocol):
    """Tokens to tokens."""

    name: ClassVar[str]
    """semantic, coarse or fine"""
    conditions: ClassVar[tuple[str, ...]]
    """what validation swaps for another clip's, to see whether the stage uses it"""

    @property
    def specs(self) -> Specs: ...

    def measured(self, speech: Speech) -> "Stage":
        """This stage, with what it measures of its training clips filled in; most measure nothing."""

    def model(self) -> nn.Module:
        """A new model with random weights and a `loss(batch)`."""

    def usable(self, speech: Speech) -> list[int]:
        """Rows of the shards from which this stage can learn."""

    def semantic_rows(self) -> dict[str, int]:
        """Names of the tensors that have a row for each semantic token, and the first of these rows."""

    def length(self, speech: Speech, index: int) -> int:
        """Positions that the row of clip `index` takes, about: batches are planned by it."""

    def row(self, speech: Speech, index: int, rng: np.random.Generator, given: str | None = None) -> Any:
        """One row of clip `index`.

        given: None draws as training does: with or without text and prompt. "own" always has the clip's own conditions;
            a name out of `conditions` likewise, but takes that one from another clip.
        """

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows, side by side, as tensors."""


def learned_positions(rows: Packed, first: Sequence[int]) -> Tensor:
    """int64 [M]: the positions of packed rows from `first` on, counted in each row: those with a loss."""
    starts = zip(rows.edges.tolist()[:-1], rows.lengths, first, strict=True)
    return torch.cat([torch.arange(edge + begin, edge + length) for edge, length, begin in starts])


def padding_share(rows: Packed, hidden: Tensor) -> float:
    """Share, 0..1, of the positions of hidden states [1, N, D] that belong to no row."""
    return 1.0 - sum(rows.lengths) / hidden.shape[1]
