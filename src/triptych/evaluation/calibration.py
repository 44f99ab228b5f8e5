"""Is a stage as sure as it is right? Confidence against accuracy in even bins (Guo et al. 2017). Knows no stage."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.estimate import INSIDE, Estimate
from triptych.evaluation.stage_scores import Scored

BINS = 10
"""of confidence"""


def calibration_error(scored: Scored, clips: Sequence[str], resamples: int, seed: int) -> Estimate:
    """Expected calibration error over BINS even bins, with a bootstrap over clips."""
    names = list(dict.fromkeys(clips))
    place = {name: number for number, name in enumerate(names)}
    clip = np.array([place[name] for name in clips])[scored.row]
    cell = clip * BINS + bins(scored.confidence)
    off = np.bincount(cell, weights=scored.confidence - scored.right, minlength=len(names) * BINS)
    off = off.reshape(len(names), BINS)

    def error(of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs(of).sum(-1), dtype=np.float64)

    counts = np.bincount(clip, minlength=len(names))
    mean = float(error(off.sum(0)) / counts.sum())
    if len(names) == 1:
        return Estimate(mean, None, None, 1)
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    low, high = np.percentile(error(off[drawn].sum(1)) / counts[drawn].sum(1), INSIDE)
    return Estimate(mean, float(low), float(high), len(names))


def bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each confidence, 0 … BINS - 1."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
