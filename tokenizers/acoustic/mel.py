"""How far one waveform is from another, to an ear: log-mel spectrograms at several scales (Zeghidour et al. 2021;
Kumar et al. 2023), and the waveform itself. Knows no codec."""

import torch
from torch import Tensor, nn


class SoundDistance(nn.Module):
    """What a decoder is trained by: `MelDistance`, and L1 relative to the level of the sound."""

    def __init__(self, sample_rate: int, windows: tuple[int, ...], waveform_weight: float) -> None:
        super().__init__()
        self.mel, self.waveform_weight = MelDistance(sample_rate, windows), waveform_weight

    def forward(self, made: Tensor, given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance of waveforms [B, N], and its two parts."""
        mel = self.mel(made, given)
        level = given.square().mean(dim=1, keepdim=True).sqrt() + 1e-4
        waveform = ((made - given).abs() / level).mean()
        return mel + self.waveform_weight * waveform, {"mel": mel.detach(), "waveform": waveform.detach()}


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
        """[B, N] to log mel [B, F, M], floored 80 dB under full scale."""
        hann = getattr(self, f"hann_{window}")
        spectrum = torch.stft(waveform, window, window // 4, window=hann, return_complex=True)
        magnitude = torch.view_as_real(spectrum).square().sum(-1).add(1e-10).sqrt() / hann.sum()
        return torch.log(magnitude.transpose(1, 2) @ getattr(self, f"bank_{window}") + 1e-4)

    def forward(self, made: Tensor, given: Tensor) -> Tensor:
        with torch.autocast(made.device.type, enabled=False):
            distances = []
            for window in self.windows:
                with torch.no_grad():
                    wanted = self.spectrogram(given, window)
                distances.append((self.spectrogram(made, window) - wanted).abs().mean())
        return torch.stack(distances).sum()
