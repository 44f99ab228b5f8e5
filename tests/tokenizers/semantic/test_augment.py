"""Augmentation is a function of its generator, keeps shapes, and does what its names say."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.tokenizers.semantic.augment import (
    AugmentConfig,
    _warp,
    augment,
    change_wave,
    clean_frames,
    erase_bands,
    faster_mels,
    faster_waves,
    mix_mels,
    mix_span,
    mix_waves,
    move_voice,
    noise_level,
)
from triptych.tokenizers.semantic.filterbank import log_mels, mel_centres
from triptych.tokenizers.waveform import Waveform

Sound = Callable[[int, int], Waveform]
ALWAYS = AugmentConfig(share=1.0, noise_share=1.0)


def test_pure_function_of_the_generator(sound: Sound) -> None:
    mels = log_mels(sound(16000, 0))
    first, again, other = (augment(mels, ALWAYS, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == mels.shape
    assert first.dtype == np.float32


def test_share_zero_changes_nothing(sound: Sound) -> None:
    mels = log_mels(sound(8000, 0))
    assert np.array_equal(augment(mels, AugmentConfig(share=0.0), np.random.default_rng(0)), mels)


@pytest.mark.parametrize("factor", [0.88, 1.12])
def test_warp_moves_a_tone_by_its_factor(factor: float) -> None:
    tone = np.sin(2 * np.pi * 1500 * np.arange(8000) / 16000).astype(np.float32)
    peak = mel_centres()[int(_warp(log_mels(tone), factor)[20].argmax())]
    assert peak * factor == pytest.approx(1500, rel=0.05)


def test_warp_by_one_is_the_identity(sound: Sound) -> None:
    mels = log_mels(sound(8000, 0))
    assert np.abs(_warp(mels, 1.0) - mels).max() < 1e-3


def test_noise_fills_silence_and_spares_loud_frames(sound: Sound) -> None:
    mels = log_mels(sound(16000, 0))
    mels[:50] -= 30
    config = AugmentConfig(share=1.0, noise_share=1.0, warp=0.0, equalise_db=0.0, noise_snr_db=(30.0, 30.0))
    changed = np.abs(augment(mels, config, np.random.default_rng(0)) - mels)
    assert changed[:50].mean() > 10 * changed[50:].mean()


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_noise_on_mels_is_as_loud_in_every_band_as_on_samples(sound: Sound, snr_db: float) -> None:
    generator, clean = np.random.default_rng(0), sound(32000, 0)
    white = generator.standard_normal(len(clean)) * np.sqrt(np.mean(clean**2)) * 10 ** (-snr_db / 20)
    heard = np.log(np.exp(log_mels(white.astype(np.float32))).mean(axis=0))
    level = noise_level(log_mels(clean), snr_db, np.zeros(80, np.float32))
    assert np.abs(heard - level).max() < 0.5  # 2 dB


def test_erased_bands_are_whole_and_bounded() -> None:
    config = AugmentConfig(band_masks=2, band_width=5)
    for seed in range(20):
        erased = erase_bands(np.ones((7, 80), dtype=np.float32), config, np.random.default_rng(seed)) == 0
        assert (erased == erased[0]).all()
        assert erased[0].sum() <= 10


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 50))
def test_what_is_mixed_in_fits_both(frames: int, other: int, seed: int) -> None:
    config = AugmentConfig(mix_share=1.0, mix_longest=0.5)
    span = mix_span(frames, other, config, np.random.default_rng(seed))
    assert span is not None
    into, part, ratio = span
    assert into.stop - into.start == part.stop - part.start <= max(1, frames // 2)
    assert 0 <= into.start < into.stop <= frames
    assert 0 <= part.start < part.stop <= other
    assert -5 <= ratio <= 5
    assert mix_span(frames, other, AugmentConfig(), np.random.default_rng(seed)) is None


def test_mixing_on_filterbanks_is_mixing_of_samples(sound: Sound) -> None:
    """Up to the phases, which powers do not know: a few dB at single points, nothing in the mean."""
    one, other = sound(32000, 0), sound(32000, 1)
    span = (slice(0, 200), slice(0, 200), 3.0)
    samples = (slice(0, 32000), slice(0, 32000), 3.0)
    on_mels = mix_mels(log_mels(one), log_mels(other), span)
    on_samples = log_mels(mix_waves(one, other, samples))
    apart = (on_mels - on_samples) * 10 / np.log(10)
    assert abs(apart.mean()) < 1.5
    assert np.median(np.abs(apart)) < 3.0


@given(st.integers(20, 300), st.floats(0.9, 1.1))
def test_speed_keeps_frames_aligned(frames: int, speed: float) -> None:
    """A ramp in time, made faster, holds at each frame the time that it says it is of."""
    ramp = np.repeat(np.arange(frames, dtype=np.float32)[:, None], 80, axis=1)
    faster = faster_mels(ramp, speed)
    places = clean_frames(len(faster), frames, speed)
    assert abs(len(faster) - frames / speed) <= 0.5
    assert np.abs(faster[:, 0] - places).max() <= 1.0
    assert (np.diff(places) >= 0).all()


def test_faster_samples_are_fewer(sound: Sound) -> None:
    heard = sound(16000, 0)
    assert len(faster_waves(heard, 1.05)) == pytest.approx(16000 / 1.05, abs=2)
    assert faster_waves(heard, 1.0) is heard


def test_pitch_moves_harmonics_and_formants_stay() -> None:
    """A pulse train through a resonance, an octave of partials: another pitch, the same envelope."""
    time = np.arange(16000) / 16000
    tone = sum(np.exp(-(((f - 900) / 500) ** 2)) * np.sin(2 * np.pi * f * time) for f in range(200, 3000, 200))
    mels = log_mels((0.1 * tone).astype(np.float32))
    lower = move_voice(mels, 1.0, 1.12)
    smooth = np.ones(9) / 9

    def envelope(frames: np.ndarray) -> np.ndarray:
        return np.convolve(frames[20:60].mean(axis=0), smooth, mode="valid")

    inside = slice(10, 40)
    assert np.abs(lower - mels)[20:60, inside].mean() > 5 * np.abs(envelope(lower) - envelope(mels))[inside].mean() / 2
    warped = _warp(mels, 1.12)
    assert (
        np.abs(envelope(warped) - envelope(mels))[inside].mean()
        > np.abs(envelope(lower) - envelope(mels))[inside].mean()
    )


def test_samples_are_equalised_and_noisy(sound: Sound) -> None:
    heard = sound(16000, 0)
    config = AugmentConfig(share=1.0, noise_share=1.0, noise_snr_db=(20.0, 20.0), equalise_db=0.0)
    noise = change_wave(heard, config, np.random.default_rng(0)) - heard
    assert 10 * np.log10(np.mean(heard**2) / np.mean(noise**2)) == pytest.approx(20.0, abs=0.3)
    equalised = change_wave(heard, AugmentConfig(share=1.0, noise_share=0.0), np.random.default_rng(0))
    assert equalised.dtype == np.float32
    assert len(equalised) == len(heard)
    assert np.abs(equalised - heard).max() > 0.01
