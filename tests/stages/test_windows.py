"""One schedule for speech that is whole and speech in the making; what a listener is told."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triptych.stages.notice import loops, overlong, silences
from triptych.stages.windows import Schedule, Window, windows


def slow(total: int, longest: int, tail: int, first: int) -> list[Window]:
    """Windows one after another, each told in plain words."""
    found: list[Window] = []
    made = 0
    while made < total:
        length = longest
        if first and first * 2 ** len(found) < longest:
            length, heard = first * 2 ** len(found), min(tail, first * 2 ** len(found) // 2)
        else:
            heard = tail
        begin = max(made - heard, 0)
        found.append(Window(begin, made, min(begin + length, total)))
        made = found[-1].stop
    return found


@given(
    total=st.integers(0, 200),
    longest=st.integers(4, 40),
    tail=st.integers(0, 20),
    first=st.sampled_from([0, 2, 3, 7]),
    arrivals=st.lists(st.integers(0, 200), max_size=6),
)
def test_windows_are_those_of_the_slow_reference_however_the_input_comes(total, longest, tail, first, arrivals):
    first, tail = min(first, longest), min(tail, longest // 2)
    wanted = slow(total, longest, tail, first)
    assert windows(total, longest, tail, first=first) == wanted
    schedule, found = Schedule(longest, tail, first), []
    for known, ended in [*((min(total, known), False) for known in sorted(arrivals)), (total, False), (total, True)]:
        made = found[-1].stop if found else 0
        while (window := schedule.next(len(found), made, known, ended)) is not None:
            assert window.stop <= known
            found.append(window)
            made = window.stop
    assert found == wanted


def test_a_loop_is_told_and_a_held_sound_is_not():
    rng = np.random.default_rng(0)
    plain = rng.permutation(500).astype(np.uint16)
    assert loops(plain, 50.0) == []
    assert loops(np.repeat(plain[:9], 80), 50.0) == []
    turning = np.concatenate([plain[:100], np.tile(plain[100:106], 5), plain[106:]])
    assert "from 2.0 s on" in loops(turning, 50.0)[0]
    assert loops(np.concatenate([plain[:100], np.tile(plain[100:106], 2), plain[106:]]), 50.0) == []


def test_a_text_that_takes_too_long_is_told_and_a_slow_voice_is_not():
    assert overlong(62, 44, 25.0) == []  # 1.4 times as long as usual
    assert overlong(15, 5, 25.0) == []  # a word and the pauses around it
    (line,) = overlong(55, 25, 25.0)
    assert "2.2 times as long" in line and "said twice" in line
    assert overlong(110, 50, 50.0) and not overlong(84, 50, 50.0)


def test_a_long_silence_is_told_and_a_pause_is_not():
    rate = 8000
    sound = np.sin(np.arange(rate)).astype(np.float32)

    def paused(seconds: float) -> list[str]:
        return silences(np.concatenate([sound, np.zeros(int(seconds * rate), np.float32), sound]), rate)

    assert paused(0.7) == []
    assert "1.5 s of silence from 1.0 s on" in paused(1.5)[0]
    assert silences(np.concatenate([np.zeros(2 * rate, np.float32), sound]), rate) == []
    assert "silent throughout" in silences(np.zeros(rate, np.float32), rate)[0]
