"""The reading order: a pure function of step, with every row once an epoch, within the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.corpus.plan import BatchPlan

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=120)


@given(LENGTHS, st.integers(300, 2000), st.integers(0, 3))
def test_every_row_once_an_epoch_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    plan = BatchPlan(lengths, budget, seed)
    step = 0
    for epoch in range(3):
        rows: list[int] = []
        for _ in range(plan.batches_per_epoch(epoch)):
            batch = plan.batch(step)
            assert plan.epoch_of(step) == epoch
            assert 0 < sum(lengths[i] for i in batch) <= budget
            rows += batch.tolist()
            step += 1
        assert sorted(rows) == list(range(len(lengths)))


@given(LENGTHS, st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_a_batch_depends_on_its_step_alone(lengths: list[int], steps: list[int]) -> None:
    in_order = BatchPlan(lengths, 600, 1)
    asked = {step: in_order.batch(step) for step in sorted(steps)}
    anyhow = BatchPlan(lengths, 600, 1)
    for step in steps:
        np.testing.assert_array_equal(anyhow.batch(step), asked[step])
        np.testing.assert_array_equal(BatchPlan(lengths, 600, 1).batch(step), asked[step])


def test_batches_are_full_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(20, 600, 2000)
    plan = BatchPlan(lengths, 8000, 0)
    batches = [plan.batch(step) for step in range(plan.batches_per_epoch(0))]
    assert len(batches) < 1.06 * lengths.sum() / 8000 + 2
    first, second = ({tuple(sorted(plan.batch(n + k))) for k in range(20)} for n in (0, plan.batches_per_epoch(0)))
    assert first.isdisjoint(second)
    order = [float(lengths[b].mean()) for b in batches]
    assert abs(np.corrcoef(order, range(len(order)))[0, 1]) < 0.4  # not from short to long


def test_seeds_differ() -> None:
    lengths = list(range(1, 200))
    batches = [tuple(BatchPlan(lengths, 800, seed).batch(0)) for seed in range(4)]
    assert len(set(batches)) == 4


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="row 1 has 900 positions, more than the budget of 800"):
        BatchPlan([5, 900, 7], 800, 0)
    with pytest.raises(ValueError, match="no rows"):
        BatchPlan([], 800, 0)
