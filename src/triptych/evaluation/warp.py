"""How far two utterances of one text are apart when their timing does not count: mel-cepstral distortion after warping.

    [N] ─▶ log-mel, 12 cepstra a frame of 20 ms ─┐
    [M] ─▶                                       ─┴─▶ dynamic time warping ─▶ mean distance along the cheapest path, dB

Needs no recogniser, no speaker encoder and no weights. Neither loudness nor (by warping) pace counts; voice, room,
noise and what is said do, so that it compares only what ought to be the same words of the same voice.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from triptych.tokenizers.semantic.filterbank import MELS, SAMPLE_RATE, log_mels
from triptych.tokenizers.waveform import Waveform, resample

CEPSTRA = 12
"""after the zeroth, which is loudness"""
STRIDE = 2
"""frames of 10 ms that are averaged into one"""
RANGE_NATS = 60.0 / 10 * math.log(10)
"""of power: what lies further under the loudest mel is silence"""
DECIBEL = 10 / math.log(10)

Frames = NDArray[np.float64]
"""[T, D]"""


def cepstra(waveform: Waveform, sample_rate: int) -> Frames:
    """[N] to [T, CEPSTRA], mel cepstra of log amplitude, 50 a second."""
    mels = log_mels(resample(waveform, sample_rate, SAMPLE_RATE)).astype(np.float64)
    mels = mels[: len(mels) // STRIDE * STRIDE].reshape(-1, STRIDE, MELS).mean(1)
    if not len(mels):
        return np.zeros((0, CEPSTRA))
    mels = np.maximum(mels, mels.max() - RANGE_NATS) / 2  # of power to of amplitude
    found = fft.dct(mels, type=2, axis=1) / MELS  # as in c_m = 1/M sum log A cos(...), counted on both sides
    return np.asarray(found[:, 1 : CEPSTRA + 1], dtype=np.float64)


def distortion(made: Frames, given: Frames) -> float | None:
    """dB a frame of the path (Kubichek 1993's distortion, after warping); None where either has no frame."""
    if not len(made) or not len(given):
        return None
    apart = np.sqrt(np.square(made[:, None] - given[None]).sum(-1))
    total, steps = cheapest_path(apart)
    return DECIBEL * math.sqrt(2) * total / steps


def cheapest_path(cost: NDArray[np.float64]) -> tuple[float, int]:
    """Sum of `cost` [T, U] along the cheapest path of steps (1, 1), (1, 0), (0, 1) between its corners, and its cells.

    Sakoe and Chiba (1978) without slopes or weights. Diagonal by diagonal, since its cells do not need each other.
    """
    rows, columns = cost.shape
    sums = np.full((rows + 1, columns + 1), np.inf)
    cells = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    sums[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        ways = np.stack([sums[i, j], sums[i, j + 1], sums[i + 1, j]])
        best = ways.argmin(0)
        before = np.stack([cells[i, j], cells[i, j + 1], cells[i + 1, j]])
        sums[i + 1, j + 1] = cost[i, j] + np.take_along_axis(ways, best[None], 0)[0]
        cells[i + 1, j + 1] = 1 + np.take_along_axis(before, best[None], 0)[0]
    return float(sums[rows, columns]), int(cells[rows, columns])
