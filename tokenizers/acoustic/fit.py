"""Trains an EnCodec of one's own and saves it as an ordinary EncodecModel folder.

    waveform [B, N] ─encoder─▶ latent [B, D, T'] ─residual quantizer─▶ quantised [B, D, T'] ─decoder─▶ waveform

  1. the first steps run unquantised, while a reservoir gathers latents
  2. the codebooks start as k-means of the reservoir: real vectors, no dead entries
  3. each row then keeps all levels, or (half of the time) a random number of them
Loss: log-mel distance at several scales (Zeghidour et al. 2021; Kumar et al. 2023), a little L1, commitment
(van den Oord et al. 2017). Codebooks follow by moving averages and dead entries are redrawn from the batch; the
quantizer is vector-quantize-pytorch's, since transformers' one only looks up. Knows no corpus: it is given `Clips`.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.mel import MelDistance
from triptych.tokenizers.clips import Clips
from triptych.training.config import STRICT, TrainingConfig
from triptych.training.files import atomic_folder, refuse_existing
from triptych.training.loop import train
from triptych.training.run import RunFolder

SPEECH_LEVEL = 0.07
"""root mean square of speech at -23 LUFS"""
ELU_GAIN = 1.2
"""of a convolution after an ELU, which lets a little less than all variance through"""


@dataclass(frozen=True, config=STRICT)
class CodecFitConfig:
    """An EnCodec, and how it is trained."""

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
        self.config = config
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
        self.mel = MelDistance(config.sample_rate, config.mel_windows)
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
        mel = self.mel(waveform, batch)
        level = batch.square().mean(dim=1, keepdim=True).sqrt() + 1e-4
        distance = ((waveform - batch).abs() / level).mean()
        total = mel + self.config.waveform_weight * distance + self.config.commitment_weight * commitment
        return total, {**metrics, "mel": mel.detach(), "waveform": distance.detach(), "commitment": commitment.detach()}

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


def crop_batches(clips: Clips, config: CodecFitConfig) -> Any:
    """step -> [waveforms [B, N]]: crops drawn in proportion to the length of the clips; pure in the step."""
    samples = int(config.crop_seconds * config.sample_rate) // config.hop * config.hop
    lengths = np.array([clips.seconds(i) for i in range(len(clips))])
    share = lengths / lengths.sum()

    def batches(step: int) -> list[Tensor]:
        rng = np.random.default_rng((config.training.seed, step))
        micro_batches = []
        for _ in range(config.training.accumulation):
            rows = np.zeros((config.batch, samples), dtype=np.float32)
            for row, index in zip(rows, rng.choice(len(share), config.batch, p=share), strict=True):
                waveform = clips.waveform(int(index))
                start = int(rng.integers(0, max(1, len(waveform) - samples + 1)))
                crop = waveform[start : start + samples]
                row[: len(crop)] = crop * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20)
            micro_batches.append(torch.from_numpy(rows))
        return micro_batches

    return batches


def fit_acoustic(
    clips: Clips,
    held_out: Clips,
    folder: Path,
    config: CodecFitConfig,
    *,
    resume: bool = False,
    progress: Any = None,
) -> AcousticTokenizer:
    """Trains a codec and writes it to `folder`; the run (metrics, checkpoints) lies beside, in `folder`.run.

    Args:
        clips, held_out: prepared recordings at `config.sample_rate`; the second ones are only listened to.
    Raises:
        ValueError: the folder exists, the clips have another rate, or there are none.
        TrainingError: the loss is not a number.
    """
    from dataclasses import asdict

    refuse_existing(folder)
    if len(clips) == 0:
        raise ValueError("there are no clips to train a codec on: is the manifest's split right?")
    if clips.sample_rate != config.sample_rate:
        raise ValueError(f"clips of {clips.sample_rate} Hz for a codec of {config.sample_rate} Hz: set sample_rate")
    torch.manual_seed(config.training.seed)
    model = CodecTrainee(config)

    def validate(step: int, run: RunFolder) -> dict[str, float]:
        losses = []
        for i in range(min(len(held_out), config.validation_clips)):
            waveform = torch.from_numpy(held_out.waveform(i))
            waveform = waveform[: max(1, len(waveform) // config.hop) * config.hop]
            loss, metrics = model.loss(waveform[None])
            losses.append({"loss": float(loss), **{k: float(v) for k, v in metrics.items() if "perplexity" not in k}})
            if i < 2:
                latent = model.encoder(waveform[None, None]).float().transpose(1, 2)
                if int(model.updates) > config.unquantised_steps:
                    latent = model.quantise(latent, torch.tensor([config.levels]))[0]
                run.sound(step, f"coded_{i}", model.decoder(latent.transpose(1, 2))[0, 0].float(), config.sample_rate)
        return {name: sum(row[name] for row in losses) / len(losses) for name in losses[0]}

    record = {"stage": "codec", "config": asdict(config), "format": 1}
    with RunFolder(folder.with_name(folder.name + ".run"), asdict(config)) as run:
        train(
            model,
            crop_batches(clips, config),
            config.training,
            run,
            record,
            validate=validate if len(held_out) else None,
            resume=resume,
            progress=progress,
        )
    with atomic_folder(folder) as beside:
        AcousticTokenizer(model.export(), config.levels).save(beside)
    return AcousticTokenizer.load(folder)
