"""How samples become the input of an encoder, so that N samples give exactly N // hop frames.

    filterbanks   [N] -> [N // 160, 80] -> normalise each mel -> stack            padding (400 - 160) / 2 on each side
    convolutions  [N] -> zero mean, unit variance -> [N + 2 * padding]            padding (window - hop) / 2
    Whisper       [N] -> silence up to 30 s -> log-mel [mels, 3000]               frame t begins at sample 320 * t

A window of a longer recording is normalised with the moments of the whole one. Knows no weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


def filterbank_front_end(stride: int) -> FrontEnd:
    return FrontEnd(wave=False, stride=stride, padding=filterbank.PADDING)


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


def moments_of(waveform: Waveform, front: FrontEnd) -> Moments | None:
    """What a long recording [N] is normalised with, found without holding a second copy; None: by nothing."""
    if not front.normalise:
        return None
    moments = Moments(1 if front.wave else filterbank.MELS)
    for part in parts_of(waveform):
        moments.add(part[:, None] if front.wave else filterbank.log_mels(part))
    return moments


def parts_of(waveform: Waveform) -> Iterator[Waveform]:
    """A long recording [N] piece by piece; views, no copies."""
    for begin in range(0, len(waveform), PART_SAMPLES):
        yield waveform[begin : begin + PART_SAMPLES]


def encoder_input(waveform: Waveform, front: FrontEnd, moments: Moments | None = None) -> NDArray[np.float32]:
    """[N] at 16 kHz -> [N // hop, 80 * stride] filterbanks, [N + 2 * padding] samples, or [mels, 3000] for Whisper.

    Args:
        moments: of the recording that `waveform` is a window of; None: it is whole.
    """
    if front.mels:
        return whisper_mels(waveform, front)
    if not front.wave:
        mels = filterbank.log_mels(waveform)
        return filterbank.stack(filterbank.normalise(mels, moments) if front.normalise else mels, front.stride)
    if front.normalise:
        waveform = unit_variance(waveform, moments)
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
