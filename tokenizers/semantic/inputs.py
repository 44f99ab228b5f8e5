"""How samples become the input of an encoder, so that N samples give exactly N // hop frames.

    filterbanks   [N] -> [N // 160, 80] -> normalise each mel -> stack            padding (400 - 160) / 2 on each side
    convolutions  [N] -> zero mean, unit variance -> [N + 2 * padding]            padding (window - hop) / 2
    Whisper       [N] -> silence up to 30 s -> log-mel [mels, 3000]               frame t begins at sample 320 * t

A window of a longer recording is normalised with the moments of the whole one. With a floor, the mean power of white
noise is added to the filterbanks before: background noise that is fainter then moves them little. Knows no weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.moments import Moments
from triptych.tokenizers.waveform import Waveform

PART_SAMPLES = 10 * filterbank.SAMPLE_RATE
"""of a long recording, looked at together for its moments; a whole number of filterbank frames"""


@dataclass(frozen=True)
class FrontEnd:
    """The way in; part of a tokenizer's fingerprint."""

    wave: bool
    """samples into convolutions, or else filterbanks"""
    stride: int
    """filterbank frames of 10 ms an encoder frame"""
    padding: int
    """samples of silence on each side"""
    normalise: bool = True
    """over the clip: each mel, or the samples (do_normalize)"""
    mels: int = 0
    """of Whisper's log-mel spectrogram; 0: another way in"""
    longest: int = 0
    """samples that are always heard, silence where there are fewer (Whisper: 30 s); 0: as many as there are"""
    floor_db: float = 0.0
    """dB under the clip's power of the white noise that is added to its filterbanks; 0: none"""

    @property
    def hop(self) -> int:
        """Samples a frame, at 16 kHz."""
        return filterbank.HOP * self.stride

    def frames(self, samples: int) -> int:
        return samples // self.hop


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """(window, hop) in samples of a stack of convolutions; 400 and 320 for the wav2vec family."""
    window, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        window += (kernel - 1) * hop
        hop *= stride
    return window, hop


@dataclass(frozen=True)
class Whole:
    """What the windows of a long recording are given of all of it."""

    moments: Moments
    floor: filterbank.Frames | None = None
    """[80], where there is one"""


def filterbank_front_end(stride: int, floor_db: float = 0.0) -> FrontEnd:
    return FrontEnd(wave=False, stride=stride, padding=filterbank.PADDING, floor_db=floor_db)


def with_floor(front: FrontEnd, floor_db: float) -> FrontEnd:
    """
    Raises:
        ValueError: another way in than filterbanks, or a floor above the clip.
    """
    if floor_db < 0:
        raise ValueError(f"floor_db = {floor_db}: dB under the clip, 0 or above")
    if floor_db and (front.wave or front.mels):
        raise ValueError("floor_db is for encoders that hear filterbanks (w2v-BERT 2.0), and this one does not")
    return replace(front, floor_db=floor_db)


def wave_front_end(kernels: Sequence[int], strides: Sequence[int], normalise: bool) -> FrontEnd:
    """
    Raises:
        ValueError: the hop is not a whole number of 10 ms, or the padding not the same on both sides.
    """
    window, hop = receptive_field(kernels, strides)
    if hop % filterbank.HOP or (window - hop) % 2 or window < hop:
        raise ValueError(
            f"convolutions with a window of {window} and a hop of {hop} samples cannot be padded to exact frames: "
            f"the hop must be a multiple of {filterbank.HOP}, and window - hop even"
        )
    return FrontEnd(wave=True, stride=hop // filterbank.HOP, padding=(window - hop) // 2, normalise=normalise)


def whisper_front_end(mels: int, positions: int) -> FrontEnd:
    """Whisper's two convolutions, of hops 1 and 2, give each of its `positions` a frame of 20 ms."""
    stride = 2
    return FrontEnd(
        wave=False, stride=stride, padding=0, normalise=False, mels=mels, longest=positions * stride * filterbank.HOP
    )


def whole_of(waveform: Waveform, front: FrontEnd) -> Whole | None:
    """What a long recording [N] is normalised with, found without holding a second copy; None: by nothing."""
    if not front.normalise:
        return None
    moments = Moments(1 if front.wave else filterbank.MELS)
    if front.wave:
        for part in parts_of(waveform):
            moments.add(part[:, None])
        return Whole(moments)
    floor = None
    if front.floor_db:
        power, frames = 0.0, 0
        for part in parts_of(waveform):
            mels = filterbank.log_mels(part)
            if len(mels):
                power, frames = power + filterbank.loudness(mels) * len(mels), frames + len(mels)
        floor = filterbank.white_noise(power / max(1, frames) * 10 ** (-front.floor_db / 10))
    for part in parts_of(waveform):
        heard = filterbank.log_mels(part)
        moments.add(heard if floor is None else filterbank.floored(heard, floor))
    return Whole(moments, floor)


def parts_of(waveform: Waveform) -> Iterator[Waveform]:
    """A long recording [N] piece by piece; views, no copies."""
    for begin in range(0, len(waveform), PART_SAMPLES):
        yield waveform[begin : begin + PART_SAMPLES]


def normalised(mels: filterbank.Frames, front: FrontEnd, whole: Whole | None = None) -> filterbank.Frames:
    """Log-mels [T, 80] with their floor, and normalised, as `front` says; `whole`: of what they are a window of."""
    if front.floor_db and len(mels):
        floor = whole.floor if whole else None
        if floor is None:
            floor = filterbank.white_noise(filterbank.loudness(mels) * 10 ** (-front.floor_db / 10))
        mels = filterbank.floored(mels, floor)
    return filterbank.normalise(mels, whole.moments if whole else None) if front.normalise else mels


def encoder_input(waveform: Waveform, front: FrontEnd, whole: Whole | None = None) -> NDArray[np.float32]:
    """[N] at 16 kHz -> [N // hop, 80 * stride] filterbanks, [N + 2 * padding] samples, or [mels, 3000] for Whisper.

    Args:
        whole: of the recording that `waveform` is a window of; None: it is whole.
    """
    if front.mels:
        return whisper_mels(waveform, front)
    if not front.wave:
        return filterbank.stack(normalised(filterbank.log_mels(waveform), front, whole), front.stride)
    if front.normalise:
        waveform = unit_variance(waveform, whole.moments if whole else None)
    return np.pad(waveform, front.padding).astype(np.float32)


def unit_variance(waveform: Waveform, moments: Moments | None = None) -> Waveform:
    """[N] -> [N], by its own mean and variance or those of what it is a window of (do_normalize)."""
    mean, variance = (waveform.mean(), waveform.var()) if moments is None else (moments.mean, moments.variance())
    return np.asarray((waveform - mean) / np.sqrt(variance + 1e-7), dtype=np.float32)


def whisper_mels(waveform: Waveform, front: FrontEnd) -> NDArray[np.float32]:
    """[N] -> [mels, 3000]: log10 power, cut 8 below the loudest, as Whisper was trained."""
    assert len(waveform) <= front.longest, (len(waveform), front.longest)
    heard = _whisper_extractor(front)(waveform, sampling_rate=filterbank.SAMPLE_RATE, return_tensors="np")
    return np.asarray(heard["input_features"][0], dtype=np.float32)


@cache
def _whisper_extractor(front: FrontEnd) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=front.mels, chunk_length=front.longest // filterbank.SAMPLE_RATE)
