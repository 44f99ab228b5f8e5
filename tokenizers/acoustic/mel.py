"""How far one waveform is from another, to an ear: log-mel spectrograms at several scales (Zeghidour et al. 2021;
Kumar et al. 2023), and the waveform itself; and two waveforms to an eye. Knows no codec."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from triptych.tokenizers.acoustic.ear import Ear

OF_PAIRS = "mel", "waveform", "feature"
"""losses of waveforms that belong together sample by sample"""


class SoundDistance(nn.Module):
    """What a decoder is trained by: `MelDistance`, L1 relative to the level of the sound, and what an `Ear` says."""

    def __init__(
        self,
        sample_rate: int,
        windows: tuple[int, ...],
        waveform_weight: float,
        ear: Ear | None = None,
        ear_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.mel, self.waveform_weight = MelDistance(sample_rate, windows), waveform_weight
        self.ear, self.ear_weight = ear, ear_weight

    def forward(self, made: Tensor, given: Tensor, paired: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance of waveforms [B, N], and its parts. The gradient of what is of some rows is that of a mean over all:
        micro-batches and ranks have different numbers of them."""
        parts = self.parts(made, given, paired)
        if paired is not None:
            share = float(paired.float().mean())
            for name in ("mel", "waveform"):
                parts[name] = parts[name] * share + (parts[name] * (1 - share)).detach()
        return self.total(parts), told(parts, paired)

    def parts(self, made: Tensor, given: Tensor, paired: Tensor | None = None) -> dict[str, Tensor]:
        """The distances of waveforms [B, N], each a mean over rows; all but the ear's of the rows `paired` [B] alone,
        nothing where there are none."""
        a, b = (made, given) if paired is None else (made[paired], given[paired])
        level = b.square().mean(dim=1, keepdim=True).sqrt() + 1e-4
        if len(a):
            parts = {"mel": self.mel(a, b), "waveform": ((a - b).abs() / level).mean()}
        else:
            parts = dict.fromkeys(("mel", "waveform"), nothing(made))
        return parts if self.ear is None else {**parts, "ear": self.ear.distance(made, given)}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The distance of which these are the parts."""
        total = parts["mel"] + self.waveform_weight * parts["waveform"]
        return total if self.ear is None else total + self.ear_weight * parts["ear"]


def told(parts: Mapping[str, Tensor], paired: Tensor | None) -> dict[str, Tensor]:
    """What is logged of losses: no number for those of pairs where there are none."""
    metrics = {name: part.detach() for name, part in parts.items()}
    if paired is not None and not paired.any():
        metrics |= {name: torch.full_like(metrics[name], math.nan) for name in OF_PAIRS if name in metrics}
    return metrics


def nothing(made: Tensor) -> Tensor:
    """A loss of 0 with a gradient of 0."""
    return made.sum() * 0.0


class MelDistance(nn.Module):
    """Sum over windows of the mean absolute distance of natural-log mel spectrograms."""

    def __init__(self, sample_rate: int, windows: tuple[int, ...]) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.windows = windows
        for window in windows:
            bank = mel_filter_bank(
                num_frequency_bins=window // 2 + 1,
                num_mel_filters=max(5, window * 80 // 1024),
                min_frequency=0.0,
                max_frequency=sample_rate / 2,
                sampling_rate=sample_rate,
                norm="slaney",
                mel_scale="slaney",
            )
            bank = bank / (bank.sum(0, keepdims=True) + 1e-8)
            self.register_buffer(f"bank_{window}", torch.from_numpy(bank).float(), persistent=False)
            self.register_buffer(f"hann_{window}", torch.hann_window(window), persistent=False)

    def spectrogram(self, waveform: Tensor, window: int) -> Tensor:
        """[B, N] to log mel [B, M, F], floored 80 dB under full scale."""
        hann = getattr(self, f"hann_{window}")
        spectrum = torch.fft.rfft(overlapping(waveform, window) * hann)
        magnitude = torch.view_as_real(spectrum).square().sum(-1).add(1e-10).sqrt() / hann.sum()
        return torch.log(magnitude @ getattr(self, f"bank_{window}") + 1e-4)

    def forward(self, made: Tensor, given: Tensor) -> Tensor:
        with torch.autocast(made.device.type, enabled=False):
            distances = []
            for window in self.windows:
                with torch.no_grad():
                    wanted = self.spectrogram(given, window)
                distances.append((self.spectrogram(made, window) - wanted).abs().mean())
        return torch.stack(distances).sum()


def overlapping(waveform: Tensor, window: int) -> Tensor:
    """Frames [B, M, window] of waveforms [B, N], a quarter of the window apart, centred as `torch.stft` centres them.

    The same numbers as its own, and on a CPU a fifth faster with the gradient: quarters are laid side by side and their
    gradients added, where it scatters them.
    """
    quarter = window // 4
    padded = nn.functional.pad(waveform[:, None], (window // 2, window // 2), mode="reflect")[:, 0]
    count = padded.shape[1] // quarter
    quarters = padded[:, : count * quarter].view(len(padded), count, quarter)
    return torch.cat([quarters[:, at : count - 3 + at] for at in range(4)], dim=-1)


@torch.no_grad()
def side_by_side(given: Tensor, coded: Tensor, sample_rate: int, window: int = 1024) -> Tensor:
    """Log-mel spectrograms of waveforms [N], given on the left and coded on the right: pixels [3, F, 2·M + 4].

    Low frequencies at the bottom; both have the brightness of the given one.
    """
    from matplotlib import colormaps

    mel = MelDistance(sample_rate, (window,))
    left, right = (mel.spectrogram(w.detach().float().cpu()[None], window)[0].T.flip(0) for w in (given, coded))
    gap = torch.full((len(left), 4), float(left.max()))
    grey = torch.cat([left, gap, right], dim=1)
    grey = ((grey - left.min()) / (left.max() - left.min() + 1e-6)).clamp(0, 1)
    return torch.from_numpy(colormaps["magma"](grey.numpy())[..., :3]).permute(2, 0, 1).float()
