"""The semantic stage as a trainee: a plain language model, its loss, and what is logged of it."""

from typing import Any

import torch
from torch import Tensor, nn

from triptych.lm.loss import accuracy, cross_entropy, illegal_mass
from triptych.lm.transformer import LanguageModel
from triptych.lm.vocabulary import Vocabulary
from triptych.stages.semantic.sequence import SemanticConfig
from triptych.stages.stage import Batch, Prediction, padding_share


class SemanticModel(nn.Module):
    """One `LanguageModel` over the semantic stage's vocabulary."""

    def __init__(self, config: SemanticConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.label_smoothing = config.label_smoothing
        self.register_buffer("kind_of", kinds(vocabulary), persistent=False)
        self.kind_of: Tensor
        self.text_rows = vocabulary.block("text").size
        self.language_model = LanguageModel(config.transformer, vocabulary.size, tied=config.tie_embeddings)
        self.register_buffer("legal", legal_by_target(vocabulary, config), persistent=False)
        self.legal: Tensor

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean over the targets; the softmax is over all of V, so that the stage is a plain language model."""
        (found,) = self.predictions(batch)
        loss = cross_entropy(found.logits, found.targets, self.label_smoothing if self.training else 0.0)
        metrics = {
            "targets": float(len(found.targets)),
            "padding_share": padding_share(found.rows, batch["tokens"][None]),
            "accuracy": accuracy(found.logits, found.targets),
        }
        if found.legal is not None:
            metrics["illegal_mass"] = illegal_mass(found.logits, found.legal)
            metrics["perplexity"] = torch.exp(loss)
        return loss, metrics

    def predictions(self, batch: Batch) -> list[Prediction]:
        """One, of all targets; `legal` in eval mode."""
        rows, targets, learned = batch.packed["rows"], batch["targets"], batch["learned"]
        hidden = self.language_model.hidden(batch["tokens"][None], positions=batch["positions"][None], packed=rows)
        logits = self.language_model.logits(hidden[0, learned])
        legal = None if self.training else self.legal[self.kind_of[targets]]
        return [Prediction(rows, learned, logits, targets, torch.zeros_like(targets), legal)]


def kinds(vocabulary: Vocabulary) -> Tensor:
    """int64 [V]: 0 at semantic ids, 1 at text ids, 2 at specials; the row of `legal_by_target`."""
    kind = torch.full((vocabulary.size,), 2)
    kind[vocabulary.legal("semantic")] = 0
    kind[vocabulary.legal("text")] = 1
    return kind


def legal_by_target(vocabulary: Vocabulary, config: SemanticConfig) -> Tensor:
    """bool [3, V]: what may stand where a semantic token, a text id or a special is to be predicted."""
    specials = ("eos", "turn") if config.tasks.interleave > 0 else ("eos",)
    either = ("semantic", "text") if config.tasks.also else ("semantic",)
    named = (("semantic", *specials), ("text", *specials), (*either, *specials))
    return torch.stack([vocabulary.legal(*names) for names in named])
