"""The coarse stage's two models. Both learn the codes of the frames after the prompt, level by level within a frame."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triptych.lm.cache import Cache
from triptych.lm.loss import accuracy, cross_entropy, illegal_mass
from triptych.lm.transformer import LanguageModel, Transformer, TransformerConfig, init_weights
from triptych.stages.coarse.sequence import CoarseConfig, Flattening
from triptych.stages.stage import Batch, Specs


class AlignedModel(nn.Module):
    """One causal step a codec frame.

    p(a_f | past) = p(a_f0 | h_f) · p(a_f1 | h_f, a_f0): an exact factorisation without a delay between levels, as in
    the depth transformer of RQ-Transformer (Lee et al. 2022), with a linear map in its place.
    """

    def __init__(self, config: CoarseConfig, specs: Specs) -> None:
        super().__init__()
        shape, size = config.transformer, specs.acoustic.size
        self.levels, self.size, self.code_noise = config.levels, size, config.code_noise
        self.semantic_per_beat, self.acoustic_per_beat = specs.grid.semantic_per_beat, specs.grid.acoustic_per_beat
        self.semantic_embedding = nn.Embedding(specs.semantic.size, shape.dim)
        self.encoder = Transformer(_encoder_shape(shape, config.encoder_layers))
        self.phase = nn.Parameter(torch.zeros(self.acoustic_per_beat, shape.dim))
        self.flag = nn.Embedding(2, shape.dim)
        self.start = nn.Parameter(torch.zeros(shape.dim))
        self.code_embedding = nn.ModuleList(nn.Embedding(size, shape.dim) for _ in range(config.levels))
        self.transformer = Transformer(shape)
        self.chosen = nn.ModuleList(nn.Linear(shape.dim, shape.dim, bias=False) for _ in range(config.levels - 1))
        self.head_norm = nn.ModuleList(nn.RMSNorm(shape.dim, eps=shape.norm_eps) for _ in range(config.levels))
        self.heads = nn.ModuleList(nn.Linear(shape.dim, size, bias=False) for _ in range(config.levels))
        for module in (self.semantic_embedding, self.flag, *self.code_embedding, *self.chosen, *self.heads):
            init_weights(module)

    def encode(self, semantic: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Semantic tokens [B, T] to one condition a codec frame [B, T', D]."""
        states = self.encoder(self.semantic_embedding(semantic), lengths=lengths)
        frames = semantic.shape[1] * self.acoustic_per_beat // self.semantic_per_beat
        f = torch.arange(frames, device=semantic.device)
        beside = f * self.semantic_per_beat // self.acoustic_per_beat
        out: Tensor = states[:, beside] + self.phase[f % self.acoustic_per_beat]
        return out

    def embed(self, codes: Tensor) -> Tensor:
        """Codes [B, levels, n] to the sum over levels [B, n, D]."""
        rows = [embedding(codes[:, q]) for q, embedding in enumerate(self.code_embedding)]
        return torch.stack(rows).sum(0)

    def step(self, before: Tensor, condition: Tensor, prompted: Tensor, **context: Any) -> Tensor:
        """Hidden states [B, n, D] of frames, given the embedding of the frame before each, [B, n, D].

        prompted: int64 [B, n], 1 where the frame belongs to the voice prompt. context: lengths, positions, cache.
        """
        out: Tensor = self.transformer(before + condition + self.flag(prompted), **context)
        return out

    def logits(self, q: int, hidden: Tensor, below: Tensor) -> Tensor:
        """Logits [..., codebook_size] of level q; `below` [levels, …] holds the ids chosen for the levels under it."""
        for lower in range(q):
            hidden = hidden + self.chosen[lower](self.code_embedding[lower](below[lower]))
        out: Tensor = self.heads[q](self.head_norm[q](hidden))
        return out

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean over frames and levels after the prompt."""
        codes, lengths = batch["codes"], batch["lengths"]
        steps = torch.arange(codes.shape[2], device=codes.device)
        prompted = steps < batch["prompt"][:, None]
        mask = ~prompted & (steps < lengths[:, None])
        past = self._disturb(codes)
        before = torch.cat([self.start.expand(len(codes), 1, -1), self.embed(past)[:, :-1]], dim=1)
        condition = self.encode(batch["semantic"], batch["semantic_lengths"])
        hidden = self.step(before, condition, prompted.long(), lengths=lengths)[mask]
        wanted = codes.transpose(0, 1)[:, mask]
        losses: list[Tensor] = []
        metrics: dict[str, Any] = {"targets": float(mask.sum()), "padding": 1 - float(lengths.sum()) / mask.numel()}
        for q in range(self.levels):
            logits = self.logits(q, hidden, wanted)
            losses.append(cross_entropy(logits, wanted[q]))
            metrics |= {f"loss_{q}": losses[q].detach(), f"accuracy_{q}": accuracy(logits, wanted[q])}
        return torch.stack(losses).mean(), metrics

    def _disturb(self, codes: Tensor) -> Tensor:
        if not self.training or not self.code_noise:
            return codes
        noisy = torch.rand(codes.shape, device=codes.device) < self.code_noise
        return torch.where(noisy, torch.randint_like(codes, self.size), codes)

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
        rows = [self._row(batch, i) for i in range(len(batch["lengths"]))]
        lengths = torch.tensor([len(ids) - 1 for ids, _, _ in rows])
        ids = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        positions = nn.utils.rnn.pad_sequence([row[1] for row in rows], batch_first=True)
        steps = torch.arange(ids.shape[1] - 1)
        mask = (steps >= torch.tensor([first for _, _, first in rows])[:, None] - 1) & (steps < lengths[:, None])
        device = self.legal.device
        ids, positions, mask = ids.to(device), positions.to(device), mask.to(device)
        hidden = self.language_model.hidden(ids[:, :-1], positions=positions[:, :-1], lengths=lengths.to(device))
        logits, wanted = self.language_model.logits(hidden[mask]), ids[:, 1:][mask]
        loss = cross_entropy(logits, wanted)
        metrics: dict[str, Any] = {"targets": float(len(wanted)), "padding": 1 - float(lengths.sum()) / mask.numel()}
        if not self.training:
            metrics["illegal_mass"] = illegal_mass(logits, self.legal.any(0))
        levels = self.flattening.levels
        of_level = (steps.to(device).expand(mask.shape) - self._first(batch, device)[:, None] + 1)[mask] % levels
        for q in range(levels):
            chosen = of_level == q
            metrics[f"loss_{q}"] = cross_entropy(logits[chosen], wanted[chosen]).detach()
            metrics[f"accuracy_{q}"] = accuracy(logits[chosen], wanted[chosen])
        return loss, metrics

    def _first(self, batch: Batch, device: torch.device) -> Tensor:
        """[B] index of the first code of each row's sequence."""
        return batch["semantic_lengths"].to(device) + 2

    def _row(self, batch: Batch, i: int) -> tuple[Tensor, Tensor, int]:
        flat = self.flattening
        semantic = batch["semantic"][i, : batch["semantic_lengths"][i]].cpu().numpy().astype(np.uint16)
        codes = batch["codes"][i, :, : batch["lengths"][i]].cpu().numpy().astype(np.uint16)
        given, positions = flat.prefix(semantic)
        learned = flat.flatten(codes)
        after = np.array([flat.position_of(j) for j in range(len(learned))], dtype=np.float32)
        first = len(given) + int(batch["prompt"][i]) * flat.levels
        return (
            torch.from_numpy(np.concatenate([given, learned])),
            torch.from_numpy(np.concatenate([positions, after])),
            first,
        )
