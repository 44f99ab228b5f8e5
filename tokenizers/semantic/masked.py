"""Masked prediction with CTC and invariance beside it: the trainee that the training loop drives.

    inputs ──projection──▶ hidden, masked frames replaced by one vector ──blocks──▶ cluster logits [B, T, K]
                                                │            └ block `ctc_layer` ──▶ CTC [B, T * ctc_steps, classes + 1]
                                       block `token_layer` ──▶ standardised over the clip ─┐
    clean   ──the same encoder or a teacher, nothing masked, no gradient──▶ standardised ──┴▶ 1 - correlation
                                       block `token_layer` ──▶ standardised ──distances to centroids──▶ tokens [B, T, K]

HuBERT (Hsu et al. 2021) with clusters of MFCCs first; CTC (Graves et al. 2006) makes the features know phonemes. The
hooks work on any of transformers' encoders, so that what is saved is the bare encoder. The invariance is why tokens
stay the same under noise or another voice: k-means sees exactly those standardised features, and since their variance
is fixed, they cannot agree by becoming nothing. The last line goes on from a tokenizer that is there: it clears the
borders between its cells (Gat et al. 2023, "Augmentation invariant discrete representation"). Knows no clips and no
files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triptych.tokenizers.semantic.architecture import Architecture, build_encoder
from triptych.tokenizers.semantic.compared import roots
from triptych.tokenizers.semantic.ctc import edit_distance, greedy
from triptych.tokenizers.semantic.encoder import Encoder
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
    invariance: float = 0.0
    """of 1 - the correlation between the features of a changed clip and those of the clean one"""
    token_layer: int | None = None
    """hidden_states[k] whose features are held together; none: the last"""
    tokens: float = 0.0
    """of the cross-entropy of tokens by distance"""
    temperature: float = 8.0
    """squared distance, a unit of logit"""
    phonemes: float = 0.0
    """of what CTC hears beside the features, in those distances (compared.py)"""


class MaskedPrediction(nn.Module):
    """The encoder with what it needs only while it learns: a mask vector and two heads."""

    centroids: Tensor | None

    def __init__(
        self,
        architecture: Architecture,
        weights: LossWeights,
        clusters: int,
        text_classes: int,
        centroids: Tensor | None = None,
        teacher: Encoder | None = None,
    ) -> None:
        """`text_classes` 0 leaves CTC away; the blank is the class after the last. `centroids` [K, D]: of the targets,
        where `weights.tokens` holds features to them. `teacher`: hears the clean view in the place of this encoder.

        Raises:
            ValueError: the centroids do not have the width of the encoder's features.
        """
        super().__init__()
        width = architecture.dim + (weights.ctc_steps * (text_classes + 1) if weights.phonemes else 0)
        if centroids is not None and centroids.shape[1] != width:
            raise ValueError(
                f"targets_from: its centroids have {centroids.shape[1]} numbers, the encoder's features "
                f"{width}: give a tokenizer of an encoder of this width"
            )
        self.register_buffer("centroids", centroids)
        self.weights = weights
        self.teacher = teacher  # no module: it neither learns nor is saved
        self.blank = text_classes
        self.encoder = build_encoder(architecture)
        dim = architecture.dim
        self.mask_vector = nn.Parameter(torch.randn(dim) * 0.1)
        self.cluster_head = nn.Linear(dim, clusters)
        self.ctc_head = nn.Linear(dim, weights.ctc_steps * (text_classes + 1)) if text_classes else None
        self._masked: Tensor | None = None
        self._kept: dict[int, Tensor] = {}
        body: Any = self.encoder
        body.feature_projection.register_forward_hook(self._cover)
        self.ctc_layer = architecture.layers if weights.ctc_layer is None else weights.ctc_layer
        self.token_layer = architecture.layers if weights.token_layer is None else weights.token_layer
        for layer in {self.ctc_layer, self.token_layer}:
            body.encoder.layers[layer - 1].register_forward_hook(partial(self._keep, layer))

    def _cover(self, _: nn.Module, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if self._masked is not None:
            hidden = torch.where(self._masked[..., None], self.mask_vector.to(hidden.dtype), hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _keep(self, layer: int, _: nn.Module, __: Any, output: Any) -> None:
        self._kept[layer] = output[0] if isinstance(output, tuple) else output

    def hidden(self, batch: Batch, *, masked: bool = True) -> dict[int, Tensor]:
        """[B, T, D] that leaves the layers of CTC and of tokens, by layer; -1: the encoder's last hidden state."""
        device = self.mask_vector.device
        attention = batch.valid
        if len(batch.samples):
            attention = torch.arange(batch.inputs.shape[1])[None] < batch.samples[:, None]
        self._masked = batch.masked.to(device) if masked else None
        try:
            hidden = self.encoder(batch.inputs.to(device), attention_mask=attention.long().to(device)).last_hidden_state
        finally:
            self._masked = None
        kept, self._kept = self._kept, {}
        return {**kept, -1: hidden}

    def forward(self, batch: Batch, *, masked: bool = True) -> tuple[Tensor, Tensor | None]:
        """Cluster logits [B, T, K], and CTC log-probabilities [B, T * ctc_steps, classes + 1]."""
        return self.heads(self.hidden(batch, masked=masked))

    def heads(self, hidden: Mapping[int, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What `forward` says, of hidden states that are there."""
        logits = self.cluster_head(hidden[-1])
        return logits, None if self.ctc_head is None else self.steps(hidden[self.ctc_layer])

    def steps(self, below: Tensor) -> Tensor:
        """[B, T, D] that CTC reads -> its log-probabilities [B, T * ctc_steps, classes + 1]."""
        assert self.ctc_head is not None
        steps: Tensor = self.ctc_head(below).float().reshape(below.shape[0], -1, self.blank + 1)
        return steps.log_softmax(dim=-1)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Cross-entropy of masked (and, weakly, visible) frames, plus the weighted losses of CTC and of invariance."""
        hidden = self.hidden(batch)
        logits, steps = self.heads(hidden)
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
        if batch.clean is not None:
            apart = self.invariance_loss(hidden[self.token_layer], batch)
            metrics["invariance_loss"] = apart.detach()
            loss = loss + self.weights.invariance * apart
        if self.centroids is not None:
            near = self.token_logits(hidden[self.token_layer], valid)
            wrong = nn.functional.cross_entropy(near.transpose(1, 2), targets, reduction="none")
            seen = visible.sum().clamp(min=1)
            token_loss = (wrong * visible).sum() / seen
            metrics["token_loss"] = token_loss.detach()
            metrics["token_accuracy"] = ((near.argmax(dim=-1) == targets) & visible).sum() / seen
            loss = loss + self.weights.tokens * token_loss
        return loss, {**metrics, "targets": float(valid.sum())}

    def token_logits(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """[B, T, K]: minus the squared distances of the features, as tokens are made of them, to the centroids; what
        is the same for all of a frame is left out."""
        assert self.centroids is not None
        with torch.autocast(hidden.device.type, enabled=False):  # differences of large numbers
            features = over_clip(hidden, valid)
            if self.weights.phonemes:
                said, weights = self.steps(hidden.float()), self.weights
                heard = roots(said, hidden.shape[2], weights.ctc_steps, weights.phonemes)
                features = torch.cat([features, heard * valid[..., None]], dim=2)
            near = 2 * features @ self.centroids.T - self.centroids.square().sum(dim=1)
        return near / self.weights.temperature

    def invariance_loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Mean over the visible frames and the features of half the squared distance to the clean view's, both
        standardised over the clip as tokens are: 1 - their correlation; 0 if they agree, 1 if they do not know of each
        other."""
        assert batch.clean is not None
        assert batch.clean_frames is not None
        clean = self.clean_view(batch.clean)
        device = hidden.device
        valid, visible = batch.valid.to(device), (batch.valid & ~batch.masked).to(device)
        wanted = over_clip(clean, batch.clean.valid.to(device))
        place = batch.clean_frames.to(device)[..., None].expand(-1, -1, wanted.shape[2])
        distance = (over_clip(hidden, valid) - wanted.gather(1, place)).square().mean(dim=2) / 2
        return (distance * visible).sum() / visible.sum().clamp(min=1)

    @torch.no_grad()
    def clean_view(self, clean: Batch) -> Tensor:
        """[B, T, D] that leaves the layer of tokens, of the teacher or of this encoder without its dropout."""
        if self.teacher is not None:
            lengths = clean.samples if len(clean.samples) else clean.valid.sum(dim=1)
            rows = [row[:length].numpy() for row, length in zip(clean.inputs, lengths.tolist(), strict=True)]
            return self.teacher.hidden(rows).to(self.mask_vector.device)
        training = self.encoder.training
        self.encoder.eval()
        hidden = self.hidden(clean, masked=False)[self.token_layer]
        self.encoder.train(training)
        return hidden

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


def over_clip(hidden: Tensor, valid: Tensor) -> Tensor:
    """[B, T, D] with zero mean and unit variance of each feature over the valid frames of each row, fp32."""
    hidden, count = hidden.float(), valid.sum(dim=1).clamp(min=1)[:, None, None]
    hidden = hidden * valid[..., None]
    centred = (hidden - hidden.sum(dim=1, keepdim=True) / count) * valid[..., None]
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-5).sqrt()


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
