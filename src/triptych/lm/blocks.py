"""Weights as native.cpp reads them: blocks of 4 rows × 32 columns, in fp32, bf16 or int8 with a scale a row.

    weight [N, K] ──pad──▶ [N / 4, 4, K / 32, 32] ──▶ [N / 4, K / 32, 4, 32]      one stream for each thread

All of them lie in one piece of memory with huge pages, where the system has such, since a step reads all of it. Knows
no layer.
"""

import ctypes
import mmap
import threading
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor

from triptych.lm import native

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
ROWS, COLUMNS = 4, 32
LINE = 64
"""bytes, of a processor's cache line"""


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [N, K] and its scales [N]: each row in 255 steps of its largest entry."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def rounded(weight: Tensor, precision: Precision) -> Tensor:
    """What a weight [N, K] is worth in a precision, as float32."""
    if precision == "int8":
        whole, scale = round_rows(weight.float())
        return whole * scale[:, None]
    return weight.to(torch.bfloat16).float() if precision == "bf16" else weight.float()


def in_blocks(weight: Tensor, precision: Precision) -> tuple[Tensor, Tensor | None]:
    """A weight [N, K] in the order of native.cpp, and its scales."""
    n, k = -(-weight.shape[0] // ROWS) * ROWS, -(-weight.shape[1] // COLUMNS) * COLUMNS
    whole = torch.zeros(n, k)
    whole[: weight.shape[0], : weight.shape[1]] = weight
    scale = None
    if precision == "int8":
        whole, scale = round_rows(whole)
    blocks = whole.view(n // ROWS, ROWS, k // COLUMNS, COLUMNS).transpose(1, 2)
    if precision == "bf16":  # columns i and 16 + i share a word, the first in its lower half
        blocks = blocks.to(torch.bfloat16).unflatten(-1, (2, COLUMNS // 2)).transpose(-1, -2)
    return blocks.contiguous(), scale


class Arena:
    """Memory for all weights of a model, reserved before they are copied in."""

    def __init__(self, bytes: int) -> None:
        own = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._memory = mmap.mmap(-1, max(bytes, mmap.PAGESIZE), **own)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel that has none
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._all, self._used = torch.frombuffer(self._memory, dtype=torch.uint8), 0

    def keep(self, tensor: Tensor) -> int:
        """Copies a tensor in; its address."""
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
        place = self._all[self._used : self._used + len(raw)]
        place.copy_(raw)
        self._used += -(-len(raw) // LINE) * LINE
        return place.data_ptr()

    def matrix(self, weight: Tensor, precision: Precision) -> native.Matrix:
        """Copies a weight [N, K] in, in blocks."""
        blocks, scale = in_blocks(weight.detach().float(), precision)
        of_scale = 0 if scale is None else self.keep(scale)
        return native.Matrix(self.keep(blocks), of_scale, *weight.shape, PRECISIONS.index(precision), 0)


def bytes_of(weights: list[Tensor], precision: Precision) -> int:
    """Room that an arena needs for weights, at most."""
    each = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    total = 0
    for weight in weights:
        if weight.dim() < 2:
            total += weight.numel() * 4 + LINE
        else:
            total += (weight.shape[0] + ROWS) * ((weight.shape[1] + COLUMNS) * each + 4) + 2 * LINE
    return total


class NativeMatrix:
    """x [n, K] to x Wᵀ [n, N], with W [N, K] in blocks."""

    def __init__(self, library: ctypes.CDLL, weight: Tensor, precision: Precision) -> None:
        self._library, self._most = library, library.most_tokens()
        self._arena = Arena(bytes_of([weight], precision))
        self._matrix = self._arena.matrix(weight, precision)
        self.rows, self.columns = weight.shape
        self._scratch = torch.zeros(self._most * (2 * (self.columns + COLUMNS) + 16))
        self._scratch_in_use = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty(len(x), self.rows)
        for first in range(0, len(x), self._most):
            some, result = x[first : first + self._most], out[first : first + self._most]
            with self._scratch_in_use:
                self._library.product(
                    self._matrix,
                    len(some),
                    some.data_ptr(),
                    result.data_ptr(),
                    self._scratch.data_ptr(),
                    torch.get_num_threads(),
                )
        return out
