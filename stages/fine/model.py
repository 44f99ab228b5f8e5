"""The fine stage's model: the known levels of each frame in, the asked level of all frames out."""

from typing import Any

import torch
from torch import Tensor, nn

from triptych.lm.loss import accuracy, cross_entropy
from triptych.lm.transformer import Transformer, init_weights
from triptych.stages.fine.sequence import FineConfig
from triptych.stages.stage import Batch, Specs


class FineModel(nn.Module):
    """Embeddings of the known levels summed, a non-causal transformer, a head a level.

    A level's head shares the matrix of its embedding: half the weights, and what is learned of an entry as input serves
    its prediction.
    """

    def __init__(self, config: FineConfig, specs: Specs) -> None:
        super().__init__()
        shape = config.transformer
        self.coarse_levels, self.levels = config.coarse_levels, specs.acoustic.levels
        self.code_embedding = nn.ModuleList(nn.Embedding(specs.acoustic.size, shape.dim) for _ in range(self.levels))
        self.flag = nn.Embedding(2, shape.dim)
        self.asked = nn.Embedding(self.levels, shape.dim)
        self.transformer = Transformer(shape)
        self.head_norm = nn.ModuleList(nn.RMSNorm(shape.dim, eps=shape.norm_eps) for _ in range(self.levels))
        for module in (*self.code_embedding, self.flag, self.asked):
            init_weights(module)

    def hidden(self, codes: Tensor, level: Tensor, prompted: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Hidden states [B, T', D].

        Args:
            codes: int64 [B, Q, T']; levels from `level` on are not read, but for the prompt's frames.
            level: int64 [B], the level asked for.
            prompted: bool [B, T'].
        """
        x = self.flag(prompted.long()) + self.asked(level)[:, None]
        for q, embedding in enumerate(self.code_embedding):
            known = (level > q)[:, None] | prompted
            x = x + embedding(codes[:, q]) * known[..., None]
        out: Tensor = self.transformer(x, lengths=lengths)
        return out

    def logits(self, q: int, hidden: Tensor) -> Tensor:
        """[..., D] to [..., codebook_size] of level q."""
        weight: Tensor = self.code_embedding[q].weight  # type: ignore[assignment]
        return nn.functional.linear(self.head_norm[q](hidden), weight)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean over the asked codes of the frames after the prompt."""
        codes, level, lengths = batch["codes"], batch["level"], batch["lengths"]
        steps = torch.arange(codes.shape[2], device=codes.device)
        prompted = steps < batch["prompt"][:, None]
        mask = ~prompted & (steps < lengths[:, None])
        hidden = self.hidden(codes, level, prompted, lengths)
        metrics: dict[str, Any] = {"targets": float(mask.sum()), "padding": 1 - float(lengths.sum()) / mask.numel()}
        total = hidden.new_zeros((), dtype=torch.float32)
        for q in range(self.coarse_levels, self.levels):
            chosen = mask & (level == q)[:, None]
            count = float(chosen.sum())
            logits, wanted = self.logits(q, hidden[chosen]), codes[:, q][chosen]
            loss = cross_entropy(logits, wanted)  # no number where nobody asks for level q
            # Every rank has a gradient of every weight, or their sums would not fit together.
            total = total + (loss * count if count else logits.sum() * 0.0)
            metrics |= {f"loss_{q}": loss.detach(), f"accuracy_{q}": accuracy(logits, wanted)}
        return total / metrics["targets"], metrics
