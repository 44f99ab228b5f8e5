"""What learns of a codec that exists, under the codes that it has: its decoder, a post-filter, or both.

    waveform [B, N] ─encoder, quantizer: frozen─▶ quantised [B, D, T'] ─decoder─▶ ─post-filter─▶ waveform
    guessed codes  ─────entries, and a shift───▶ in the rows that have some

Levels, ranks and losses are those of trainee.py. Knows no clips.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.objective import Objective
from triptych.tokenizers.acoustic.seanet import runner
from triptych.tokenizers.acoustic.settings import CodecFitConfig
from triptych.tokenizers.acoustic.trainee import (
    NEW_WITH_OLD_WEIGHTS,
    Heard,
    codec_to_go_on_with,
    heard,
    learners,
    postfilter_of,
    random_levels,
)
from triptych.training.optimiser import Learner


@dataclass(frozen=True)
class Crops:
    """Waveforms of which some come with codes that were guessed for them."""

    waveforms: Tensor
    """[B, N]"""
    codes: Tensor
    """int64 [B, levels, N // hop]; -1 throughout in the rows that have none"""
    own_past: bool
    """those codes were guessed after a stage's own past, and are not to become the waveform"""
    shift: Tensor | None = None
    """[B, D, N // hop], added to the latent of those codes; zero in the rows that have none"""


class DecoderTrainee(nn.Module):
    """The decoder of a codec that exists, a post-filter for it, or both; encoder and quantizer are frozen, so the
    fingerprint stays.

    Raises:
        ValueError: no such codec, no causal EnCodec, one of another rate or hop than the config's, or one with another
            post-filter; a share of a post-filter that is new.
    """

    may_be_new = NEW_WITH_OLD_WEIGHTS
    may_be_gone = ("updates",)

    def __init__(self, config: CodecFitConfig, source: str) -> None:
        super().__init__()
        self.source, codec = source, codec_to_go_on_with(config, "decoder_of", source)
        self.model, self.levels, self.size, self.config = codec.model, codec.spec.levels, codec.spec.size, config
        self.model.requires_grad_(False)
        self.dtype = codec.dtype
        self.postfilter = postfilter_of(codec, config)
        if config.decoder_share < 1 and self.postfilter and codec.postfilter is None:
            raise ValueError("decoder_share: the post-filter is new, and began with nothing that could be kept")
        self.learning: list[nn.Module] = [self.postfilter] if self.postfilter else []
        if config.decoder_too or not config.postfilter.layers:
            self.learning.append(self.model.decoder.requires_grad_(True))
        self.objective = Objective(config)
        self.step = 0
        self.encode, self.decode = runner(self.model.encoder), runner(self.model.decoder, config.compile)

    def learners(self) -> list[Learner]:
        """What learns, and the discriminator if there is one."""
        parameters = [weight for part in self.learning for weight in part.parameters()]
        return learners(parameters, self.objective, self.config)

    def begin_step(self, step: int) -> None:
        """What is learned from when on is said in steps, from 1."""
        self.step = step

    def loss(self, batch: Tensor | Crops) -> tuple[Tensor, dict[str, Tensor]]:
        """Batch: waveforms [B, N], N a multiple of the hop; each row keeps all levels, or a random number of them, or
        is decoded from what was guessed for it."""
        waveforms, codes, paired, shift = batch if isinstance(batch, Tensor) else batch.waveforms, None, None, None
        if isinstance(batch, Crops):
            codes, shift = batch.codes, batch.shift
            paired = (batch.codes < 0).all(dim=2).all(dim=1) if batch.own_past else None
        kept = None
        if self.training:
            kept = random_levels(len(waveforms), self.levels, self.config.favoured_levels).to(waveforms.device)
        made, _ = self._sound(waveforms, kept, codes, shift)
        loss: tuple[Tensor, dict[str, Tensor]] = self.objective(
            made[:, : waveforms.shape[1]], waveforms, self.step, paired
        )
        return loss

    def listen(self, waveform: Tensor) -> Heard:
        """A waveform [N] through the codec."""
        sound, ids = self._sound(waveform[None])
        return heard(sound, waveform, ids, self.objective)

    def _sound(
        self, batch: Tensor, kept: Tensor | None = None, guessed: Tensor | None = None, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        every = []
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            residual = (self.encode if self.training else self.model.encoder)(batch[:, None])
            for q, layer in enumerate(self.model.quantizer.layers[: self.levels]):
                every.append(layer.encode(residual))
                entry = layer.decode(every[-1])
                residual = residual - entry
                total = total + (entry if kept is None else entry * (kept > q)[:, None, None])
            if guessed is not None:
                layers = self.model.quantizer.layers[: guessed.shape[1]]
                other: Any = sum(layer.decode(guessed[:, q].clamp(min=0)) for q, layer in enumerate(layers))
                total = torch.where((guessed[:, :1, :1] >= 0), other if shift is None else other + shift, total)
        sound: Tensor = (self.decode if self.training else self.model.decoder)(total)[:, 0].float()
        return self.postfilter(sound) if self.postfilter else sound, torch.stack(every)

    @torch.no_grad()
    def export(self) -> Any:
        """The EncodecModel; what was trained went `decoder_share` of its way, and a decoder is rounded to float16."""
        if self.config.decoder_share < 1:
            self._go_back()
        if self.model.decoder in self.learning:
            self.model.decoder.half()
        return self.model

    def _go_back(self) -> None:
        """All that learned goes `decoder_share` of its way from where it began."""
        codec = AcousticTokenizer.load(self.source)
        for part, began in ((self.model.decoder, codec.model.decoder), (self.postfilter, codec.postfilter)):
            if part in self.learning and part is not None and began is not None:
                before = began.state_dict()
                for name, weight in part.state_dict().items():
                    weight.copy_(torch.lerp(before[name].to(weight), weight, self.config.decoder_share))
