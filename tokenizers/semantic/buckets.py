"""Which clips lie in which batch: a function of (seed, number) and the clips' lengths. Knows no clip."""

import numpy as np
from numpy.typing import NDArray


class Buckets:
    """Which rows lie in which batch: similar lengths together, another mixture each epoch."""

    def __init__(self, frames: NDArray[np.int64], budget: int, seed: int) -> None:
        self._frames, self._budget, self._seed = frames, budget, seed
        self._epochs: list[list[NDArray[np.int64]]] = []

    def rows(self, number: int) -> NDArray[np.int64]:
        """The rows of batch `number`, from 0, endless over epochs; rows * longest <= budget where one row allows it."""
        epoch = 0
        while True:
            if epoch == len(self._epochs):
                self._epochs.append(self._pack(epoch))
            if number < len(self._epochs[epoch]):
                return self._epochs[epoch][number]
            number -= len(self._epochs[epoch])
            epoch += 1

    def _pack(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng((self._seed, 1, epoch))
        usable = np.flatnonzero(self._frames > 0)
        order = usable[np.argsort(self._frames[usable] * generator.uniform(0.9, 1.1, len(usable)), kind="stable")]
        batches: list[NDArray[np.int64]] = []
        current: list[int] = []
        longest = 0
        for row in order:
            longest = max(longest, int(self._frames[row]))
            if current and longest * (len(current) + 1) > self._budget:
                batches.append(np.array(current))
                current, longest = [], int(self._frames[row])
            current.append(int(row))
        batches.append(np.array(current))
        return [batches[i] for i in generator.permutation(len(batches))]
