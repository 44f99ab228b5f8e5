"""One step of the loop: forward and backward of each micro-batch, sums over ranks, and the optimisers.

    for each micro-batch     loss · its targets, backward
    over ranks               gradients, metrics and targets are summed
    / targets in all         clip, set the learning rate, AdamW; or all of this through DeepSpeed

Invariant: a pure function of the state, the micro-batches and the number of the step, which a model that has other
things to learn later is told (`begin_step`). Knows no folder.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from triptych.training.config import TrainingConfig
from triptych.training.distributed import collective_device, reached, sum_metrics, sum_over_ranks
from triptych.training.guard import blame, blame_gradients
from triptych.training.optimiser import Learner, follow
from triptych.training.zero import ZeroEngine


class TrainingError(RuntimeError):
    """Training cannot go on; the last good checkpoint is kept. The message is one line for the user."""


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bf16")


def take_step(
    model: nn.Module,
    learners: Sequence[Learner],
    optimizers: Sequence[torch.optim.Optimizer],
    micro_batches: Sequence[Any],
    config: TrainingConfig,
    device: torch.device,
    step: int,
    zero: ZeroEngine | None = None,
) -> dict[str, float]:
    torch.manual_seed(config.seed * 1_000_003 + step)
    if hasattr(model, "begin_step"):
        model.begin_step(step)  # type: ignore[operator]
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    total, losses = 0.0, []
    for number, micro_batch in enumerate(micro_batches, 1):
        reached(f"step {step}, micro-batch {number}")
        with autocast(device, config.dtype):
            loss, metrics = model.loss(micro_batch)  # type: ignore[operator]
        weight = float(metrics.get("targets", 1.0))
        if zero:
            zero.backward(loss * weight)
        else:
            (loss * weight).backward()
        total += weight
        losses.append(float(loss.detach()))
        for name, value in {"loss": loss.detach(), **metrics}.items():
            add_metric(sums, weights, name, float(value), weight)
    total = float(sum_over_ranks(torch.tensor(total, dtype=torch.float64, device=collective_device())))
    averaged = sum_metrics(sums, weights) | {"targets": total}
    if not math.isfinite(averaged["loss"]):
        raise TrainingError(blame(step, losses, micro_batches))
    if zero:
        norm = zero.step(step, total)
        if norm is not None and not math.isfinite(norm):
            raise TrainingError(blame_gradients(step, norm, micro_batches))
        return averaged if norm is None else averaged | {"gradient_norm": norm}
    for learner, optimizer in zip(learners, optimizers, strict=True):
        try:
            norm = follow(learner, optimizer, total, step)
        except FloatingPointError as error:
            raise TrainingError(blame_gradients(step, error.args[0], micro_batches)) from None
        if norm is not None:
            averaged["_".join(filter(None, ("gradient_norm", learner.name)))] = norm
    return averaged


def add_metric(sums: dict[str, float], weights: dict[str, float], name: str, value: float, weight: float) -> None:
    """Adds to a weighted mean. A metric without a value in this micro-batch is not a number, and does not count: so all
    ranks have the same names."""
    counts = name == "loss" or not math.isnan(value)
    sums[name] = sums.get(name, 0.0) + (value * weight if counts else 0.0)
    weights[name] = weights.get(name, 0.0) + (weight if counts else 0.0)
