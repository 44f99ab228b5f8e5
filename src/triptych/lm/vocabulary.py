"""Named blocks of ids: every offset of a language model's vocabulary is computed here and nowhere else.

    block    bos  sep  eos  text ........  semantic .............
    id        0    1    2    3 4 5 ... 41   42 43 44 ......... 541      V = 542
    token     0    0    0    0 1 2 ... 38    0  1  2 ......... 499

Invariant: blocks are disjoint, lie in the order in which they were given, and cover 0..V-1. A special id is a block
of size 1, so it never shares a row with anything. Knows not what the blocks mean.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = TypeVar("Numbers", NDArray[Any], Tensor)


@dataclass(frozen=True)
class Block:
    """A named range of ids."""

    name: str
    size: int
    """ids in the block, at least 1"""


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one language model.

    Raises:
        ValueError: two blocks of one name, or an empty block.
    """

    blocks: tuple[Block, ...]
    """in the order of their ids; fixed in code and saved with the checkpoint"""

    def __post_init__(self) -> None:
        names = [block.name for block in self.blocks]
        for block in self.blocks:
            if names.count(block.name) > 1:
                raise ValueError(f"vocabulary: block '{block.name}' is named twice: give each block its own name")
            if block.size < 1:
                raise ValueError(f"vocabulary: block '{block.name}' has size {block.size}: it needs at least one id")

    @cached_property
    def _starts(self) -> dict[str, int]:
        starts, total = {}, 0
        for block in self.blocks:
            starts[block.name] = total
            total += block.size
        return starts

    @cached_property
    def _named(self) -> dict[str, Block]:
        return {block.name: block for block in self.blocks}

    @property
    def size(self) -> int:
        """V, all ids."""
        return sum(block.size for block in self.blocks)

    def block(self, name: str) -> Block:
        return self._named[name]

    def start(self, name: str) -> int:
        """The id of token 0 of a block."""
        return self._starts[name]

    def id(self, name: str) -> int:
        """The only id of a block of size 1 (a special: bos, sep, eos)."""
        assert self.block(name).size == 1, f"block '{name}' has {self.block(name).size} ids, not one"
        return self.start(name)

    def ids(self, name: str, tokens: Numbers) -> Numbers:
        """Ids of a block's tokens, any shape, int64, of the same kind (array or tensor)."""
        block = self.block(name)
        _check_range(tokens, 0, block.size, f"tokens of block '{name}'")
        return _as_int64(tokens) + self.start(name)

    def tokens(self, name: str, ids: Numbers) -> Numbers:
        """Undoes `ids`: tokens 0..size-1 of a block, int64."""
        start = self.start(name)
        _check_range(ids, start, start + self.block(name).size, f"ids of block '{name}'")
        return _as_int64(ids) - start

    def legal(self, *names: str) -> Tensor:
        """Bool [V]: True at the ids of the named blocks."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        for name in names:
            start = self.start(name)
            mask[start : start + self.block(name).size] = True
        return mask

    def to_json(self) -> dict[str, Any]:
        return {"blocks": [asdict(block) for block in self.blocks]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Vocabulary":
        """Undoes `to_json`.

        Raises:
            ValueError: see the class.
        """
        return cls(tuple(Block(str(block["name"]), int(block["size"])) for block in tree["blocks"]))


def _as_int64(values: Numbers) -> Numbers:
    return values.long() if isinstance(values, Tensor) else values.astype(np.int64)


def _check_range(values: NDArray[Any] | Tensor, low: int, high: int, what: str) -> None:
    """Asserts low <= values < high, unless reading them would make an accelerator wait."""
    if isinstance(values, Tensor):
        if values.is_cuda or not values.numel():
            return
        values = values.numpy()
    if values.size:
        assert low <= values.min() and values.max() < high, f"{what} must lie in [{low}, {high})"
