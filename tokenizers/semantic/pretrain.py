"""Training a speech encoder of one's own: masked prediction of clusters (HuBERT), with CTC beside it where text is.

    clips ──▶ filterbanks ──augment, mask──▶ encoder ──▶ block `ctc_layer` ──▶ CTC on text tokens
                 │                                  └──▶ last block ──▶ cluster id of each masked frame
                 └── MFCCs (or an earlier encoder's features) ──k-means──▶ cluster ids

The result is an ordinary transformers folder:

    encoder/
      config.json  preprocessor_config.json  model.safetensors (float16)    AutoModel.from_pretrained reads them
      ctc.safetensors  ctc.json                                             the CTC head, for probes
      run/                                                                  the run folder of the training loop

Knows no language model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.architecture import Architecture, build_encoder, front_end, save_front_end
from triptych.tokenizers.semantic.augment import AugmentConfig
from triptych.tokenizers.semantic.ctc import edit_distance, greedy
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.pretrain_data import (
    Batch,
    Buckets,
    Shelf,
    collate,
    fill_shelf,
    fit_clusters,
    held_out,
    nearest,
)
from triptych.tokenizers.semantic.tokenizer import standardised, to_rate
from triptych.training.config import STRICT, TrainingConfig
from triptych.training.files import atomic_file, write_json
from triptych.training.loop import train
from triptych.training.run import RunFolder

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer

STRESS_MARKS = "ˈˌ"
MOST_TARGET_FRAMES = 400_000
"""frames that k-means of the targets sees"""


@dataclass(frozen=True, config=STRICT)
class EncoderFitConfig:
    """How a speech encoder is trained from scratch."""

    architecture: Architecture = Architecture()
    """family and sizes"""
    clusters: int = 128
    """k-means ids that masked frames are predicted as"""
    targets_from: str | None = None
    """an earlier encoder (folder or hub id) whose features are clustered; none: MFCCs"""
    targets_layer: int = 3
    """hidden_states[k] of that encoder"""
    mask_start: float = 0.08
    """probability that a frame begins a masked span"""
    mask_span: int = 5
    """frames"""
    visible_weight: float = 0.1
    """of the loss at frames that are not masked"""
    ctc_weight: float = 0.5
    """of the CTC loss on text tokens; 0 learns from sound alone"""
    ctc_layer: int | None = None
    """hidden_states[k] that CTC reads; none: the last"""
    ctc_steps: int = 2
    """CTC steps a frame: a frame of 40 ms may hold more than one phoneme"""
    ctc_skip: tuple[str, ...] = ("", ".", ",", "?", "!")
    """text tokens, as the front end spells them, that CTC leaves out: word boundaries and punctuation make no sound"""
    ctc_stress: bool = False
    """whether CTC tells stressed vowels from unstressed ones"""
    augment: AugmentConfig = AugmentConfig()
    """how the input is changed while the targets stay clean"""
    frames_per_batch: int = 1500
    """padded encoder frames of a micro-batch"""
    max_seconds: float = 20.0
    """longer clips are cut there"""
    held_out: float = 0.02
    """share of the clips for validation, where no others are given"""
    validation_clips: int = 200
    """at most so many are heard in a validation"""
    training: TrainingConfig = TrainingConfig()
    """steps, rates and the like"""


class MaskedPrediction(nn.Module):
    """The encoder with what it needs only while it learns: a mask vector and two heads."""

    def __init__(self, config: EncoderFitConfig, clusters: int, text_classes: int) -> None:
        """`text_classes` 0 leaves CTC away; the blank is the class after the last."""
        super().__init__()
        self.config = config
        self.blank = text_classes
        self.encoder = build_encoder(config.architecture)
        dim = config.architecture.dim
        self.mask_vector = nn.Parameter(torch.randn(dim) * 0.1)
        self.cluster_head = nn.Linear(dim, clusters)
        self.ctc_head = nn.Linear(dim, config.ctc_steps * (text_classes + 1)) if text_classes else None
        self._masked: Tensor | None = None
        self._ctc_hidden: Tensor | None = None
        body: Any = self.encoder
        body.feature_projection.register_forward_hook(self._cover)
        layer = config.ctc_layer if config.ctc_layer is not None else config.architecture.layers
        if not 1 <= layer <= config.architecture.layers:
            raise ValueError(f"ctc_layer = {layer}: the encoder has layers 1 to {config.architecture.layers}")
        body.encoder.layers[layer - 1].register_forward_hook(self._keep)

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
        if self.config.visible_weight:
            loss = loss + self.config.visible_weight * (entropy * visible).sum() / visible.sum().clamp(min=1)
        if steps is not None:
            ctc = self.ctc_loss(steps, batch)
            metrics["ctc_loss"] = ctc.detach()
            loss = loss + self.config.ctc_weight * ctc
        return loss, {**metrics, "targets": float(valid.sum())}

    def ctc_loss(self, steps: Tensor, batch: Batch) -> Tensor:
        """Mean over the rows with text, each divided by its number of tokens."""
        rows = batch.text_lengths > 0
        if not rows.any():
            return steps.sum() * 0
        return nn.functional.ctc_loss(
            steps[rows.to(steps.device)].transpose(0, 1),
            batch.text.to(steps.device),
            batch.valid.sum(dim=1)[rows] * self.config.ctc_steps,
            batch.text_lengths[rows],
            blank=self.blank,
        )


@dataclass(frozen=True)
class TextClasses:
    """Text token ids as CTC counts them: `class_of[id]`, -1 for those left out."""

    class_of: tuple[int, ...]
    names: tuple[str, ...]
    """of each class"""

    @classmethod
    def of(cls, text: "TextTokenizer", config: EncoderFitConfig) -> "TextClasses":
        spelled = [text.decode(np.array([i], dtype=np.uint16)).strip() for i in range(text.spec.size)]
        if not config.ctc_stress:
            spelled = [name.lstrip(STRESS_MARKS) for name in spelled]
        names = list(dict.fromkeys(name for name in spelled if name not in config.ctc_skip))
        places = {name: place for place, name in enumerate(names)}
        return cls(tuple(places.get(name, -1) for name in spelled), tuple(names))

    def encode(self, text: "TextTokenizer", words: str) -> NDArray[np.int64]:
        classes = np.asarray(self.class_of, dtype=np.int64)[text.encode(words).astype(np.int64)]
        return np.asarray(classes[classes >= 0], dtype=np.int64)


def fit_encoder(
    clips: Clips,
    folder: Path,
    config: EncoderFitConfig,
    text: "TextTokenizer | None",
    *,
    validation: Clips | None = None,
    resume: bool = False,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Path:
    """Trains an encoder on `clips` and writes it to `folder`, which it returns.

    Args:
        text: the front end whose tokens CTC learns; none, or `ctc_weight` 0: sound alone.
        validation: held-out clips; without them a share of `clips` is held out.
    Raises:
        ValueError: no clips, or `folder` holds a run and `resume` is not asked for.
    """
    if len(clips) == 0:
        raise ValueError("there are no clips to learn from: check the manifest and its split")
    text = text if config.ctc_weight else None
    classes = TextClasses.of(text, config) if text else None
    front = front_end(config.architecture)
    seed = config.training.seed
    learned, heard = held_out(len(clips), config.held_out, seed)
    if validation is not None:
        learned, heard = list(range(len(clips))), held_out(len(validation), 1.0, seed)[1]
    heard = heard[:: max(1, len(heard) // config.validation_clips)][: config.validation_clips]

    def encode(words: str) -> NDArray[np.int64]:
        assert text is not None and classes is not None
        return classes.encode(text, words)

    with RunFolder(folder / "run", json.loads(json.dumps(asdict(config)))) as run:
        shelf = fill_shelf(clips, front, encode if text else None, learned, config.max_seconds)
        dev = fill_shelf(validation or clips, front, encode if text else None, heard, config.max_seconds)
        centroids, targets, dev_targets = make_targets(
            config, shelf, dev, ((clips, learned), (validation or clips, heard))
        )
        run.log(0, "data", data_summary(shelf, config))
        torch.manual_seed(seed)
        model = MaskedPrediction(config, len(centroids), len(classes.names) if classes else 0)
        buckets = Buckets(shelf.frames, config.frames_per_batch, seed)

        def batches(step: int) -> list[Batch]:
            first = (step - 1) * config.training.accumulation
            return [
                make_batch(shelf, buckets.rows(number), targets, config, (seed, 4, number))
                for number in range(first, first + config.training.accumulation)
            ]

        def validate(step: int, run: RunFolder) -> Mapping[str, float]:
            return evaluate(model, dev, dev_targets, config)

        record = {"stage": "encoder", "format": 1, "clusters": len(centroids), "config": asdict(config)}
        record["text_classes"] = list(classes.names) if classes else []
        record = json.loads(json.dumps(record))
        train(model, batches, config.training, run, record, validate=validate, resume=resume, progress=progress)
        write_encoder(model, folder, classes)
    return folder


def data_summary(shelf: Shelf, config: EncoderFitConfig) -> dict[str, float]:
    """What there is to learn from; rows whose text does not fit their frames are counted."""
    steps = shelf.frames * config.ctc_steps
    spoken = [len(text) for text in shelf.text if len(text)]
    unfit = sum(
        1
        for text, count in zip(shelf.text, steps, strict=True)
        if len(text) and len(text) + int((text[1:] == text[:-1]).sum()) > count
    )
    return {
        "clips": float(len(shelf)),
        "hours": float(shelf.frames.sum()) * shelf.front.hop / filterbank.SAMPLE_RATE / 3600,
        "clips_with_text": float(len(spoken)),
        "clips_whose_text_does_not_fit": float(unfit),
        "clips_that_cannot_be_spoken": float(len(shelf.unspoken)),
    }


def make_targets(
    config: EncoderFitConfig, shelf: Shelf, dev: Shelf, heard: Sequence[tuple[Clips, Sequence[int]]]
) -> tuple[NDArray[np.float32], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Centroids [K, D] and the cluster ids [T] of each clip of both shelves; `heard`: where those clips came from."""
    if config.targets_from is None:
        found = [[mfcc_features(one, row) for row in range(len(one))] for one in (shelf, dev)]
    else:
        encoder = Encoder.load(config.targets_from, config.targets_layer)
        if encoder.hop != shelf.front.hop:
            raise ValueError(
                f"targets_from: {config.targets_from} has a frame every {encoder.hop} samples, the new encoder every "
                f"{shelf.front.hop}: choose encoders of one rate"
            )
        found = [
            [own_features(encoder, clips, index, int(count)) for index, count in zip(indices, one.frames, strict=True)]
            for one, (clips, indices) in zip((shelf, dev), heard, strict=True)
        ]
    centroids = fit_clusters(found[0], config.clusters, config.training.seed, MOST_TARGET_FRAMES)
    ids = [[nearest(features, centroids) for features in one] for one in found]
    return centroids, ids[0], ids[1]


def mfcc_features(shelf: Shelf, row: int) -> NDArray[np.float32]:
    """[T, 39]"""
    return filterbank.mfcc(shelf.mels[row].astype(np.float32), shelf.front.stride)[: shelf.frames[row]]


def own_features(encoder: Encoder, clips: Clips, index: int, frames: int) -> NDArray[np.float32]:
    """[T, D] of an earlier encoder, standardised over the clip."""
    waveform = to_rate(clips.waveform(index), clips.sample_rate)
    return standardised(encoder.features([waveform])[0]).numpy()[:frames]


def make_batch(
    shelf: Shelf,
    rows: NDArray[np.int64],
    targets: Sequence[NDArray[np.int64]],
    config: EncoderFitConfig,
    seed: tuple[int, ...],
    *,
    clean: bool = False,
) -> Batch:
    return collate(
        shelf,
        rows,
        targets,
        np.random.default_rng(seed),
        augmentation=None if clean else config.augment,
        mask_start=config.mask_start,
        mask_span=config.mask_span,
        ctc_steps=config.ctc_steps,
    )


def evaluate(
    model: MaskedPrediction, dev: Shelf, targets: Sequence[NDArray[np.int64]], config: EncoderFitConfig
) -> dict[str, float]:
    """Loss and masked accuracy with fixed masks, and the error rate of greedy CTC with nothing masked."""
    sums: dict[str, float] = {}
    errors = tokens = 0
    order = np.argsort(dev.frames, kind="stable")
    order = order[dev.frames[order] > 0]
    per_batch = max(1, config.frames_per_batch // int(dev.frames.max()))
    for begin in range(0, len(order), per_batch):
        batch = make_batch(dev, order[begin : begin + per_batch], targets, config, (5, begin), clean=True)
        loss, metrics = model.loss(batch)
        for name, value in {**metrics, "loss": loss}.items():
            weight = 1.0 if name == "targets" else float(metrics["targets"])
            sums[name] = sums.get(name, 0.0) + float(value) * weight
        _, steps = model(batch, masked=False)
        if steps is not None:
            wrong, count = phone_errors(steps, batch, model.blank, config.ctc_steps)
            errors, tokens = errors + wrong, tokens + count
    frames = sums.pop("targets")
    values = {name: value / frames for name, value in sums.items()}
    return values | ({"ctc_error": errors / tokens} if tokens else {})


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


def write_encoder(model: MaskedPrediction, folder: Path, classes: TextClasses | None) -> None:
    """The bare encoder in float16 as a transformers folder, the CTC head beside it."""
    beside = folder / ".export"
    halved = build_encoder(model.config.architecture)
    halved.load_state_dict(model.encoder.state_dict())
    halved.half().save_pretrained(beside)
    save_front_end(model.config.architecture, beside)
    for file in sorted(beside.iterdir()):
        file.replace(folder / file.name)
    beside.rmdir()
    if model.ctc_head is not None and classes is not None:
        with atomic_file(folder / "ctc.safetensors") as part:
            weights = {name: value.detach().cpu().contiguous() for name, value in model.ctc_head.state_dict().items()}
            save_file(weights, part)
        layer = model.config.ctc_layer or model.config.architecture.layers
        write_json(
            folder / "ctc.json",
            {"layer": layer, "steps": model.config.ctc_steps, "blank": model.blank, "classes": list(classes.names)},
        )
