"""The time grid: exact, derived from any pair of rates, and refused where the rates hardly meet."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.tokenizers.spec import LONGEST_BEAT, TimeGrid, TokenizerSpec, check_same


@pytest.mark.parametrize(("semantic", "acoustic", "per_beat"), [(50, 75, (2, 3)), (25, 50, (1, 2)), (50, 50, (1, 1))])
def test_beats_of_known_pairs(semantic: int, acoustic: int, per_beat: tuple[int, int]) -> None:
    grid = TimeGrid(Fraction(semantic), Fraction(acoustic))
    assert (grid.semantic_per_beat, grid.acoustic_per_beat) == per_beat
    assert grid.beat == Fraction(per_beat[0], semantic)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(10, 160))
def test_beat_is_the_shortest_span_whole_in_both(a: int, b: int, milliseconds: int) -> None:
    semantic, acoustic = Fraction(1000 * a, milliseconds), Fraction(1000 * b, milliseconds)
    grid = TimeGrid(semantic, acoustic)
    assert (grid.beat * semantic).denominator == 1 == (grid.beat * acoustic).denominator
    assert grid.beat <= LONGEST_BEAT
    for k in range(1, grid.semantic_per_beat):  # no shorter whole number of semantic frames is whole in the other
        assert (Fraction(k) / semantic * acoustic).denominator > 1


def test_dac_is_refused_by_name_of_its_rates() -> None:
    semantic = TokenizerSpec("semantic", "wavlm", 500, sample_rate=16000, hop=320)
    dac = TokenizerSpec("acoustic", "dac", 1024, sample_rate=44100, hop=512, levels=9)
    with pytest.raises(ValueError, match=r"50 Hz semantic and 11025/128 Hz acoustic.*5\.12 s"):
        TimeGrid.of(semantic, dac)


@given(st.integers(1, 10_000_000))
def test_padding_is_whole_beats_and_less_than_one_more(samples: int) -> None:
    grid, rate = TimeGrid(Fraction(50), Fraction(75)), 24000
    padded = grid.padded_samples(samples, rate)
    assert samples <= padded < samples + 960
    assert padded % 960 == 0
    assert grid.padded_samples(padded, rate) == padded
    assert grid.beats(padded / rate) * 960 == padded


def test_another_fingerprint_names_both_and_the_remedy() -> None:
    made = TokenizerSpec("semantic", "wavlm", 500, fingerprint="aaaa")
    check_same(made, TokenizerSpec("semantic", "wavlm", 500, fingerprint="aaaa"), "shards")
    with pytest.raises(ValueError, match=r"shards was made with .*aaaa.*not with .*bbbb.*tokenize again"):
        check_same(made, TokenizerSpec("semantic", "wavlm", 500, fingerprint="bbbb"), "shards")
