"""The modules that learn while a codec is trained.

    waveform [B, N] ─encoder─▶ latent [B, D, T'] ─residual quantizer─▶ quantised [B, D, T'] ─decoder─▶ waveform

  1. the first steps run unquantised, while a reservoir gathers latents
  2. the codebooks start as k-means of the reservoir: real vectors, no dead entries; with `init`, both lie behind
  3. each row then keeps all levels, or (half of the time) a random number of them; half of the rows `favoured_levels`
  4. from `discriminator.start` on, an adversary says what still sounds made (objective.py)
Rows may lie on several ranks: all random numbers are drawn for all rows and each rank takes its own. Knows no clips.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.objective import SPEECH_LEVEL, Objective
from triptych.tokenizers.acoustic.postfilter import Postfilter
from triptych.tokenizers.acoustic.quantizer import TrainableQuantizer
from triptych.tokenizers.acoustic.seanet import runner
from triptych.tokenizers.acoustic.settings import CodecFitConfig
from triptych.tokenizers.acoustic.streaming import can_stream
from triptych.tokenizers.acoustic.usage import UsageWindow, perplexity
from triptych.training.config import TrainingConfig
from triptych.training.distributed import rank, rows_of_ranks, world
from triptych.training.optimiser import Learner

__all__ = ["CodecFitConfig", "CodecTrainee", "keep_variance", "perplexity"]

ELU_GAIN = 1.2
"""of a convolution after an ELU, which lets a little less than all variance through"""
NEW_WITH_OLD_WEIGHTS = ("objective.adversary.",)
"""may be missing in a checkpoint: a discriminator can join a run that began without one"""


@dataclass(frozen=True)
class Heard:
    """What came back of a held-out waveform."""

    sound: Tensor
    """[T' · hop] samples"""
    ids: Tensor | None
    """[Q, T']; None before the codebooks have begun"""
    metrics: dict[str, float]
    """distances; `loss` is their weighted sum"""


class CodecTrainee(nn.Module):
    """Encoder, trainable residual quantizer and decoder, anew or as `config.init` has them, there with its post-filter;
    `export` makes an EncodecModel of them.

    Raises:
        ValueError: `config.init` is no codec that can be gone on with (`codec_to_go_on_with`), or has other levels.
    """

    may_be_new = NEW_WITH_OLD_WEIGHTS

    def __init__(self, config: CodecFitConfig) -> None:
        super().__init__()
        self.config, self.levels, self.size = config, config.levels, config.codebook_size
        self.dtype = config.dtype
        self.postfilter: Postfilter | None = None
        if config.init:
            self._go_on(config, config.init)
        else:
            self._begin(config)
        self.objective = Objective(config)
        self.usage = UsageWindow(config.usage_steps)
        self.step = 0
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))  # micro-batches
        gathered = 0 if self.quantizer.started else config.reservoir
        self.register_buffer("reservoir", torch.zeros(gathered, self.hf_config.hidden_size))
        self.updates: Tensor
        self.reservoir: Tensor
        self.encode, self.decode = (runner(net, config.compile) for net in (self.encoder, self.decoder))

    def _begin(self, config: CodecFitConfig) -> None:
        from transformers import EncodecConfig, EncodecModel

        self.hf_config = EncodecConfig(
            sampling_rate=config.sample_rate,
            num_filters=config.filters,
            upsampling_ratios=list(config.ratios),
            hidden_size=config.hidden,
            num_lstm_layers=config.lstm_layers,
            pad_mode=config.padding,
            use_conv_shortcut=config.shortcut,
            codebook_size=config.codebook_size,
            target_bandwidths=[bandwidth(config)],
        )
        model = EncodecModel(self.hf_config)
        self.encoder, self.decoder = model.encoder, model.decoder
        keep_variance(self.encoder, first=1 / SPEECH_LEVEL)
        keep_variance(self.decoder, last=SPEECH_LEVEL)
        self.quantizer = TrainableQuantizer(config.levels, config.codebook_size, config.hidden, config.decay)

    def _go_on(self, config: CodecFitConfig, source: str) -> None:
        codec = codec_to_go_on_with(config, "init", source)
        spec = codec.spec
        if (spec.levels, spec.size) != (config.levels, config.codebook_size):
            raise ValueError(
                f"init={source} has {spec.levels} levels of {spec.size}, levels and codebook_size say {config.levels} "
                f"and {config.codebook_size}: make them the same"
            )
        self.hf_config, self.postfilter = copy.deepcopy(codec.model.config), postfilter_of(codec, config)
        self.hf_config.target_bandwidths = [bandwidth(config)]  # of the levels that are kept: the others do not go on
        self.encoder, self.decoder = codec.model.encoder, codec.model.decoder
        entries = [layer.codebook.embed for layer in codec.model.quantizer.layers[: spec.levels]]
        self.quantizer = TrainableQuantizer(spec.levels, spec.size, entries[0].shape[1], config.decay)
        self.quantizer.go_on(entries, config.batch * (config.crop // config.hop) * world() / spec.size)

    def learners(self) -> list[Learner]:
        """The codec with its post-filter, and its discriminator if there is one."""
        parts = (self.encoder, self.decoder, *([self.postfilter] if self.postfilter else []))
        return learners([weight for part in parts for weight in part.parameters()], self.objective, self.config)

    def begin_step(self, step: int) -> None:
        """What is learned from when on is said in steps, from 1."""
        self.step = step

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Batch: waveforms [B, N], N a multiple of the hop. Crops take the short way (seanet.py)."""
        latent = self.encode(batch[:, None]).float().transpose(1, 2)
        metrics: dict[str, float | Tensor] = {}
        commitment = latent.new_zeros(())
        if not self.quantizer.started and self.step <= self.config.unquantised_steps:
            if self.training:
                self._gather(latent.detach())
            quantised = latent
        else:
            if not self.quantizer.started:
                self.quantizer.start(self.reservoir)
            kept = torch.full((len(batch),), self.levels)
            if self.training:
                kept = random_levels(len(batch), self.levels, self.config.favoured_levels)
            quantised, commitment, _ = self.quantise(latent, kept.to(latent.device))
            if self.training:
                metrics |= self.usage.add(self.quantizer.newest_counts)
        waveform = self._filtered(self.decode(quantised.transpose(1, 2))[:, 0].float())[:, : batch.shape[1]]
        distance, parts = self.objective(waveform, batch, self.step)
        total = distance + self.config.commitment_weight * commitment
        return total, {**metrics, **parts, "commitment": commitment.detach()}

    def listen(self, waveform: Tensor) -> Heard:
        """A waveform [N] through the codec, with all levels once they are there."""
        latent, ids = self.encoder(waveform[None, None]).float().transpose(1, 2), None
        if self.quantizer.started:
            latent, _, ids = self.quantise(latent, torch.tensor([self.levels], device=latent.device))
        sound = self._filtered(self.decoder(latent.transpose(1, 2))[:, 0].float())
        return heard(sound, waveform, ids, self.objective)

    def _filtered(self, sound: Tensor) -> Tensor:
        return self.postfilter(sound) if self.postfilter else sound

    def quantise(self, latent: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent [B, T', D] to its quantised self with `levels` [B] levels kept (straight-through), commitment, ids
        [Q, B, T']."""
        with torch.autocast(latent.device.type, enabled=False):
            entries, ids, commitment = self.quantizer(latent)  # entries [Q, B, T', D]
        kept = torch.arange(self.levels, device=levels.device)[:, None] < levels[None]  # [Q, B]
        chosen = (entries * kept[:, :, None, None]).sum(0).detach()
        return latent + (chosen - latent).detach(), commitment, ids

    def _gather(self, latent: Tensor) -> None:
        """A ring of the newest latents, of all ranks."""
        rows = rows_of_ranks(latent).reshape(-1, latent.shape[-1])[: len(self.reservoir)]
        start = int(self.updates) * len(rows) % len(self.reservoir)
        self.updates += 1
        at = (start + torch.arange(len(rows), device=rows.device)) % len(self.reservoir)
        self.reservoir[at] = rows

    def export(self) -> Any:
        """An EncodecModel with these weights, rounded to float16's precision."""
        from transformers import EncodecModel

        model = EncodecModel(self.hf_config)
        model.encoder.load_state_dict(self.encoder.state_dict())
        model.decoder.load_state_dict(self.decoder.state_dict())
        layers: Any = model.quantizer.layers
        for layer, level in zip(layers, self.quantizer.levels, strict=True):
            layer.codebook.embed.copy_(level.embed[0])
            layer.codebook.embed_avg.copy_(level.embed[0])
            layer.codebook.inited.fill_(True)
        return model.half()


def bandwidth(config: CodecFitConfig) -> float:
    """kbit/s of all levels."""
    return config.levels * math.log2(config.codebook_size) * config.sample_rate / config.hop / 1000


def codec_to_go_on_with(config: CodecFitConfig, option: str, source: str) -> AcousticTokenizer:
    """The causal EnCodec that `option` names.

    Raises:
        ValueError: no such codec, no causal EnCodec, one of another rate or hop than the config's, or one with another
            post-filter.
    """
    codec, said = AcousticTokenizer.load(source), f"{option}={source}"
    spec = codec.spec
    if spec.name != "encodec":
        raise ValueError(f"{said} is of the family {spec.name}: only an EnCodec is trained")
    if (spec.sample_rate, spec.hop) != (config.sample_rate, config.hop):
        raise ValueError(
            f"{said} has {spec.sample_rate} Hz and a hop of {spec.hop}, "
            f"sample_rate and ratios say {config.sample_rate} and {config.hop}: make them the same"
        )
    if not can_stream(codec.model):
        raise ValueError(f"{said} looks ahead: only a causal EnCodec is trained")
    if codec.postfilter is not None and codec.postfilter.config != config.postfilter:
        raise ValueError(
            f"{said} has a post-filter, {codec.postfilter.config}: say the same postfilter.* to go on with it (with "
            "decoder_of, decoder_too=true: the decoder as well), or take its files postfilter.* away, since it would "
            "not fit another decoder"
        )
    return codec


def postfilter_of(codec: AcousticTokenizer, config: CodecFitConfig) -> Postfilter | None:
    """The post-filter that learns: as the codec has it, or anew."""
    if not config.postfilter.layers:
        return None
    postfilter = Postfilter(config.postfilter)
    if codec.postfilter is not None:
        postfilter.load_state_dict(codec.postfilter.state_dict())
    return postfilter


def random_levels(rows: int, levels: int, favoured: int | None = None) -> Tensor:
    """Levels [rows] that each row of this rank keeps: all of them for a half, 1 to all for the rest (as SoundStream's
    quantizer dropout: Zeghidour et al. 2021, section III-C); where a number is favoured, half of all rows keep that
    one. Drawn for all ranks' rows from torch's CPU generator."""
    everyone = rows * world()
    full = torch.rand(everyone) < 0.5
    few = torch.randint(1, levels + 1, (everyone,))
    kept = torch.where(full, levels, few)
    if favoured is not None:
        kept = torch.where(torch.rand(everyone) < 0.5, favoured, kept)
    return kept[rank() * rows : (rank() + 1) * rows]


def heard(sound: Tensor, given: Tensor, ids: Tensor | None, objective: Objective) -> Heard:
    """Sound [1, T' · hop] made of waveform [N], in evaluation mode."""
    loss, parts = objective(sound[:, : len(given)], given[None], 0)
    metrics = {"loss": float(loss), **{name: float(value) for name, value in parts.items()}}
    return Heard(sound[0], None if ids is None else ids[:, 0], metrics)


def learners(parameters: list[nn.Parameter], objective: Objective, config: CodecFitConfig) -> list[Learner]:
    """Two optimisers, each with a rate and a gradient norm of its own; one, where there is no discriminator."""
    found = [Learner("", parameters, config.training)]
    if objective.adversary is not None:
        said, training = config.discriminator, config.training
        own: TrainingConfig = replace(training, learning_rate=said.learning_rate, betas=said.betas)
        found.append(Learner("discriminator", list(objective.adversary.parameters()), own))
    return found


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
