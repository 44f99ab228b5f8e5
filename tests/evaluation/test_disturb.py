"""Each disturbance does what it says, is a function of its generator, and keeps the length that it promises."""

import numpy as np
import pytest

from triptych.evaluation import disturb
from triptych.evaluation.disturb import Disturbance, disturbances

RATE = 16_000


def voiced(seconds: float = 1.0, hertz: float = 120.0) -> np.ndarray:
    """Harmonics through two resonances."""
    time = np.arange(int(seconds * RATE)) / RATE
    partials = np.arange(1, int(7000 / hertz)) * hertz
    loud = np.exp(-(((partials - 600) / 250) ** 2)) + 0.5 * np.exp(-(((partials - 1800) / 400) ** 2)) + 0.01
    wave = sum(a * np.sin(2 * np.pi * f * time) for a, f in zip(loud, partials, strict=True))
    return (0.2 * wave / np.abs(wave).max()).astype(np.float32)


def peak_hertz(wave: np.ndarray) -> float:
    """Of the autocorrelation: the pitch."""
    middle = wave[4000:12000].astype(np.float64)
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 15)) ** 2
    lags = np.fft.irfft(power)[RATE // 400 : RATE // 60]
    return RATE / (RATE // 400 + int(lags.argmax()))


@pytest.mark.parametrize("way", disturbances(0.04)[0], ids=lambda way: way.name)
def test_every_disturbance(way: Disturbance) -> None:
    wave = voiced()
    one, again = (way.change(wave, RATE, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, again)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    assert len(one) == pytest.approx(len(wave) / way.speed, abs=2)
    assert not np.array_equal(one[:1000], wave[:1000])


def test_later_is_later_by_half_a_frame() -> None:
    wave = voiced(0.1)
    moved = disturb.later(wave, RATE, np.random.default_rng(0), seconds=0.02)
    assert not moved[:320].any()
    assert np.array_equal(moved[320:], wave[:-320])


@pytest.mark.parametrize("snr", [20.0, 10.0])
def test_noise_has_its_ratio(snr: float) -> None:
    wave = voiced()
    added = disturb.noise(wave, RATE, np.random.default_rng(0), snr_db=snr) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.2)


def test_what_is_missing_is_said() -> None:
    made, missing = disturbances(0.04)
    names = " ".join(way.name for way in made)
    assert ("Opus" in names) != ("Opus" in missing)
    assert ("semitones" in names) != ("pitch and formants" in missing)
    assert all(": " in reason for reason in missing.values())


@pytest.mark.skipif(disturb.world_absence() is not None, reason="pyworld is not installed")
def test_the_vocoder_moves_pitch_and_formants_apart() -> None:
    wave, chance = voiced(), np.random.default_rng(0)
    higher = disturb.world(wave, RATE, chance, pitch=2.0, formants=1.0)
    brighter = disturb.world(wave, RATE, chance, pitch=0.0, formants=1.1)
    assert peak_hertz(higher) == pytest.approx(120 * 2 ** (2 / 12), rel=0.02)
    assert peak_hertz(brighter) == pytest.approx(120, rel=0.02)

    def centre(sound: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(sound)) ** 2
        hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
        return float((hertz * power).sum() / power.sum())

    plain = centre(disturb.world(wave, RATE, chance, pitch=0.0, formants=1.0))
    assert centre(brighter) > 1.05 * plain
    assert centre(higher) == pytest.approx(plain, rel=0.05)
