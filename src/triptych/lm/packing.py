"""Rows of different lengths on one axis, so that no position is padding.

    rows     a a a | b b b b b | c c          lengths (3, 5, 2)
    steps    0 1 2 | 0 1 2 3 4 | 0 1          where each position lies in its own row
    edges    0       3           8     10

Everything but attention works position by position and never sees the edges; attention stays inside each row. Knows
neither what a position stands for nor how rows were chosen.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.lm.blockwise import attend

try:  # torch 2.10 and newer; one kernel for all rows, on CUDA in half precision
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Packed:
    """Where each row lies on an axis of N positions."""

    lengths: tuple[int, ...]
    """of each row, at least 1"""
    steps: Tensor
    """int64 [N]: counted from 0 in each row"""
    edges: Tensor
    """int32 [rows + 1]: row i is [edges[i], edges[i + 1])"""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Packed":
        """On the CPU; `to` moves it."""
        sizes = torch.tensor(lengths)
        edges = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        steps = torch.arange(int(edges[-1])) - edges[:-1].repeat_interleave(sizes)
        return cls(tuple(lengths), steps, edges.int())

    @property
    def positions(self) -> int:
        """N."""
        return len(self.steps)

    def to(self, device: Any) -> "Packed":
        return Packed(self.lengths, self.steps.to(device, non_blocking=True), self.edges.to(device, non_blocking=True))

    def split(self, x: Tensor, axis: int) -> tuple[Tensor, ...]:
        """The rows of `x`, whose axis `axis` has N positions."""
        rows: tuple[Tensor, ...] = x.split(list(self.lengths), dim=axis)
        return rows


def attend_packed(
    q: Tensor, k: Tensor, v: Tensor, rows: Packed, causal: bool, biases: Sequence[Tensor] | None = None
) -> Tensor:
    """Attention inside each row: q [1, H, N, d], k and v [1, KV, N, d] to [1, H, N, d].

    Args:
        biases: of each row, added to its scores, [1, H, n, n]; causality is in them.
    """
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = (kv.repeat_interleave(repeats, dim=1) for kv in (k, v))
    if biases is None and varlen_attn is not None and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        flat: list[Any] = [x[0].transpose(0, 1) for x in (q, k, v)]
        edges: list[Any] = [rows.edges, rows.edges, *[max(rows.lengths)] * 2]
        mixed: Tensor = varlen_attn(*flat, *edges, **(CAUSAL if causal else {}))  # type: ignore[assignment]
        return mixed.transpose(0, 1)[None]
    parts = zip(rows.split(q, 2), rows.split(k, 2), rows.split(v, 2), strict=True)
    if biases is None:
        return torch.cat([attend(*part, causal) for part in parts], dim=2)
    pairs = zip(parts, biases, strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, attn_mask=bias) for part, bias in pairs], dim=2)


def _causal_words() -> dict[str, Any]:
    """How this torch is told to hide the future: the word has changed between its versions."""
    known = inspect.signature(varlen_attn).parameters if varlen_attn is not None else {}
    return {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}


CAUSAL = _causal_words()
