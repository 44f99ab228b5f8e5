"""What is said of sound without a text: what was planted is found, and what is not there is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.evaluation import facts

RATE = 8000


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(np.arange(round(seconds * RATE)) * 0.3)).astype(np.float32)


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def test_where_it_sounds() -> None:
    found = facts.sounding(np.concatenate([quiet(0.4), tone(1.0), quiet(0.6), tone(0.5), quiet(0.5)]), RATE)
    assert (found.start, found.end) == (pytest.approx(0.4), pytest.approx(2.5))
    assert found.seconds == pytest.approx(2.1)
    assert found.longest_gap == pytest.approx(0.6) and found.silent == pytest.approx(0.5)


def test_silence_has_no_sound() -> None:
    found = facts.sounding(quiet(1.0), RATE)
    assert (found.seconds, found.silent) == (0.0, 1.0)
    assert facts.sounding(np.zeros(0, np.float32), RATE).seconds == 0.0


@given(st.lists(st.integers(0, 9), min_size=3, max_size=12).filter(lambda ids: len(set(ids)) > 1), st.integers(3, 5))
@settings(max_examples=40, deadline=None)
def test_a_planted_loop_is_found(span: list[int], turns: int) -> None:
    rest = np.arange(100, 140)
    tokens = np.concatenate([rest, span * turns, rest + 100]).astype(np.uint16)
    assert facts.loops_in_tokens(tokens, 25.0)


def test_what_is_no_loop() -> None:
    rng = np.random.default_rng(0)
    assert not facts.loops_in_tokens(rng.integers(0, 500, 300).astype(np.uint16), 25.0)
    assert not facts.loops_in_tokens(np.full(100, 7, np.uint16), 25.0)  # a held sound
    twice = np.concatenate([np.arange(20), np.arange(20)]).astype(np.uint16)
    assert not facts.loops_in_tokens(twice, 25.0)
    assert not facts.loops_in_tokens(np.zeros(0, np.uint16), 25.0)


@pytest.mark.parametrize(
    ("heard", "wanted", "loops"),
    [
        ("no no no", "no", True),
        ("no no no", "no no no", False),
        ("very very good", "very good", False),
        ("on the way on the way on the way home", "on the way home", True),
        ("a b c d", "a b c d", False),
        ("", "a b", False),
    ],
)
def test_loops_in_words(heard: str, wanted: str, loops: bool) -> None:
    assert facts.loops_in_words(heard.split(), wanted.split()) is loops


def test_copies() -> None:
    given_tokens, new = np.arange(50, dtype=np.uint16), np.arange(100, 150, dtype=np.uint16)
    assert facts.copied(given_tokens, new, 8) == 0.0
    assert facts.copied(given_tokens, given_tokens, 8) == 1.0
    half = np.concatenate([given_tokens[10:20], new[:10]])
    assert facts.copied(given_tokens, half, 8) == 0.5
    assert facts.copied(given_tokens, half, 11) == 0.0


@pytest.mark.parametrize(
    ("heard", "lost", "extra"),
    [
        ("the cat sat on the mat", 0, 0),
        ("the cat sat", 3, 0),
        ("the cat sat on the mat and ran", 0, 2),
        ("cat sat on the mat", 0, 0),
        ("", 6, 0),
    ],
)
def test_the_end_of_a_text(heard: str, lost: int, extra: int) -> None:
    assert facts.missing_end(["the", "cat", "sat", "on", "the", "mat"], heard.split()) == (lost, extra)


def test_pitch_of_a_buzz() -> None:
    from triptych.evaluation.sound import PitchTracker

    times = np.arange(RATE * 2) / RATE
    for hertz in (110.0, 220.0):
        buzz = sum(np.sin(2 * np.pi * hertz * k * times) / k for k in range(1, 12))
        found = facts.pitch_facts((0.2 * buzz).astype(np.float32), RATE, PitchTracker())
        assert found is not None and found[0] == pytest.approx(hertz, rel=0.03) and found[1] < 1
    assert facts.pitch_facts(quiet(1.0), RATE, PitchTracker()) is None
