"""Averaged weights: an exponential mean over the steps, for validation and for use; training goes on with the others.

    step       1    2    3   …      n
    weights    w1   w2   w3         wn       what the optimiser steps
    averaged   a1   a2   a3         an       a ← a + (1 - keep) · (w - a), keep rising from 0.18 to what was asked

Invariant: a pure function of the weights of all steps, so a resumed run has the averages of an unbroken one. Buffers
are those of the last step. After Polyak & Juditsky 1992; the rising share is TensorFlow's. Knows no loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn


class Average:
    """Of the parameters of `model` that are trained, from those that it has now."""

    def __init__(self, model: nn.Module, keep: float) -> None:
        self.keep = keep
        self._live = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        self._mean = {name: weights.clone() for name, weights in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After each step, counted from 1."""
        keep = min(self.keep, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), 1.0 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def settle(self) -> None:
        """The model has the averaged weights from now on."""
        self._exchange()

    @torch.no_grad()
    def restore(self, file: Path) -> None:
        """The averages that a checkpoint's weights are."""
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no dict
                if name in self._mean:
                    self._mean[name].copy_(stored.get_tensor(name))

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self._mean[name])
            self._mean[name].copy_(kept)
