"""Caches for a step that is compiled: requests side by side in buffers of fixed sizes, their lengths in a tensor.

    length 256     |=====....|  request 0      one step writes a token into every row, where its last one ended, and
                   |==.......|  request 1      attends to the filled part of each; a row that stands still, or holds
                   |.........|  free           no request, writes where its next token will lie anyway

Buffers are 256 · 2^k positions long and 2^n rows wide, and stay where they are; each (length, width) has one step that
is compiled once. Invariant: all requests of a length lie in one buffer, the narrowest that held them all since it was
empty. Knows no ids and no engine.
"""

import weakref
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TypeVar

import torch
from torch import Tensor, nn

from triptych.lm.cache import Cache, Layers
from triptych.lm.transformer import Transformer

SHORTEST = 256
"""positions"""

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x [W, D], positions [W] and places int64 [W] to hidden states [W, D]"""
F = TypeVar("F", bound=Callable[..., object])


def bucket(capacity: int) -> int:
    """Positions of the shortest buffer with room for `capacity`."""
    return max(SHORTEST, 1 << (capacity - 1).bit_length())


class Held(nn.Module):
    """Keys and values of one layer, [W, kv_heads, length, head_dim] each; buffers, so that a CUDA graph may write them
    where they are."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        super().__init__()
        for name in ("keys", "values"):  # zeros: what is masked must still be a number
            self.register_buffer(name, torch.zeros(shape, dtype=like.dtype, device=like.device), persistent=False)
        self.keys: Tensor
        self.values: Tensor


class Inside(Cache):
    """The cache as the layers see it within one step: `places` [W] says where each row writes."""

    def __init__(self, layers: Layers, places: Tensor) -> None:
        self.layers, self.places, self.filled = layers, places, 0

    def reserve(self, steps: int) -> None:
        pass

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one token a row; returns the whole buffer."""
        all_keys, all_values = self.layers[layer]
        rows = torch.arange(len(self.places), device=self.places.device)
        all_keys[rows, :, self.places] = keys[:, :, 0]
        all_values[rows, :, self.places] = values[:, :, 0]
        return all_keys, all_values


class Buffer:
    """W rows of one length, and the step that goes through all of them."""

    def __init__(self, transformer: Transformer, length: int, width: int, compiler: Callable[[Step], Step]) -> None:
        shape, like = transformer.config, transformer.norm.weight
        size = (width, shape.num_kv_heads, length, shape.head_size)
        with torch.inference_mode(False):  # they outlive the request that made them
            self.held = nn.ModuleList(Held(size, like) for _ in range(shape.layers))
        self.length, self.width, self.device = length, width, like.device
        self.rows: list[weakref.ref[Place] | None] = [None] * width
        self.step = compiler(_own_code(self._step_of(transformer)))

    def _step_of(self, transformer: Transformer) -> Step:
        held, length = self.held, self.length

        def step(x: Tensor, positions: Tensor, places: Tensor) -> Tensor:
            cache = Inside([(layer.keys, layer.values) for layer in held], places)  # type: ignore[misc]
            seen = torch.arange(length, device=x.device) <= places[:, None]
            out = transformer(x[:, None], positions=positions[:, None], mask=seen[:, None], cache=cache)
            return out[:, 0]  # type: ignore[no-any-return]

        return step

    def places(self) -> list["Place | None"]:
        """The request of each row; None where it is free."""
        return [row() if row else None for row in self.rows]

    def read(self, x: Tensor, positions: Tensor, caches: Sequence["Place"]) -> Tensor:
        """Hidden states [n, D] of one more token [n, D] of each of `caches`."""
        for cache in caches:
            cache.reserve(1)
        rows = torch.tensor([cache.row for cache in caches], device=self.device)
        ends = [min(place.filled, self.length - 1) if place else 0 for place in self.places()]
        whole = x.new_zeros(self.width, x.shape[1]).index_copy_(0, rows, x)
        steps = positions.new_zeros(self.width).index_copy_(0, rows, positions)
        out = self.step(whole, steps, torch.tensor(ends, device=self.device)).index_select(0, rows)
        for cache in caches:
            cache.advance(1)
        return out


class Shelf:
    """The buffers of one length, twice as wide each, of which one is in use."""

    def __init__(self, transformer: Transformer, length: int, compiler: Callable[[Step], Step]) -> None:
        self.make: Callable[[int], Buffer] = lambda width: Buffer(transformer, length, width, compiler)
        self.buffers = [self.make(1)]
        self.used = 0

    def admit(self, place: "Place") -> None:
        """Finds a row; where none is free, all requests move to a wider buffer."""
        lying = self.buffers[self.used].places()
        if not any(lying):
            self.used, lying = 0, self.buffers[0].places()
        elif all(lying):
            self.used += 1
            if self.used == len(self.buffers):
                self.buffers.append(self.make(2 * len(lying)))
            for row, other in enumerate(lying):
                assert other is not None
                other.lie(self.buffers[self.used], row)
            lying = self.buffers[self.used].places()
        place.lie(self.buffers[self.used], lying.index(None))


class Place(Cache):
    """The cache of one request: a row of a buffer, for as long as somebody holds it."""

    def __init__(self, shelf: Shelf) -> None:
        self.buffer: Buffer | None = None
        self.row = 0
        shelf.admit(self)
        super().__init__(self.layers)

    def lie(self, buffer: Buffer, row: int) -> None:
        """Takes a row, and what was read so far along."""
        before = self.layers if self.buffer else []
        if self.buffer:
            self.buffer.rows[self.row] = None
        self.buffer, self.row = buffer, row
        part = slice(row, row + 1)
        self.layers = [(layer.keys[part], layer.values[part]) for layer in buffer.held]  # type: ignore[index]
        buffer.rows[row] = weakref.ref(self)
        for (keys, values), (old_keys, old_values) in zip(self.layers, before, strict=False):
            keys.copy_(old_keys), values.copy_(old_values)


def _own_code(function: F) -> F:
    """The same function with a code object of its own, by which torch.compile counts, and limits, compilations."""
    assert isinstance(function, FunctionType)
    made = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )
    return made  # type: ignore[return-value]
