"""Bits: known entropies are found, and what the coder spends is the length of a code that could be decoded."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.evaluation.code_length import FAMILIES, entropy, spent_bits, usage


def clips(count: int, frames: int, size: int, seed: int, levels: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, size, (count, levels, frames)).astype(np.uint16))


@pytest.mark.parametrize("size", [2, 32, 1000])
def test_uniform_ids_need_all_their_bits(size: int) -> None:
    ids = np.tile(np.arange(size, dtype=np.uint16), 50)
    assert entropy(ids, size) == pytest.approx(np.log2(size), abs=1e-9)
    assert usage(ids, size) == 1.0


def test_one_id_needs_none() -> None:
    ids = np.full(100, 3, np.uint16)
    assert entropy(ids, 16) == 0 and usage(ids, 16) == 1 / 16


def test_few_draws_are_corrected() -> None:
    """The plain estimate of 200 draws of 64 ids is about a quarter of a bit too low."""
    found = np.mean([entropy(np.random.default_rng(seed).integers(0, 64, 200), 64) for seed in range(40)])
    assert found == pytest.approx(6, abs=0.06)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), learned=st.integers(0, 3))
def test_the_chances_of_all_that_may_come_sum_to_one(seed: int, learned: int) -> None:
    """Kraft's sum, over every second level of two frames: a coder that cheats would exceed it."""
    size = 3
    learn, earlier = clips(learned, 5, size, seed), clips(1, 4, size, seed + 1)
    first = np.random.default_rng(seed + 2).integers(0, size, 2)
    sums = dict.fromkeys(FAMILIES, 0.0)
    for ids in itertools.product(range(size), repeat=2):
        last = np.stack([first, np.array(ids)]).astype(np.uint16)
        spent = spent_bits(learn, [*earlier, last], size)[1]
        for name, bits in spent.bits.items():
            sums[name] += 2 ** (-2 * bits[-1])
    assert all(total == pytest.approx(1.0, abs=1e-5) for total in sums.values())


def test_what_says_nothing_is_not_paid_for_twice() -> None:
    size = 16
    spent = spent_bits(clips(20, 200, size, 0), clips(5, 200, size, 1), size)
    for level in spent:
        for bits in level.bits.values():
            assert np.mean(bits) == pytest.approx(4, abs=0.05)


def test_no_coder_costs_more_than_plain_ids() -> None:
    """A coder misled by what it learned falls back on log2(size) bits an id, within the bits that finding out costs."""
    learn, size = [np.zeros((2, 500), np.uint16)], 64
    for level in spent_bits(learn, clips(1, 300, size, 0), size):
        assert all(bits[0] < 6 + 5 / 300 * np.log2(20) for bits in level.bits.values())


def test_each_context_is_found_where_it_is() -> None:
    """Level 1 repeats level 0 of the same frame; level 2 repeats its own frame before."""
    draw, size, codes = np.random.default_rng(0), 16, []
    for _ in range(30):
        first = draw.integers(0, size, 100)
        codes.append(np.stack([first, first, np.full(100, draw.integers(size))]).astype(np.uint16))
    copied, held = (level.bits for level in spent_bits(codes[:20], codes[20:], size)[1:])
    assert np.mean(copied["above"]) < 0.1 < 3.5 < np.mean(copied["before"])
    assert np.mean(held["before"]) < 0.2 < 3 < np.mean(held["alone"])
    for bits in (copied, held):
        assert np.mean(bits["both"]) <= min(np.mean(bits["above"]), np.mean(bits["before"])) + 0.05


def test_frames_and_levels_are_counted() -> None:
    spent = spent_bits([], [np.zeros((3, 7), np.uint16), np.zeros((3, 2), np.uint16)], 4)
    assert len(spent) == 3 and spent[0].frames == [7, 2]
    assert spent[0].bits["alone"][0] > spent[0].bits["alone"][1] > 0  # it learns as it goes
    assert spent_bits([], [np.zeros((1, 1), np.uint16)], 4)[0].bits["alone"] == [2.0]  # nothing is known yet
