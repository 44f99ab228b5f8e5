"""How far one waveform is from another to a semantic tokenizer: what words and prosody are heard by, beyond mels.

    waveform [B, N] ─▶ 16 kHz ─▶ filterbanks or samples, normalised as the given one is ─▶ encoder ─▶ hidden states
                                                                                       last one ─CTC head─▶ phonemes

The way in is that of semantic/inputs.py, written so that gradients pass; the encoder is frozen. A feature loss as
Johnson et al. (2016) take it from a network that sees. Knows no codec, and no tokens.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer

TINY = 1e-7
"""added to a variance before it divides"""


@dataclass(frozen=True)
class Known:
    """What the given waveforms are normalised with, and the made ones as well."""

    mean: Tensor
    """[B, 1, 80], or [B, 1] of samples"""
    variance: Tensor
    """likewise"""
    floor: Tensor | None
    """[B, 1, 80], where the front end has one"""


class Ear:
    """Made by `load`, or of a tokenizer. No module: nobody learns or saves its weights.

    Raises:
        ValueError: its encoder always hears 30 seconds (Whisper).
    """

    def __init__(self, tokenizer: SemanticTokenizer, sample_rate: int) -> None:
        self.encoder, self.front = tokenizer.encoder, tokenizer.encoder.front
        if seconds := self.front.longest // filterbank.SAMPLE_RATE:
            raise ValueError(f"{self.encoder.family} always hears {seconds} s, and crops are shorter")
        compared = tokenizer.compared
        self.head = compared.head if compared.phonemes else None
        self.sample_rate = sample_rate

    @classmethod
    def load(cls, folder: str | Path, sample_rate: int) -> "Ear":
        """
        Args:
            folder: of a semantic tokenizer.
            sample_rate: of the waveforms that will be heard.
        Raises:
            ValueError: no such tokenizer, or one that cannot hear crops; one line.
        """
        try:
            return cls(SemanticTokenizer.load(Path(folder)), sample_rate)
        except ValueError as error:
            raise ValueError(f"ear={folder}: {error}; name the folder of a semantic tokenizer") from None

    def distance(self, made: Tensor, given: Tensor) -> Tensor:
        """Of waveforms [B, N], a mean over rows: the mean over hidden states of |made - given| in deviations of the
        given one's, and where the tokenizer hears phonemes, the squared Hellinger distance of their probabilities."""
        model: Any = self.encoder.model
        if model.device != made.device:
            model.to(made.device)
        with torch.no_grad():
            wanted, known = self._input(given)
            wanted_states, wanted_roots = self._hear(wanted)
        states, roots = self._hear(self._input(made, known)[0])
        pairs = zip(states, wanted_states, strict=True)
        apart = [(a - b).abs().mean((1, 2)) / (b.std((1, 2)) + TINY) for a, b in pairs]
        distance = torch.stack(apart).mean()
        if roots is not None and wanted_roots is not None:
            distance = distance + (roots - wanted_roots).square().sum(-1).mean() / 2
        return distance

    def _hear(self, heard: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Input of the encoder -> hidden states [B, T, D] of all blocks; roots of the phonemes' probabilities."""
        states = [state.float() for state in self.encoder.states(heard)]
        if self.head is None:
            return states, None
        weight, bias = (x.to(heard.device) for x in (self.head.weight, self.head.bias))
        logits = (states[-1] @ weight.T + bias).unflatten(-1, (self.head.steps, self.head.blank + 1))
        return states, (logits.log_softmax(dim=-1) / 2).exp()

    def _input(self, waveform: Tensor, known: Known | None = None) -> tuple[Tensor, Known]:
        """[B, N] -> input of the encoder, and what it was normalised with; its own by default."""
        with torch.autocast(waveform.device.type, enabled=False):
            heard, floor = resample(waveform.float(), self.sample_rate), None
            if not self.front.wave:
                heard = log_mels(heard)
                if self.front.floor_db:
                    floor = known.floor if known else floor_of(heard, self.front.floor_db)
                    assert floor is not None
                    heard = torch.logaddexp(heard, floor)
            if known is None:
                variance = heard.var(dim=1, keepdim=True, correction=0 if self.front.wave else 1)
                known = Known(heard.mean(dim=1, keepdim=True), variance, floor)
            if self.front.normalise:
                heard = (heard - known.mean) / (known.variance + TINY).sqrt()
            if self.front.wave:
                return torch.nn.functional.pad(heard, (self.front.padding, self.front.padding)), known
            count = heard.shape[1] // self.front.stride
            return heard[:, : count * self.front.stride].reshape(len(heard), count, -1), known


def resample(waveform: Tensor, sample_rate: int) -> Tensor:
    """[B, N] to 16 kHz, by cutting the spectrum; the ends of a crop reach into each other a little."""
    samples = waveform.shape[1] * filterbank.SAMPLE_RATE // sample_rate
    spectrum = torch.fft.rfft(waveform)
    kept = min(samples // 2 + 1, spectrum.shape[1])
    resampled: Tensor = torch.fft.irfft(spectrum[:, :kept], samples) * (samples / waveform.shape[1])
    return resampled


def log_mels(waveform: Tensor) -> Tensor:
    """[B, N] at 16 kHz -> [B, N // 160, 80]: the numbers of `filterbank.log_mels`, through which gradients pass."""
    count = waveform.shape[1] // filterbank.HOP
    padded = torch.nn.functional.pad(waveform * 2**15, (filterbank.PADDING, filterbank.PADDING))
    windows = padded.unfold(1, filterbank.WINDOW, filterbank.HOP)[:, :count]
    windows = windows - windows.mean(dim=-1, keepdim=True)
    before = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
    povey, filters = (x.to(waveform.device) for x in tables())
    spectrum = torch.fft.rfft((windows - filterbank.EMPHASIS * before) * povey, n=512)
    power = torch.view_as_real(spectrum).square().sum(-1)
    return (power @ filters).clamp(min=filterbank.FLOOR).log()


def floor_of(mels: Tensor, floor_db: float) -> Tensor:
    """[B, 1, 80] under log-mels [B, T, 80]: `filterbank.white_noise` so many dB under their `filterbank.loudness`."""
    width, white = (torch.from_numpy(x).float().to(mels.device) for x in filterbank.white_mels())
    power = (mels.exp().mean(dim=1, keepdim=True) * width / white).sum(-1, keepdim=True) * 10 ** (-floor_db / 10)
    return (power / width.sum() * white + filterbank.FLOOR).log()


@cache
def tables() -> tuple[Tensor, Tensor]:
    """Window [400] and mel filters [257, 80] of Kaldi's filterbanks."""
    window = np.hanning(filterbank.WINDOW) ** 0.85
    return torch.from_numpy(window).float(), torch.from_numpy(filterbank.mel_filters()).float()
