"""Mean and variance of rows that come in pieces: what a clip is normalised with when it is never held whole.

Chan, Golub and LeVeque 1979: the moments of two parts give those of the whole, without its rows. Knows no audio.
"""

import numpy as np
from numpy.typing import NDArray

ROWS = 1 << 20
"""of one dimension, looked at together; bounds the float64 copies"""


class Moments:
    """Of the rows [*, D] that were added so far."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        """[D]"""
        self.squares = np.zeros(dim)
        """[D], summed squared distance to the mean"""

    def add(self, rows: NDArray[np.float32]) -> None:
        """Rows [R, D]; copied to float64 a part at a time."""
        step = max(1, ROWS // len(self.mean))
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step].astype(np.float64)
            mean = part.mean(axis=0)
            self.merge(len(part), mean, np.square(part - mean).sum(axis=0))

    def merge(self, count: int, mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Takes in `count` rows of which only mean [D] and summed squared distance to it [D] are known."""
        total = self.count + count
        apart = mean - self.mean
        self.squares += squares + np.square(apart) * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = total

    def variance(self, correction: int = 0) -> NDArray[np.float64]:
        """[D], over count - correction."""
        return self.squares / max(1, self.count - correction)
