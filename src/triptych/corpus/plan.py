"""Which rows make micro-batch number `step`: a pure function of (seed, step, lengths).

    epoch 0   rows shuffled, and cut where the next row would exceed the budget:   0  1  2 … 40
    epoch 1   the same with another shuffle:                                      41 42 … 81
    …

Rows lie side by side in a batch, so their lengths need not be alike. Micro-batches are numbered through all epochs, and
the numbers dealt to ranks: one number is the whole state of the loader, and a run may go on with other ranks. Knows
lengths alone.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

KEPT_EPOCHS = 4


class BatchPlan:
    """Endless micro-batches of at most `budget` positions.

    Args:
        lengths: positions of each row, at least 1.
        budget: most positions of a micro-batch.
        seed: of the order.
    Raises:
        ValueError: no rows, or a row that alone exceeds the budget.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        budget: int,
        seed: int,
        name: Callable[[int], str] = lambda row: f"row {row}",
    ) -> None:
        self.lengths = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
        self.budget = budget
        self.seed = seed
        if len(self.lengths) == 0:
            raise ValueError("no rows to read: the split is empty")
        longest = int(self.lengths.argmax())
        if self.lengths[longest] > budget:
            raise ValueError(
                f"{name(longest)} has {self.lengths[longest]} positions, more than the budget of {budget} a "
                "micro-batch: raise the budget, or leave long rows out"
            )
        self._starts = [0]
        self._kept: dict[int, list[NDArray[np.int64]]] = {}
        self._lock = threading.Lock()

    def batch(self, step: int) -> NDArray[np.int64]:
        """Row indices of micro-batch `step`, counted from 0 over all epochs."""
        epoch = self.epoch_of(step)
        with self._lock:
            return self._epoch(epoch)[step - self._starts[epoch]]

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, that micro-batch `step` belongs to."""
        assert step >= 0
        with self._lock:
            while self._starts[-1] <= step:
                self._epoch(len(self._starts) - 1)
            return bisect_right(self._starts, step) - 1

    def batches_per_epoch(self, epoch: int = 0) -> int:
        """Micro-batches of one epoch; epochs differ by a few."""
        with self._lock:
            while len(self._starts) <= epoch + 1:
                self._epoch(len(self._starts) - 1)
            return self._starts[epoch + 1] - self._starts[epoch]

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        if epoch not in self._kept:
            batches = epoch_batches(self.lengths, self.budget, np.random.default_rng([self.seed, epoch]))
            if len(self._starts) == epoch + 1:
                self._starts.append(self._starts[epoch] + len(batches))
            self._kept[epoch] = batches
            for old in sorted(self._kept)[:-KEPT_EPOCHS]:
                if old != epoch:
                    del self._kept[old]
        return self._kept[epoch]


def epoch_batches(lengths: NDArray[np.int64], budget: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """One epoch: every row in exactly one batch, each within the budget."""
    order = generator.permutation(len(lengths))
    ends = np.cumsum(lengths[order])
    cuts, taken = [0], 0
    while cuts[-1] < len(order):
        cuts.append(int(np.searchsorted(ends, taken + budget, side="right")))
        taken = int(ends[cuts[-1] - 1])
    return [order[start:stop] for start, stop in pairwise(cuts)]
