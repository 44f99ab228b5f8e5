"""Augmentation is a function of its generator, keeps shapes, and does what its names say."""

from collections.abc import Callable

import numpy as np
import pytest

from triptych.tokenizers.semantic.augment import AugmentConfig, _warp, augment, erase_bands
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


def test_erased_bands_are_whole_and_bounded() -> None:
    config = AugmentConfig(band_masks=2, band_width=5)
    for seed in range(20):
        erased = erase_bands(np.ones((7, 80), dtype=np.float32), config, np.random.default_rng(seed)) == 0
        assert (erased == erased[0]).all()
        assert erased[0].sum() <= 10
