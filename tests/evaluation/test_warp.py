"""Distortion after time warping: the fast path is the slow one's, pace and loudness do not count, other words do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from triptych.evaluation.warp import CEPSTRA, cepstra, cheapest_path, distortion

RATE = 16_000


def slow_path(cost: NDArray[np.float64]) -> float:
    """The textbook's recursion."""
    sums = np.full(cost.shape, np.inf)
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            before = [sums[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
            sums[i, j] = cost[i, j] + (min(before) if before else 0.0)
    return float(sums[-1, -1])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_path_is_the_cheapest(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).random((rows, columns))
    total, cells = cheapest_path(cost)
    assert total == pytest.approx(slow_path(cost))
    assert max(rows, columns) <= cells <= rows + columns - 1


def glide(seconds: float, low: float, high: float) -> NDArray[np.float32]:
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(np.linspace(low, high, len(time))) / RATE
    return np.asarray(sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1, dtype=np.float32)


def test_neither_pace_nor_loudness_counts_and_another_sound_does() -> None:
    one = cepstra(glide(1.0, 300, 900), RATE)
    assert one.shape == (50, CEPSTRA)
    same = distortion(cepstra(0.1 * glide(1.0, 300, 900), RATE), one)
    slower = distortion(cepstra(glide(1.5, 300, 900), RATE), one)
    other = distortion(cepstra(glide(1.0, 900, 300), RATE), one)
    assert distortion(one, one) == 0.0
    assert same is not None and same < 0.1
    assert slower is not None and other is not None and slower < other / 3


def test_a_sound_without_a_frame_has_no_number() -> None:
    assert distortion(cepstra(np.zeros(10, np.float32), RATE), cepstra(glide(1.0, 300, 900), RATE)) is None
