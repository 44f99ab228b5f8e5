"""Kaldi-style log-mel filterbanks, fast, and what is derived from them: normalised encoder input, MFCCs.

    waveform [N] --pad 120 | 120--> N // 160 windows of 400 samples --FFT, 80 mels, log--> [N // 160, 80], 100 Hz
                 --mean and variance of each mel over the clip--> --stack `stride`--> [N // (160 * stride), 80 * stride]

Invariant: `log_mels` equals transformers' SeamlessM4TFeatureExtractor (w2v-BERT 2.0's front end) on the padded
waveform. Knows no encoder.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from triptych.tokenizers.semantic.moments import Moments
from triptych.tokenizers.waveform import Waveform

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 160
MELS = 80
PADDING = (WINDOW - HOP) // 2
"""samples of silence on each side: then a clip of N samples has exactly N // 160 frames"""
FLOOR = 1.192092955078125e-07
EMPHASIS = 0.97
CEPSTRA = 13

Frames = NDArray[np.float32]
"""[T, D]"""


@cache
def mel_filters() -> NDArray[np.float64]:
    """[257, 80], triangles in the mel scale of Kaldi, 20 Hz to the Nyquist frequency."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=MELS,
        min_frequency=20,
        max_frequency=SAMPLE_RATE // 2,
        sampling_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return np.asarray(filters, dtype=np.float64)


@cache
def mel_centres() -> NDArray[np.float64]:
    """[80], Hz: where each mel filter lies (inverse of Kaldi's mel scale)."""
    edges = 1127.0 * np.log1p(np.array([20.0, SAMPLE_RATE / 2]) / 700.0)
    mels = np.linspace(edges[0], edges[1], MELS + 2)[1:-1]
    return np.asarray(700.0 * np.expm1(mels / 1127.0), dtype=np.float64)


@cache
def white_mels() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[80] each: width of each mel filter, and its power for white noise of unit density, which the pre-emphasis makes
    tens of times greater at the top than at the bottom."""
    filters, turn = mel_filters(), np.linspace(0, np.pi, 257)
    emphasis = 1 + EMPHASIS**2 - 2 * EMPHASIS * np.cos(turn)
    return filters.sum(axis=0), emphasis @ filters


def log_mels(waveform: Waveform) -> Frames:
    """[N] at 16 kHz -> [N // 160, 80], natural logarithm of power, not normalised."""
    count = len(waveform) // HOP
    if count == 0:
        return np.zeros((0, MELS), dtype=np.float32)
    padded = np.pad(waveform.astype(np.float64) * 2**15, PADDING)  # Kaldi counts in 16-bit integers
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    windows = windows - windows.mean(axis=1, keepdims=True)
    emphasised = windows.copy()
    emphasised[:, 1:] -= EMPHASIS * windows[:, :-1]
    emphasised[:, 0] *= 1 - EMPHASIS
    povey = np.hanning(WINDOW) ** 0.85
    spectrum = fft.rfft(emphasised * povey, n=512, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.asarray(np.log(np.maximum(FLOOR, power @ mel_filters())), dtype=np.float32)


def loudness(mels: Frames) -> float:
    """Power of the samples of which [T, 80] are the log-mels, up to a constant: bands widen and pre-emphasis rises
    towards the top, where speech has little."""
    width, white = white_mels()
    return float(np.sum(np.exp(mels).mean(axis=0, dtype=np.float64) * width / white))


def white_noise(power: float) -> Frames:
    """[80]: log-mels of white noise of that `loudness`, as they are on average."""
    width, white = white_mels()
    return np.asarray(np.log(power / np.sum(width) * white + FLOOR), dtype=np.float32)


def floored(mels: Frames, floor: Frames) -> Frames:
    """[T, 80] with the power of a floor [80] added: what is fainter is told apart no more."""
    return np.asarray(np.logaddexp(mels, floor), dtype=np.float32)


def normalise(mels: Frames, moments: Moments | None = None) -> Frames:
    """Zero mean and unit variance of each mel over the clip, or by the `moments` of what the clip is a window of."""
    if moments is not None:
        mean, variance = moments.mean, moments.variance(correction=1)
    elif len(mels) < 2:  # one frame has no variance
        return np.zeros_like(mels)
    else:
        mean, variance = mels.mean(axis=0, dtype=np.float64), mels.var(axis=0, ddof=1, dtype=np.float64)
    return np.asarray((mels - mean) / np.sqrt(variance + 1e-7), dtype=np.float32)


def stack(frames: Frames, stride: int) -> Frames:
    """[T, D] -> [T // stride, D * stride]; what is left at the end is dropped."""
    count = len(frames) // stride
    return np.ascontiguousarray(frames[: count * stride].reshape(count, frames.shape[1] * stride))


def mfcc(mels: Frames, stride: int) -> Frames:
    """[T, 80] -> [T // stride, 39]: 13 cepstra with first and second differences, averaged over the stride.

    Mean and variance are taken out over the clip, which removes the channel and part of the voice.
    """
    if len(mels) < stride:
        return np.zeros((0, 3 * CEPSTRA), dtype=np.float32)
    cepstra = fft.dct(mels.astype(np.float64), type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    first = _difference(cepstra)
    features = np.concatenate([cepstra, first, _difference(first)], axis=1)
    count = len(features) // stride
    pooled = features[: count * stride].reshape(count, stride, -1).mean(axis=1)
    return np.asarray((pooled - pooled.mean(axis=0)) / (pooled.std(axis=0) + 1e-3), dtype=np.float32)


def _difference(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """The regression slope over two frames on each side."""
    wide = np.pad(frames, ((2, 2), (0, 0)), mode="edge")
    return np.asarray((wide[3:-1] - wide[1:-3] + 2 * (wide[4:] - wide[:-4])) / 10, dtype=np.float64)
