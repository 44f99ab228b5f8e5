"""The fine stage's model: the known levels of each frame in, the asked level of all frames out."""

from typing import Any

import torch
from torch import Tensor, nn

from triptych.lm.loss import accuracy, cross_entropy
from triptych.lm.packing import Packed
from triptych.lm.transformer import Transformer, init_weights
from triptych.stages.fine.sequence import FineConfig
from triptych.stages.stage import Batch, Prediction, Specs, padding_share


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

    def hidden(self, codes: Tensor, level: Tensor, prompted: Tensor, packed: Packed | None = None) -> Tensor:
        """Hidden states [B, T', D].

        Args:
            codes: int64 [B, Q, T']; levels from `level` on are not read, but for the prompt's frames.
            level: int64 [B, T'] or [B, 1], the level asked for.
            prompted: bool [B, T'].
            packed: the rows that lie side by side on T', with B = 1.
        """
        x = self.flag(prompted.long()) + self.asked(level)
        for q, embedding in enumerate(self.code_embedding):
            known = (level > q) | prompted
            x = x + embedding(codes[:, q]) * known[..., None]
        out: Tensor = self.transformer(x, packed=packed)
        return out

    def logits(self, q: int, hidden: Tensor) -> Tensor:
        """[..., D] to [..., codebook_size] of level q."""
        weight: Tensor = self.code_embedding[q].weight  # type: ignore[assignment]
        return nn.functional.linear(self.head_norm[q](hidden), weight)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean over the asked codes of the frames after the prompt."""
        metrics: dict[str, Any] = {"padding_share": padding_share(batch.packed["rows"], batch["codes"][:1])}
        total, targets = torch.zeros((), device=batch["codes"].device), 0
        for q, found in zip(range(self.coarse_levels, self.levels), self.predictions(batch), strict=True):
            if not len(found.at):
                total = total + found.logits.sum() * 0.0  # each weight has a gradient, or ranks could not sum theirs
                continue
            loss = cross_entropy(found.logits, found.targets)
            total, targets = total + loss * len(found.at), targets + len(found.at)
            metrics |= {f"loss_{q}": loss.detach(), f"accuracy_{q}": accuracy(found.logits, found.targets)}
        return total / targets, metrics | {"targets": float(targets)}

    def predictions(self, batch: Batch) -> list[Prediction]:
        """One a level that is not given; of a level that no row asks for, one without places."""
        rows, codes = batch.packed["rows"], batch["codes"]
        hidden = self.hidden(codes[None], batch["level"][None], batch["prompted"][None], rows)
        found = []
        for q in range(self.coarse_levels, self.levels):
            learned = batch[f"learned_{q}"]
            logits = self.logits(q, hidden[0, learned])
            found.append(Prediction(rows, learned, logits, codes[q, learned], torch.full_like(learned, q)))
        return found
