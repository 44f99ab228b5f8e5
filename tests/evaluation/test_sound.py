"""Waveform measures: closed forms, and agreement with the libraries that own them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.evaluation import sound
from triptych.evaluation.sound import Melody, PitchTracker, align, pitch_error, si_sdr

RATE = 16_000


def noise(seed: int, samples: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


def voice(hertz: float, seconds: float = 1.5) -> np.ndarray:
    """A voiced sound: harmonics that fall by 12 dB an octave, with pauses, so that it has onsets."""
    times = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * hertz * k * times) / k**2 for k in range(1, 20))
    spoken = (times % 0.75 > 0.15).astype(np.float64)
    smooth = np.convolve(spoken, np.hanning(400) / np.hanning(400).sum(), "same")
    return np.asarray(0.2 * tone * smooth, dtype=np.float32)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), gain=st.floats(0.01, 100).map(np.float32))
def test_si_sdr_ignores_the_scale(seed: int, gain: np.float32) -> None:
    wanted, made = noise(seed), noise(seed) + noise(seed + 100)
    plain = si_sdr(made, wanted)
    assert plain is not None
    assert si_sdr(made * gain, wanted) == pytest.approx(plain, abs=1e-3)
    assert si_sdr(made, wanted * gain) == pytest.approx(plain, abs=1e-3)
    assert si_sdr(made, wanted + np.float32(0.1)) == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("decibel", [-10.0, 0.0, 15.0])
def test_si_sdr_of_orthogonal_noise_is_the_closed_form(decibel: float) -> None:
    times = np.arange(4000) / 4000
    wanted, other = (np.sin(2 * np.pi * hertz * times) for hertz in (40, 90))
    made = wanted + other * 10 ** (-decibel / 20)
    assert si_sdr(made.astype(np.float32), wanted.astype(np.float32)) == pytest.approx(decibel, abs=1e-3)


def test_si_sdr_at_its_ends() -> None:
    assert si_sdr(noise(0), noise(0)) == sound.PERFECT_DB
    assert si_sdr(np.zeros(4000, np.float32), noise(0)) is None
    assert si_sdr(noise(0), np.zeros(4000, np.float32)) is None


@pytest.mark.parametrize("lag", [0.0, 0.5, -0.75, 3.0, -40.25])
def test_a_delay_is_undone(lag: float) -> None:
    given_ = np.convolve(noise(1, 8000), np.hanning(16), "same").astype(np.float32)
    turns = np.exp(-2j * np.pi * np.arange(8001) / 16_000 * lag)
    made = np.fft.irfft(np.fft.rfft(given_, 16_000) * turns)[:8000].astype(np.float32)
    after = si_sdr(align(made, given_, RATE), given_)
    assert after is not None and after > 20
    assert align(given_, given_, RATE) is given_


def test_stoi_is_the_librarys() -> None:
    library = pytest.importorskip("pystoi")
    given_, made = voice(120), voice(120) + noise(2, 24_000)
    for extended in (False, True):
        wanted = library.stoi(given_.astype(np.float64), made.astype(np.float64), RATE, extended=extended)
        assert sound.stoi(made, given_, RATE, extended) == pytest.approx(wanted)
        assert sound.stoi(given_, given_, RATE, extended) == pytest.approx(1.0, abs=1e-6)
    assert sound.stoi(noise(0, 3000), noise(0, 3000), RATE) is None  # pystoi gives 1e-5 here


def test_pesq_is_the_librarys() -> None:
    library = pytest.importorskip("pesq")
    given_, made = voice(120), voice(120) + noise(2, 24_000) * 0.3
    assert sound.pesq_wideband(made, given_) == pytest.approx(library.pesq(RATE, given_, made, "wb"))
    assert sound.pesq_wideband(given_, given_) == pytest.approx(4.64, abs=0.01)
    assert sound.pesq_wideband(np.zeros_like(given_), given_) is None


@given(cents=st.floats(-1200, 1200), seed=st.integers(0, 99))
def test_pitch_error_of_a_moved_melody_is_the_move(cents: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    given_ = Melody(draw.uniform(80, 300, 40), draw.random(40) < 0.7)
    error, voicing = pitch_error(Melody(given_.hertz * 2 ** (cents / 1200), given_.voiced), given_)
    assert error == pytest.approx(abs(cents), abs=1e-6) and voicing == 0


def test_pitch_error_where_nothing_is_voiced_in_both() -> None:
    hertz, voiced = np.full(4, 100.0), np.array([True, True, False, False])
    error, voicing = pitch_error(Melody(hertz, ~voiced), Melody(hertz, voiced))
    assert error is None and voicing == 1.0


def test_the_tracker_hears_a_shift_and_silence() -> None:
    pytest.importorskip("swift_f0")
    tracker = PitchTracker()
    low = tracker.track(voice(120))
    assert np.median(low.hertz[low.voiced]) == pytest.approx(120, rel=0.01)
    error, _ = pitch_error(tracker.track(voice(120 * 2 ** (100 / 1200)) * np.float32(0.05)), low)
    assert error == pytest.approx(100, abs=12)
    assert pitch_error(low, low) == (0.0, 0.0)
    assert not tracker.track(np.zeros(8000, np.float32)).voiced.any()
