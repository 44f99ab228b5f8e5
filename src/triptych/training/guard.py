"""What a run says when its numbers are no numbers any more. Knows batches by the names that they carry, if any."""

import math
from collections.abc import Sequence
from typing import Any

SHOWN = 8
"""names in a message"""


def blame(step: int, losses: Sequence[float], micro_batches: Sequence[Any]) -> str:
    """One line for a loss that is not a number: at which step, and in which batch of this rank.

    Args:
        losses: of each of this rank's micro-batches.
    """
    bad = [batch for loss, batch in zip(losses, micro_batches, strict=True) if not math.isfinite(loss)]
    where = f"in the batch of {named(bad)}" if bad else "on another rank"
    value = next((loss for loss in losses if not math.isfinite(loss)), math.nan)
    return f"the loss of step {step} is {value} {where}: {REMEDY}"


def blame_gradients(step: int, norm: float, micro_batches: Sequence[Any]) -> str:
    """One line for a gradient norm that is not a number; the loss was one."""
    return f"the gradient norm of step {step} is {norm}, after the batch of {named(micro_batches)}: {REMEDY}"


def named(micro_batches: Sequence[Any]) -> str:
    """The recordings in them, the first few by name."""
    names = [str(name) for batch in micro_batches for name in getattr(batch, "names", ())]
    if not names:
        return "unnamed rows"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


REMEDY = "the last checkpoint is whole; look at these recordings, or lower training.learning_rate, then resume=true"
