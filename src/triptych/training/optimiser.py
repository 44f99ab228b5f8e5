"""Who learns in a step, and how: the learners of a model, their learning rate, AdamW. Knows no data and no loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from triptych.training.config import TrainingConfig
from triptych.training.distributed import sum_gradients


@dataclass(frozen=True)
class Learner:
    """Parameters that one optimiser steps, with a rate and a gradient norm of their own."""

    name: str
    """ends the name of its gradient norm among the metrics; empty for the main one"""
    parameters: Sequence[nn.Parameter]
    """those of them that require gradients are trained"""
    config: TrainingConfig
    """its rates, decay and clipping; the steps are those of the run"""


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then down to `final_ratio` at the last step. `step` counts from 1.

    cosine falls from the end of warm-up on; wsd over the last `decay_share` of the steps, as 1 - sqrt (Hägele et al.
    2024): a run that stayed at the peak can go on from there, with more steps.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "wsd":
        falling = max(1, round(config.decay_share * config.max_steps))
        fallen = max(0.0, 1 - (config.max_steps - step) / falling)
        return config.learning_rate * (1 - (1 - config.final_ratio) * math.sqrt(min(1.0, fallen)))
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    floor = config.final_ratio
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW, with weight decay on everything that has two axes or more."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=True)


def learners_of(model: nn.Module, config: TrainingConfig) -> list[Learner]:
    """The whole model as one, unless it has `learners()` of its own."""
    own = getattr(model, "learners", None)
    if own is not None:
        found: list[Learner] = own()
        return found
    return [Learner("", list(model.parameters()), config)]


def follow(learner: Learner, optimizer: torch.optim.Optimizer, total: float, step: int) -> float | None:
    """One optimiser's step; the norm of its gradients, which were summed over `total` targets. None without any.

    Raises:
        FloatingPointError: the norm is not a number; nothing was stepped. Its argument is the norm.
    """
    sum_gradients(parameter for parameter in learner.parameters if parameter.requires_grad)
    parameters = [p for p in learner.parameters if p.grad is not None]
    if not parameters:
        return None
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.div_(total)
    norm = torch.nn.utils.clip_grad_norm_(parameters, learner.config.clip_norm or math.inf)
    if not math.isfinite(norm):
        raise FloatingPointError(float(norm))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, learner.config)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
