"""Masked prediction with CTC beside it: the trainee that the training loop drives.

    inputs ──projection──▶ hidden, masked frames replaced by one vector ──blocks──▶ cluster logits [B, T, K]
                                                             └ block `ctc_layer` ──▶ CTC [B, T * ctc_steps, classes + 1]

HuBERT (Hsu et al. 2021) with clusters of MFCCs first; CTC (Graves et al. 2006) makes the features know phonemes. The
hooks work on any of transformers' encoders, so that what is saved is the bare encoder. Knows no clips and no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triptych.tokenizers.semantic.architecture import Architecture, build_encoder
from triptych.tokenizers.semantic.ctc import edit_distance, greedy
from triptych.tokenizers.semantic.pretrain_data import Batch


@dataclass(frozen=True)
class LossWeights:
    """What counts, and how much."""

    visible: float
    """of the cross-entropy of frames that are not masked"""
    ctc: float
    """of CTC, a text token"""
    ctc_layer: int | None
    """hidden_states[k] that CTC reads; none: the last"""
    ctc_steps: int
    """CTC steps a frame"""


class MaskedPrediction(nn.Module):
    """The encoder with what it needs only while it learns: a mask vector and two heads."""

    def __init__(self, architecture: Architecture, weights: LossWeights, clusters: int, text_classes: int) -> None:
        """`text_classes` 0 leaves CTC away; the blank is the class after the last."""
        super().__init__()
        self.weights = weights
        self.blank = text_classes
        self.encoder = build_encoder(architecture)
        dim = architecture.dim
        self.mask_vector = nn.Parameter(torch.randn(dim) * 0.1)
        self.cluster_head = nn.Linear(dim, clusters)
        self.ctc_head = nn.Linear(dim, weights.ctc_steps * (text_classes + 1)) if text_classes else None
        self._masked: Tensor | None = None
        self._ctc_hidden: Tensor | None = None
        body: Any = self.encoder
        body.feature_projection.register_forward_hook(self._cover)
        self.ctc_layer = architecture.layers if weights.ctc_layer is None else weights.ctc_layer
        body.encoder.layers[self.ctc_layer - 1].register_forward_hook(self._keep)

    def _cover(self, _: nn.Module, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if self._masked is not None:
            hidden = torch.where(self._masked[..., None], self.mask_vector.to(hidden.dtype), hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._ctc_hidden = output[0] if isinstance(output, tuple) else output

    def forward(self, batch: Batch, *, masked: bool = True) -> tuple[Tensor, Tensor | None]:
        """Cluster logits [B, T, K], and CTC log-probabilities [B, T * ctc_steps, classes + 1]."""
        device = self.mask_vector.device
        attention = batch.valid
        if len(batch.samples):
            attention = torch.arange(batch.inputs.shape[1])[None] < batch.samples[:, None]
        self._masked = batch.masked.to(device) if masked else None
        try:
            hidden = self.encoder(batch.inputs.to(device), attention_mask=attention.long().to(device)).last_hidden_state
        finally:
            self._masked = None
        below, self._ctc_hidden = self._ctc_hidden, None
        if self.ctc_head is None or below is None:
            return self.cluster_head(hidden), None
        steps = self.ctc_head(below).float().reshape(below.shape[0], -1, self.blank + 1)
        return self.cluster_head(hidden), steps.log_softmax(dim=-1)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Cross-entropy of masked (and, weakly, visible) frames, plus `ctc_weight` times CTC a text token."""
        logits, steps = self(batch)
        device = logits.device
        targets, valid, masked = (x.to(device) for x in (batch.targets, batch.valid, batch.masked))
        entropy = nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        visible = valid & ~masked
        loss = (entropy * masked).sum() / masked.sum().clamp(min=1)
        right = ((logits.argmax(dim=-1) == targets) & masked).sum() / masked.sum().clamp(min=1)
        metrics: dict[str, float | Tensor] = {"masked_loss": loss.detach(), "masked_accuracy": right}
        if self.weights.visible:
            loss = loss + self.weights.visible * (entropy * visible).sum() / visible.sum().clamp(min=1)
        if steps is not None:
            ctc = self.ctc_loss(steps, batch)
            metrics["ctc_loss"] = ctc.detach()
            loss = loss + self.weights.ctc * ctc
        return loss, {**metrics, "targets": float(valid.sum())}

    def ctc_loss(self, steps: Tensor, batch: Batch) -> Tensor:
        """Mean over the rows with text, each divided by its number of tokens."""
        rows = batch.text_lengths > 0
        if not rows.any():
            return steps.sum() * 0
        return nn.functional.ctc_loss(
            steps[rows.to(steps.device)].transpose(0, 1),
            batch.text.to(steps.device),
            batch.valid.sum(dim=1)[rows] * self.weights.ctc_steps,
            batch.text_lengths[rows],
            blank=self.blank,
        )


def phone_errors(steps: Tensor, batch: Batch, blank: int, ctc_steps: int) -> tuple[int, int]:
    """Edits between what greedy CTC heard and the text, and the length of the text, over the rows with text."""
    best = steps.argmax(dim=-1).cpu().numpy()
    texts = np.split(batch.text.numpy(), batch.text_lengths.cumsum(0)[:-1].numpy())
    errors = tokens = 0
    for row, text in enumerate(texts):
        if len(text):
            length = int(batch.valid[row].sum()) * ctc_steps
            errors += edit_distance(greedy(best[row, :length], blank), text.tolist())
            tokens += len(text)
    return errors, tokens
