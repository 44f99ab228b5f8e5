"""The modules that learn while a codec is trained, and their config.

    waveform [B, N] ─encoder─▶ latent [B, D, T'] ─residual quantizer─▶ quantised [B, D, T'] ─decoder─▶ waveform

  1. the first steps run unquantised, while a reservoir gathers latents
  2. the codebooks start as k-means of the reservoir: real vectors, no dead entries
  3. each row then keeps all levels, or (half of the time) a random number of them
Codebooks follow by moving averages and dead entries are redrawn from the batch; commitment after van den Oord et al.
2017. The quantizer is vector-quantize-pytorch's, since transformers' one only looks up. Knows no clips.
"""

import math
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.mel import SoundDistance
from triptych.training.config import STRICT, TrainingConfig

SPEECH_LEVEL = 0.07
"""root mean square of speech at -23 LUFS"""
ELU_GAIN = 1.2
"""of a convolution after an ELU, which lets a little less than all variance through"""


@dataclass(frozen=True, config=STRICT)
class CodecFitConfig:
    """An EnCodec, and how it is trained."""

    decoder_of: str | None = None
    """a codec (folder or hub id) whose decoder alone is trained on: its codes, and all that was made of them, stay"""
    training: TrainingConfig = TrainingConfig(
        max_steps=20_000, learning_rate=5e-4, final_ratio=0.02, betas=(0.8, 0.99), weight_decay=0.01, warmup_steps=200
    )
    """steps, rates, precision"""
    sample_rate: int = 24_000
    """Hz"""
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    """upsampling factors of the decoder, from codes to samples; their product is the hop"""
    filters: int = 32
    """channels at the highest rate; doubled at each factor"""
    hidden: int = 128
    """width of the latent that is quantised"""
    lstm_layers: int = 2
    """layers of the LSTM on either side"""
    padding: Literal["reflect", "constant"] = "reflect"
    """of the convolutions; constant is faster on a CPU"""
    shortcut: bool = True
    """a convolution on the shortcut of each residual block; without, the plain sum, which is faster"""
    levels: int = 8
    """of the residual quantizer"""
    codebook_size: int = 1024
    """entries of a level"""
    crop_seconds: float = 1.0
    """length of a training crop"""
    batch: int = 16
    """crops a micro-batch"""
    gain_db: float = 3.0
    """each crop is made louder or quieter by up to this much"""
    unquantised_steps: int = 500
    """steps before the codebooks start"""
    reservoir: int = 16_384
    """latent frames from which they start"""
    mel_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    """samples, of the log-mel distance; hop a quarter"""
    waveform_weight: float = 0.5
    """of the L1 distance, relative to the loudness of the crop"""
    commitment_weight: float = 0.25
    """of the distance from latent to codebook"""
    decay: float = 0.99
    """of the moving averages of the codebooks"""
    validation_clips: int = 16
    """held-out clips that are coded at each validation"""

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.ratios)


class CodecTrainee(nn.Module):
    """Encoder, trainable residual quantizer and decoder; `export` makes an EncodecModel of them."""

    def __init__(self, config: CodecFitConfig) -> None:
        super().__init__()
        from transformers import EncodecConfig, EncodecModel
        from vector_quantize_pytorch import ResidualVQ

        bits = config.levels * math.log2(config.codebook_size)
        self.hf_config = EncodecConfig(
            sampling_rate=config.sample_rate,
            num_filters=config.filters,
            upsampling_ratios=list(config.ratios),
            hidden_size=config.hidden,
            num_lstm_layers=config.lstm_layers,
            pad_mode=config.padding,
            use_conv_shortcut=config.shortcut,
            codebook_size=config.codebook_size,
            target_bandwidths=[bits * config.sample_rate / config.hop / 1000],
        )
        self.config, self.levels = config, config.levels
        model = EncodecModel(self.hf_config)
        self.encoder, self.decoder = model.encoder, model.decoder
        keep_variance(self.encoder, first=1 / SPEECH_LEVEL)
        keep_variance(self.decoder, last=SPEECH_LEVEL)
        self.quantizer = ResidualVQ(
            dim=config.hidden,
            num_quantizers=config.levels,
            codebook_size=config.codebook_size,
            decay=config.decay,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=0.1,
            rotation_trick=False,
        )
        self.distance = SoundDistance(config.sample_rate, config.mel_windows, config.waveform_weight)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("reservoir", torch.zeros(config.reservoir, config.hidden))
        self.updates: Tensor
        self.reservoir: Tensor

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Batch: waveforms [B, N], N a multiple of the hop."""
        latent = self.encoder(batch[:, None]).float().transpose(1, 2)
        if self.training:
            self.updates += 1
        metrics: dict[str, float | Tensor] = {}
        commitment = latent.new_zeros(())
        if int(self.updates) <= self.config.unquantised_steps:
            if self.training:
                self._gather(latent.detach())
            quantised = latent
        else:
            if self.training and int(self.updates) == self.config.unquantised_steps + 1:
                self.quantizer(self.reservoir[None])
            quantised, commitment, ids = self.quantise(latent, self._levels_of_rows(len(batch)))
            metrics |= {
                f"perplexity_{q}": perplexity(ids[..., q], self.config.codebook_size) for q in (0, ids.shape[-1] - 1)
            }
        waveform = self.decoder(quantised.transpose(1, 2))[:, 0, : batch.shape[1]].float()
        distance, parts = self.distance(waveform, batch)
        total = distance + self.config.commitment_weight * commitment
        return total, {**metrics, **parts, "commitment": commitment.detach()}

    def coded(self, waveform: Tensor) -> Tensor:
        """A waveform [N] through the codec, with all levels once they are there."""
        latent = self.encoder(waveform[None, None]).float().transpose(1, 2)
        if int(self.updates) > self.config.unquantised_steps:
            latent = self.quantise(latent, torch.tensor([self.config.levels]))[0]
        sound: Tensor = self.decoder(latent.transpose(1, 2))[0, 0].float()
        return sound

    def quantise(self, latent: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent [B, T', D] to its quantised self with `levels` [B] levels kept (straight-through), commitment, ids."""
        with torch.autocast(latent.device.type, enabled=False):
            _, ids, commitments, codes = self.quantizer(latent, return_all_codes=True)  # codes [Q, B, T', D]
        kept = torch.arange(self.config.levels)[:, None] < levels[None]  # [Q, B]
        chosen = (codes * kept[:, :, None, None]).sum(0).detach()
        return latent + (chosen - latent).detach(), commitments.sum(), ids

    def _levels_of_rows(self, rows: int) -> Tensor:
        full = torch.full((rows,), self.config.levels)
        if not self.training:
            return full
        return torch.where(torch.rand(rows) < 0.5, full, torch.randint(1, self.config.levels + 1, (rows,)))

    def _gather(self, latent: Tensor) -> None:
        """A ring of the newest latents."""
        rows = latent.reshape(-1, latent.shape[-1])[: len(self.reservoir)]
        start = (int(self.updates) - 1) * len(rows) % len(self.reservoir)
        at = (start + torch.arange(len(rows))) % len(self.reservoir)
        self.reservoir[at] = rows

    def export(self) -> Any:
        """An EncodecModel with these weights, rounded to float16's precision."""
        from transformers import EncodecModel

        model = EncodecModel(self.hf_config)
        model.encoder.load_state_dict(self.encoder.state_dict())
        model.decoder.load_state_dict(self.decoder.state_dict())
        layers: Any = model.quantizer.layers
        for layer, entries in zip(layers, self.quantizer.codebooks, strict=True):
            layer.codebook.embed.copy_(entries)
            layer.codebook.embed_avg.copy_(entries)
            layer.codebook.inited.fill_(True)
        return model.half()


class DecoderTrainee(nn.Module):
    """The decoder of a codec that exists; encoder and quantizer are frozen, so the fingerprint stays.

    Raises:
        ValueError: no such codec, or one of another rate or hop than the config's.
    """

    def __init__(self, config: CodecFitConfig, source: str) -> None:
        super().__init__()
        codec = AcousticTokenizer.load(source)
        spec = codec.spec
        if (spec.sample_rate, spec.hop) != (config.sample_rate, config.hop):
            raise ValueError(
                f"decoder_of={source} has {spec.sample_rate} Hz and a hop of {spec.hop}, "
                f"sample_rate and ratios say {config.sample_rate} and {config.hop}: make them the same"
            )
        self.model, self.levels = codec.model, spec.levels
        self.model.requires_grad_(False)
        self.model.decoder.requires_grad_(True)
        self.distance = SoundDistance(config.sample_rate, config.mel_windows, config.waveform_weight)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Batch: waveforms [B, N], N a multiple of the hop; each row keeps all levels, or a random number of them."""
        few = torch.randint(1, self.levels + 1, (len(batch),))
        kept = torch.where(torch.rand(len(batch)) < 0.5, self.levels, few) if self.training else None
        distance: tuple[Tensor, dict[str, Tensor]] = self.distance(self._sound(batch, kept)[:, : batch.shape[1]], batch)
        return distance

    def coded(self, waveform: Tensor) -> Tensor:
        """A waveform [N] through the codec."""
        return self._sound(waveform[None])[0]

    def _sound(self, batch: Tensor, kept: Tensor | None = None) -> Tensor:
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            residual, total = self.model.encoder(batch[:, None]), torch.zeros(())
            for q, layer in enumerate(self.model.quantizer.layers[: self.levels]):
                entry = layer.decode(layer.encode(residual))
                residual = residual - entry
                total = total + (entry if kept is None else entry * (kept > q)[:, None, None])
        sound: Tensor = self.model.decoder(total)[:, 0].float()
        return sound

    def export(self) -> Any:
        """The EncodecModel, rounded to float16's precision."""
        return self.model.half()


@torch.no_grad()
def keep_variance(network: nn.Module, first: float = 1.0, last: float = 1.0) -> None:
    """Weights under which a signal keeps its variance through the network, and no biases.

    With the library's own initial weights speech of an ordinary level drowns in the biases, and training sits on a
    constant output for thousands of steps. `first` and `last` scale the outermost convolutions.
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    for conv in convolutions:
        gain = first if conv is convolutions[0] else last if conv is convolutions[-1] else ELU_GAIN
        inputs = (
            conv.in_channels * conv.kernel_size[0] / (conv.stride[0] if isinstance(conv, nn.ConvTranspose1d) else 1)
        )
        conv.weight = torch.randn_like(conv.weight) * gain / math.sqrt(inputs)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


def perplexity(ids: Tensor, size: int) -> Tensor:
    """exp of the entropy of the ids' histogram; `size` when all are used alike."""
    share = torch.bincount(ids.flatten(), minlength=size).float() / ids.numel()
    return torch.exp(-(share * torch.log(share + 1e-10)).sum())
