"""The time grid: exact, derived from any pair of rates, and by the nearest frame where the rates hardly meet."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
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


def spec_of(kind: str, sample_rate: int, hop: int) -> TokenizerSpec:
    return TokenizerSpec(kind, "a", 1024, sample_rate=sample_rate, hop=hop)


@pytest.mark.parametrize(
    ("codec", "rate", "hop", "per_beat"),
    [("encodec", 24_000, 320, (2, 3)), ("dac 24", 24_000, 320, (2, 3)), ("dac 16", 16_000, 320, (1, 1)),
     ("mimi", 24_000, 1920, (4, 1)), ("encodec 32", 32_000, 640, (1, 1)), ("dac 44.1", 44_100, 512, (7, 12))],
)  # fmt: skip
def test_codecs_beside_50_hz(codec: str, rate: int, hop: int, per_beat: tuple[int, int]) -> None:
    grid = TimeGrid.of(spec_of("semantic", 16_000, 320), spec_of("acoustic", rate, hop))
    assert (grid.semantic_per_beat, grid.acoustic_per_beat) == per_beat
    assert grid.exact == (codec != "dac 44.1")
    assert grid.beat == Fraction(per_beat[1] * hop, rate) <= LONGEST_BEAT
    assert abs(grid.semantic_rate / 50 - 1) < 0.005


@settings(max_examples=40, deadline=None)
@given(
    encoder=st.fractions(5, 120, max_denominator=997), acoustic=st.fractions(Fraction(25, 4), 200, max_denominator=997)
)
def test_pairs_that_hardly_meet_keep_to_the_nearest_frame(encoder: Fraction, acoustic: Fraction) -> None:
    grid = TimeGrid(encoder, acoustic)
    assert 0 < grid.beat <= LONGEST_BEAT and grid.semantic_per_beat > 0
    assert grid.beat * grid.semantic_rate == grid.semantic_per_beat
    assert grid.beat * grid.acoustic_rate == grid.acoustic_per_beat
    beats = 6
    there = int(beats * grid.beat * encoder)  # whole frames of the encoder: a floor
    tokens = grid.on_beats(np.arange(there, dtype=np.uint16), beats).tolist() if there else []
    assert not there or len(tokens) == beats * grid.semantic_per_beat
    for k, frame in enumerate(tokens):

        def away(i: int, k: int = k) -> Fraction:
            return abs((i + Fraction(1, 2)) / encoder - (k + Fraction(1, 2)) / grid.semantic_rate)

        assert away(frame) == min(away(i) for i in range(max(0, frame - 1), min(there, frame + 2)))
    if grid.exact:
        assert tokens == list(range(there))


def test_codecs_of_very_long_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"acoustic frames of 5 Hz are longer than 0\.16 s"):
        TimeGrid(Fraction(50), Fraction(5))


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
