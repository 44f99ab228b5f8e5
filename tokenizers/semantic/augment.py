"""Changes a listener would forgive, made to log-mel frames: another voice, another microphone, a noisy room.

    log-mels [T, 80] --warp the mel axis (vocal tract)--> --equalise--> --add noise--> --erase bands--> [T, 80]

The targets are made of the clean clip, so the encoder learns to hear through these changes. All chance comes from the
generator that is passed in. Knows no encoder.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from triptych.tokenizers.semantic.filterbank import MELS, SAMPLE_RATE, Frames, mel_centres
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """How much the encoder's input is changed while it learns."""

    share: float = 0.8
    """of the clips that are changed at all"""
    warp: float = 0.12
    """the frequency axis is stretched by up to this share either way (vocal tract length)"""
    equalise_db: float = 9.0
    """standard deviation of a smooth random curve over the mels"""
    noise_snr_db: tuple[float, float] = (5.0, 35.0)
    """range of the signal-to-noise ratio of added stationary noise"""
    noise_share: float = 0.6
    """of the changed clips that get noise"""
    band_masks: int = 2
    """bands of mels that are erased (SpecAugment)"""
    band_width: int = 12
    """mels: the widest erased band"""


def _warp(frames: Frames, factor: float) -> Frames:
    """Reads the spectrum at `factor` times each frequency, a piecewise-linear warp with fixed ends."""
    centres = mel_centres()
    nyquist = SAMPLE_RATE / 2
    knee = 0.6 * nyquist / max(factor, 1.0)
    upper = knee * factor + (centres - knee) * (nyquist - knee * factor) / (nyquist - knee)
    source = np.interp(np.where(centres < knee, centres * factor, upper), centres, np.arange(MELS))
    low = np.minimum(source.astype(np.intp), MELS - 2)
    share = (source - low).astype(np.float32)
    return np.asarray(frames[:, low] * (1 - share) + frames[:, low + 1] * share, dtype=np.float32)


def _smooth_curve(generator: np.random.Generator, knots: int = 6) -> NDArray[np.float32]:
    """[80]: a random curve of unit standard deviation at its knots."""
    places = np.linspace(0, MELS - 1, knots)
    return np.interp(np.arange(MELS), places, generator.standard_normal(knots)).astype(np.float32)


def augment(frames: Frames, config: AugmentConfig, generator: np.random.Generator) -> Frames:
    """Log-mels [T, 80] changed as `config` says; erased bands come later, after normalisation (`erase_bands`)."""
    if generator.random() >= config.share or len(frames) == 0:
        return frames
    decibel = np.float32(np.log(10) / 10)
    if config.warp:
        frames = _warp(frames, float(np.exp(generator.uniform(-1, 1) * np.log1p(config.warp))))
    frames = frames + config.equalise_db * decibel * _smooth_curve(generator)
    if generator.random() < config.noise_share:
        ratio = np.float32(generator.uniform(*config.noise_snr_db)) * decibel
        speech = np.log(np.mean(np.exp(frames), dtype=np.float64))
        curve = 6 * decibel * _smooth_curve(generator) + np.float32(speech) - ratio
        # the power of a noise band is chi-square distributed around its mean
        noise = curve + np.log(generator.gamma(4.0, 0.25, frames.shape).astype(np.float32) + 1e-6)
        frames = np.logaddexp(frames, noise)
    return frames


def erase_bands(frames: Frames, config: AugmentConfig, generator: np.random.Generator) -> Frames:
    """Normalised log-mels [T, 80] with up to `band_masks` bands set to 0, their mean."""
    frames = frames.copy()
    for _ in range(int(generator.integers(0, config.band_masks + 1))):
        width = int(generator.integers(1, config.band_width + 1))
        begin = int(generator.integers(0, MELS - width + 1))
        frames[:, begin : begin + width] = 0
    return frames
