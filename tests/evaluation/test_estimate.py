"""Means over clips and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.evaluation.estimate import estimate


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(0.1, 10)), min_size=2, max_size=20))
def test_the_interval_lies_within_what_was_measured(pairs: list[tuple[float, float]]) -> None:
    values, weights = zip(*pairs, strict=True)
    found = estimate(values, weights, 200, draw())
    assert found is not None and found.low is not None and found.high is not None and found.clips == len(pairs)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.mean == pytest.approx(np.average(values, weights=weights))


def test_word_error_is_that_of_all_words() -> None:
    found = estimate([1.0, 0.0], [2, 8], 100, draw())  # 2 of 2 words wrong, 0 of 8
    assert found is not None and found.mean == pytest.approx(0.2)


def test_nothing_and_one() -> None:
    assert estimate([], [], 100, draw()) is None
    one = estimate([3.0], [1.0], 100, draw())
    assert one is not None and (one.mean, one.low, one.high, one.clips) == (3.0, None, None, 1)


def test_the_interval_is_the_one_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = estimate(values.tolist(), [1.0] * 400, 2000, draw())
    assert found is not None and found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
