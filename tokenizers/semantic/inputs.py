"""How samples become the input of an encoder, so that N samples give exactly N // hop frames.

    filterbanks   [N] -> [N // 160, 80] -> normalise each mel -> stack            padding (400 - 160) / 2 on each side
    convolutions  [N] -> zero mean, unit variance -> [N + 2 * padding]            padding (window - hop) / 2

Knows no weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.waveform import Waveform


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


def encoder_input(waveform: Waveform, front: FrontEnd) -> NDArray[np.float32]:
    """[N] at 16 kHz -> [N // hop, 80 * stride] filterbanks, or [N + 2 * padding] samples."""
    if not front.wave:
        mels = filterbank.log_mels(waveform)
        return filterbank.stack(filterbank.normalise(mels) if front.normalise else mels, front.stride)
    if front.normalise:
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    return np.pad(waveform, front.padding).astype(np.float32)
