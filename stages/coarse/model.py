"""The coarse stage's two models. Both learn the codes of the frames after the prompt, level by level within a frame."""

from typing import Any

import torch
from torch import Tensor, nn

from triptych.lm.cache import Cache
from triptych.lm.loss import accuracy, cross_entropy, illegal_mass
from triptych.lm.transformer import LanguageModel, Transformer, TransformerConfig, init_weights
from triptych.stages.coarse.sequence import CoarseConfig, Flattening
from triptych.stages.stage import Batch, Prediction, Specs, padding_share

OWN_TEMPERATURE = 0.5
"""at which `own_past` is drawn: about as a cascade samples"""


class AlignedModel(nn.Module):
    """One causal step a codec frame.

    p(a_f | past) = p(a_f0 | h_f) · p(a_f1 | h_f, a_f0): an exact factorisation without a delay between levels, as in
    the depth transformer of RQ-Transformer (Lee et al. 2022), with a linear map in its place. In the delayed layout
    level q of a frame is that of q steps later, and hears the levels under it through what goes in alone.
    """

    def __init__(self, config: CoarseConfig, specs: Specs) -> None:
        super().__init__()
        shape, size = config.transformer, specs.acoustic.size
        self.levels, self.size, self.code_noise = config.levels, size, config.code_noise
        self.own_past, self.semantic_drop = config.own_past, config.semantic_drop
        self.delay, self.tail = config.delay, config.delay * (config.levels - 1)
        self.semantic_per_beat, self.acoustic_per_beat = specs.grid.semantic_per_beat, specs.grid.acoustic_per_beat
        self.semantic_embedding = nn.Embedding(specs.semantic.size, shape.dim)
        self.encoder = Transformer(_encoder_shape(shape, config.encoder_layers))
        self.phase = nn.Parameter(torch.zeros(self.acoustic_per_beat, shape.dim))
        self.flag = nn.Embedding(2, shape.dim)
        self.start = nn.Parameter(torch.zeros(shape.dim))
        self.code_embedding = nn.ModuleList(nn.Embedding(size + self.delay, shape.dim) for _ in range(config.levels))
        self.transformer = Transformer(shape)
        below = 0 if self.delay else config.levels - 1
        self.chosen = nn.ModuleList(nn.Linear(shape.dim, shape.dim, bias=False) for _ in range(below))
        self.head_norm = nn.ModuleList(nn.RMSNorm(shape.dim, eps=shape.norm_eps) for _ in range(config.levels))
        self.heads = nn.ModuleList(nn.Linear(shape.dim, size, bias=False) for _ in range(config.levels))
        for module in (self.semantic_embedding, self.flag, *self.code_embedding, *self.chosen, *self.heads):
            init_weights(module)

    def encode(self, semantic: Tensor, deaf: bool = False) -> Tensor:
        """Semantic tokens [B, T] to one condition a step [B, T' + tail, D]: one a codec frame, and the delays.

        deaf: the tokens say nothing but how many they are.
        """
        frames = semantic.shape[1] * self.acoustic_per_beat // self.semantic_per_beat
        steps = torch.arange(frames + self.tail if frames else 0, device=semantic.device)
        states = self.encoder(self.semantic_embedding(semantic))
        sounding = steps.clamp(max=frames - 1)
        heard = torch.full_like(steps, 0.0 if deaf else 1.0, dtype=states.dtype)
        return self.condition(states, sounding * self.semantic_per_beat // self.acoustic_per_beat, steps, heard)

    def condition(self, states: Tensor, beside: Tensor, steps: Tensor, heard: Tensor) -> Tensor:
        """[B, S, D] of the encoder's states [B, T, D]: the one that sounds with each step, and its place in the beat.

        beside, steps, heard: [S], the semantic frame of each step, that step's number in its row, and 0 where the
        semantic frame is not told.
        """
        return states[:, beside] * heard[:, None] + self.phase[steps % self.acoustic_per_beat]

    def embed(self, codes: Tensor) -> Tensor:
        """Codes [B, levels, n] to the sum over levels [B, n, D]."""
        rows = [embedding(codes[:, q]) for q, embedding in enumerate(self.code_embedding)]
        return torch.stack(rows).sum(0)

    def step(self, before: Tensor, condition: Tensor, prompted: Tensor, **context: Any) -> Tensor:
        """Hidden states [B, n, D] of frames, given the embedding of the frame before each, [B, n, D].

        prompted: int64 [B, n], 1 where the frame belongs to the voice prompt. context: packed, positions, cache.
        """
        out: Tensor = self.transformer(before + condition + self.flag(prompted), **context)
        return out

    def logits(self, q: int, hidden: Tensor, below: Tensor) -> Tensor:
        """Logits [..., codebook_size] of level q; `below` [levels, …] holds the ids chosen for the levels under it."""
        for lower in range(min(q, len(self.chosen))):
            hidden = hidden + self.chosen[lower](self.code_embedding[lower](below[lower]))
        out: Tensor = self.heads[q](self.head_norm[q](hidden))
        return out

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean over frames and levels after the prompt."""
        found = self.predictions(batch)
        losses = [cross_entropy(level.logits, level.targets) for level in found]
        frames = batch["codes"][:1]
        metrics: dict[str, Any] = {
            "targets": float(len(batch["learned"])),
            "padding_share": padding_share(batch.packed["frames"], frames),
        }
        for q, (level, loss) in enumerate(zip(found, losses, strict=True)):
            metrics |= {f"loss_{q}": loss.detach(), f"accuracy_{q}": accuracy(level.logits, level.targets)}
        return torch.stack(losses).mean(), metrics

    def predictions(self, batch: Batch) -> list[Prediction]:
        """One a level."""
        codes, rows, learned = batch["codes"], batch.packed["frames"], batch["learned"]
        hidden = self.hidden(batch)
        found = []
        for q in range(self.levels):
            at = learned + q * self.delay
            wanted = codes[:, at]
            logits = self.logits(q, hidden[0, at], wanted)
            found.append(Prediction(rows, at, logits, wanted[q], torch.full_like(at, q)))
        return found

    def hidden(self, batch: Batch) -> Tensor:
        """[1, S, D]: each step knows the codes of the steps before it, the true ones; in training some that are random,
        or its own."""
        rows, codes = batch.packed["frames"], batch["codes"]
        states = self.encoder(self.semantic_embedding(batch["semantic"])[None], packed=batch.packed["semantic"])
        condition = self.condition(states, batch["beside"], rows.steps, batch["heard"])

        def after(codes: Tensor) -> Tensor:
            past = self.embed(codes[None]).roll(1, dims=1)
            before = torch.where((rows.steps == 0)[:, None], self.start, past)
            return self.step(before, condition, batch["prompted"][None], packed=rows)

        if self.training and self.own_past:
            with torch.no_grad():
                own = self._draw(after(codes)[0])
            taken = (torch.rand(codes.shape[1], device=codes.device) < self.own_past) & (batch["prompted"] == 0)
            codes = torch.where(taken, own, codes)
        return after(self._disturb(codes))

    def _draw(self, hidden: Tensor) -> Tensor:
        """Codes [levels, S] from hidden states [S, D], at OWN_TEMPERATURE."""
        drawn = torch.zeros(self.levels, len(hidden), dtype=torch.long, device=hidden.device)
        for q in range(self.levels):
            logits = self.logits(q, hidden, drawn).float()
            noise = torch.empty_like(logits).exponential_().clamp_(min=1e-30)
            drawn[q] = ((logits / OWN_TEMPERATURE).softmax(dim=-1) / noise).argmax(dim=-1)
        return drawn

    def _disturb(self, codes: Tensor) -> Tensor:
        if not self.training or not self.code_noise:
            return codes
        noisy = torch.rand(codes.shape, device=codes.device) < self.code_noise
        return torch.where(noisy & (codes < self.size), torch.randint_like(codes, self.size), codes)

    def cache(self, frames: int) -> Cache:
        """Room for `frames` steps of one row."""
        weight = self.start
        return Cache.make(self.transformer.config, 1, frames, weight.dtype, weight.device)


def _encoder_shape(shape: TransformerConfig, layers: int) -> TransformerConfig:
    from dataclasses import replace

    return replace(shape, layers=layers, causal=False)


class FlattenedModel(nn.Module):
    """A plain language model over [bos] semantic [sep] codes."""

    def __init__(self, config: CoarseConfig, specs: Specs) -> None:
        super().__init__()
        self.flattening = Flattening.of(config, specs)
        self.language_model = LanguageModel(config.transformer, self.flattening.vocabulary.size, tied=True)
        self.register_buffer("legal", self.flattening.legal(), persistent=False)
        self.legal: Tensor

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean over codes after the prompt; the softmax is over all of V."""
        (found,) = self.predictions(batch)
        logits, wanted = found.logits, found.targets
        loss = cross_entropy(logits, wanted)
        metrics: dict[str, Any] = {
            "targets": float(len(wanted)),
            "padding_share": padding_share(found.rows, batch["tokens"][None]),
        }
        if not self.training:
            metrics["illegal_mass"] = illegal_mass(logits, self.legal.any(0))
        for q in range(self.flattening.levels):
            chosen = found.level == q
            metrics[f"loss_{q}"] = cross_entropy(logits[chosen], wanted[chosen]).detach()
            metrics[f"accuracy_{q}"] = accuracy(logits[chosen], wanted[chosen])
        return loss, metrics

    def predictions(self, batch: Batch) -> list[Prediction]:
        """One, of all levels."""
        rows, learned, level = batch.packed["rows"], batch["learned"], batch["level"]
        hidden = self.language_model.hidden(batch["tokens"][None], positions=batch["positions"][None], packed=rows)
        logits = self.language_model.logits(hidden[0, learned])
        return [Prediction(rows, learned, logits, batch["targets"], level, self.legal[level])]
