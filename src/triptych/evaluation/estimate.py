"""A mean over clips, and how far it would move if other clips had been taken. Knows no measure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 6
"""utterances, below which a bootstrap says nothing of chance"""
INSIDE = (2.5, 97.5)
"""percentiles between which the interval lies"""


@dataclass(frozen=True)
class Estimate:
    """A weighted mean over clips with its 95 % interval."""

    mean: float
    low: float | None
    """None where one clip alone was counted"""
    high: float | None
    clips: int
    """counted; those that have no number are not among them"""


def estimate(
    values: Sequence[float], weights: Sequence[float], resamples: int, generator: np.random.Generator
) -> Estimate | None:
    """Mean of `values` [clips] by `weights` [clips]; percentile bootstrap over clips (Efron and Tibshirani 1993).

    Word error is errors a word, weighted by words, so that the mean is that of all words. None where there is no clip.
    """
    if not values:
        return None
    shares, counts = np.asarray(weights, np.float64), len(values)
    sums = np.asarray(values, np.float64) * shares
    mean = float(sums.sum() / shares.sum())
    if counts == 1:
        return Estimate(mean, None, None, 1)
    drawn = generator.integers(0, counts, (resamples, counts))
    low, high = np.percentile(sums[drawn].sum(1) / shares[drawn].sum(1), INSIDE)
    return Estimate(mean, float(low), float(high), counts)
