"""A discriminator and its losses: EnCodec's of spectrograms (Défossez et al. 2022, section 3.4, figure 2) and of
periods (HiFi-GAN, Kong et al. 2020, section 2.3).

    waveform [B, N] ─STFT, several windows─▶ real and imaginary part [B, 2, M, F] ─convolutions─▶ logits [B, 1, M, F/8]
                    ─every p-th sample, several p─▶ rows [B, p, N/p] ─convolutions along each─▶ logits [B, p, 1, N/81p]

Each sub-network sees one window or period. It knows the phase, which log-mel distances do not, and it is never
finished: what they leave blurred, it goes on to tell from speech. Knows no codec.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import weight_norm

from triptych.tokenizers.acoustic.settings import DiscriminatorConfig
from triptych.training.distributed import mean_over_ranks

SLOPE = 0.2
"""of the leaky rectifiers, below zero"""
Seen = tuple[list[Tensor], list[list[Tensor]]]
"""what a discriminator makes of waveforms [B, N]: logits of each sub-network, and the features under them"""


class SpectrogramDiscriminator(nn.Module):
    """One sub-network: convolutions over a complex spectrogram, dilated in time, with a stride in frequency."""

    def __init__(self, window: int, level: float, said: DiscriminatorConfig) -> None:
        """`level`: root mean square of the waveforms to come; the spectrogram is in units of it."""
        super().__init__()
        self.window, self.level, filters = window, level, said.filters
        self.compression, self.floor = said.compression, said.floor
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        self.hann: Tensor
        convolutions = [nn.Conv2d(2, filters, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):
            convolutions.append(
                nn.Conv2d(filters, filters, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            )
        convolutions.append(nn.Conv2d(filters, filters, 3, padding=1))
        self.convolutions = nn.ModuleList(_unit_gain(convolution, SLOPE) for convolution in convolutions)
        self.last = _unit_gain(nn.Conv2d(filters, 1, 3, padding=1), 1.0)

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, 1, M, F'] and the features of each layer [B, C, M, F''] of waveforms [B, N], N ≥ the window."""
        with torch.autocast(waveform.device.type, enabled=False):
            scaled = waveform.float() / self.level
            spectrum = torch.stft(
                scaled, self.window, self.window // 4, window=self.hann, center=False, return_complex=True
            )
            parts = torch.view_as_real(spectrum / self.hann.norm())
            if self.compression < 1:
                size = parts.square().sum(-1, keepdim=True).add(self.floor**2).sqrt()
                parts = parts * size.pow(self.compression - 1)
            seen = parts.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)
        features = []
        for convolution in self.convolutions:
            seen = functional.leaky_relu(convolved(seen, convolution), SLOPE)
            features.append(seen)
        return self.last(seen), features


class PeriodDiscriminator(nn.Module):
    """One sub-network: convolutions along every `period`-th sample, which see the shape of each pulse of the voice.

    The paper's convolutions have a kernel of 5 by 1; a row of samples of its own is the same, and on a CPU faster.
    """

    def __init__(self, period: int, level: float, filters: int) -> None:
        """`level`: as of `SpectrogramDiscriminator`."""
        super().__init__()
        self.period, self.level = period, level
        widths = [1, *(filters * 2 ** min(layer, 3) for layer in range(4))]
        convolutions = [nn.Conv1d(a, b, 5, stride=3, padding=2) for a, b in pairwise(widths)]
        convolutions.append(nn.Conv1d(widths[-1], widths[-1], 5, padding=2))
        self.convolutions = nn.ModuleList(_unit_gain(convolution, SLOPE) for convolution in convolutions)
        self.last = _unit_gain(nn.Conv1d(widths[-1], 1, 3, padding=1), 1.0)

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, p, 1, M] and the features of each layer [B, p, C, M'] of waveforms [B, N]."""
        rows, period = len(waveform), self.period
        whole = functional.pad(waveform.float() / self.level, (0, -waveform.shape[1] % period))
        seen = whole.unflatten(1, (-1, period)).transpose(1, 2).flatten(0, 1)[:, None]
        features = []
        for convolution in self.convolutions:
            seen = functional.leaky_relu(convolution(seen), SLOPE)
            features.append(seen.unflatten(0, (rows, period)))
        logits: Tensor = self.last(seen)
        return logits.unflatten(0, (rows, period)), features


def convolved(seen: Tensor, convolution: nn.Module) -> Tensor:
    """[B, C, M, F] through a convolution that may be dilated in time.

    On a CPU every d-th frame goes into a row of its own, where a dilation of d is none: the same sums, without the
    dilation, under which the backward pass takes several times as long.
    """
    assert isinstance(convolution, nn.Conv2d)
    (d, across), frames = convolution.dilation, seen.shape[2]
    if d == 1 or seen.device.type != "cpu":
        whole: Tensor = convolution(seen)
        return whole
    (before, beside), stride = map(int, convolution.padding), convolution.stride
    assert (before % d, across, stride[0]) == (0, 1, 1)
    last = functional.pad(seen, (0, 0, 0, -frames % d)).permute(0, 2, 3, 1)  # channels last, as they lie in memory
    rows = last.unflatten(1, (-1, d)).transpose(1, 2).flatten(0, 1).permute(0, 3, 1, 2)
    made = functional.conv2d(rows, convolution.weight, convolution.bias, stride, padding=(before // d, beside))
    last = made.permute(0, 2, 3, 1).unflatten(0, (-1, d)).transpose(1, 2).flatten(1, 2)[:, :frames]
    unfolded: Tensor = last.permute(0, 3, 1, 2)
    return unfolded


def _unit_gain(convolution: nn.Conv1d | nn.Conv2d, slope: float) -> nn.Module:
    """Weight norm (Salimans and Kingma 2016) over weights under which a signal keeps its size through the layers (He et
    al. 2015). With torch's own it fades: logits near 0 whatever is heard, and nothing learned for hundreds of steps.
    """
    inputs = convolution.in_channels * math.prod(convolution.kernel_size)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (1 + slope**2) / inputs))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    normed: nn.Module = weight_norm(convolution)
    return normed


class Discriminator(nn.Module):
    """All sub-networks.

    Raises:
        ValueError: a window longer than a crop.
    """

    def __init__(self, said: DiscriminatorConfig, level: float, crop: int) -> None:
        super().__init__()
        if said.windows and max(said.windows) > crop:
            raise ValueError(
                f"discriminator.windows: {max(said.windows)} samples do not fit in a crop of {crop}: raise crop_seconds"
            )
        self.scales = nn.ModuleList(SpectrogramDiscriminator(window, level, said) for window in said.windows)
        self.scales.extend(PeriodDiscriminator(period, level, said.period_filters) for period in said.periods)

    def forward(self, waveform: Tensor, scales: Sequence[int] | None = None) -> Seen:
        """Waveforms [B, N] as each sub-network sees them, or those that `scales` names."""
        seen = [self.scales[i](waveform) for i in (range(len(self.scales)) if scales is None else scales)]
        return [logits for logits, _ in seen], [features for _, features in seen]


def telling_loss(given: list[Tensor], made: list[Tensor]) -> Tensor:
    """The discriminator's hinge loss of its logits, a mean over sub-networks; 2 when it cannot tell at all."""
    pairs = zip(given, made, strict=True)
    return torch.stack([relu(1 - real.float()).mean() + relu(1 + fake.float()).mean() for real, fake in pairs]).mean()


def fooling_loss(made: list[Tensor]) -> Tensor:
    """The codec's hinge loss, equation 1."""
    return torch.stack([relu(1 - fake.float()).mean() for fake in made]).mean()


def feature_distance(given: list[list[Tensor]], made: list[list[Tensor]], paired: Tensor | None = None) -> Tensor:
    """Mean absolute distance of features, each relative to the mean size of the given one: equation 2. Of the rows
    `paired` [B] alone; 0 where there are none."""
    given_flat = [layer.detach().float() for scale in given for layer in scale]
    made_flat = [layer.float() for scale in made for layer in scale]
    sizes = mean_over_ranks(torch.stack([layer.abs().mean() for layer in given_flat]))
    apart = [(fake - real).abs() for fake, real in zip(made_flat, given_flat, strict=True)]
    if paired is not None and not paired.any():
        return torch.stack([layer.sum() for layer in apart]).sum() * 0.0
    distances = [layer.mean() if paired is None else layer[paired].mean() for layer in apart]
    return (torch.stack(distances) / (sizes + 1e-8)).mean()
