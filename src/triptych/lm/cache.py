"""The key-value cache: what attention has seen, kept so that each new id costs one step.

    capacity  |----------------------------------|     preallocated once, never grows
    filled    |===============|                        attention reads this prefix and nothing more

Invariant: all rows are filled equally far. Knows neither ids nor layers' weights.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from triptych.lm.transformer import TransformerConfig


Layers = list[tuple[Tensor, Tensor]]
"""keys and values of each layer, [B, kv_heads, capacity, head_dim] both"""


class Cache:
    """Keys and values of every layer."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.filled = 0
        """steps written; the position on the sequence axis where the next one goes"""
        self.positions = torch.zeros(self.batch, self.capacity, device=self.device)
        """[B, capacity] positions of the keys; written only for ALiBi"""
        self.addresses = layers[0][0].data_ptr(), layers[0][1].data_ptr()
        """of all layers, one behind the other, where `make` made them"""

    @classmethod
    def make(
        cls,
        config: "TransformerConfig",
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "Cache":
        """An empty cache for `capacity` steps of `batch` rows."""
        shape = (config.layers, batch, config.num_kv_heads, capacity, config.head_size)
        keys, values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(list(zip(keys.unbind(0), values.unbind(0), strict=True)))

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def capacity(self) -> int:
        return self.layers[0][0].shape[2]

    @property
    def device(self) -> torch.device:
        return self.layers[0][0].device

    def reserve(self, steps: int) -> None:
        """Makes sure that `steps` more fit.

        Raises:
            ValueError: they do not.
        """
        if self.filled + steps > self.capacity:
            raise ValueError(
                f"the key-value cache has {self.capacity} steps, {self.filled} taken: {steps} more do not fit: "
                "make it with a larger capacity"
            )

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one layer's new steps [B, kv_heads, S, head_dim]; returns all so far [B, kv_heads, filled + S, …]."""
        all_keys, all_values = self.layers[layer]
        steps = keys.shape[2]
        all_keys.narrow(2, self.filled, steps).copy_(keys)
        all_values.narrow(2, self.filled, steps).copy_(values)
        length = self.filled + steps
        return all_keys.narrow(2, 0, length), all_values.narrow(2, 0, length)

    def advance(self, steps: int) -> None:
        """Counts the steps that every layer has written."""
        self.filled += steps

    def take_over(self, other: "Cache") -> None:
        """Begins with what `other` has seen; the next steps of the two are their own."""
        self.filled, seen = 0, slice(0, other.filled)
        self.reserve(other.filled)
        for (keys, values), (other_keys, other_values) in zip(self.layers, other.layers, strict=True):
            keys[:, :, seen] = other_keys[:, :, seen]
            values[:, :, seen] = other_values[:, :, seen]
        self.positions[:, seen] = other.positions[:, seen]
        self.filled = other.filled

    def mask(self, steps: int) -> Tensor | None:
        """Which keys the next queries may read: bool [1, 1, steps, filled + steps], or None: all, causally.

        None is returned when plain causal attention (or a single query that reads everything) says the same.
        """
        if steps == 1 or self.filled == 0:
            return None
        length = self.filled + steps
        return torch.ones(steps, length, dtype=torch.bool, device=self.device).tril(self.filled)[None, None]
