"""Training a speech encoder of one's own: masked prediction of clusters (HuBERT) or of random projections (BEST-RQ),
with CTC beside it where text is, and features that stay the same under changes a listener would forgive.

    clips ──▶ filterbanks ──augment, mask──▶ encoder ──▶ block `ctc_layer` ──▶ CTC on text tokens
                 │                              │   ├──▶ last block ──▶ id of each masked frame
                 │                              │   └──▶ block `token_layer` ─┐ 1 - correlation
                 ├── as they are ───────────────┘        of the clean view  ──┘   (or a teacher's, of it)
                 ├── MFCCs (or an earlier encoder's features) ──k-means──▶ ids
                 ├── random matrix ──nearest random vector──▶ ids, the alternative
                 └── a tokenizer ──▶ ids and centroids, to which block `token_layer` can be held

`encoder_folder.py` writes the result, an ordinary transformers folder with the run folder in it. Knows no language
model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from dataclasses import dataclass as record_class
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from triptych.tokenizers.clips import Clips, Refused
from triptych.tokenizers.semantic.architecture import Architecture, front_end
from triptych.tokenizers.semantic.augment import AugmentConfig
from triptych.tokenizers.semantic.buckets import Buckets
from triptych.tokenizers.semantic.ctc import TextClasses
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.encoder_folder import start_from, write_encoder
from triptych.tokenizers.semantic.inputs import FrontEnd
from triptych.tokenizers.semantic.masked import LossWeights, MaskedPrediction, phone_errors
from triptych.tokenizers.semantic.pretrain_data import Batch, Shelf, collate, fill_shelf, held_out, summary
from triptych.tokenizers.semantic.targets import Recipe, Targets, has_targets, keep_targets, kept_targets, make_targets
from triptych.training.config import STRICT, TrainingConfig
from triptych.training.device import pick_device
from triptych.training.distributed import of_all_ranks, rank, ranks, wait_for_all, world
from triptych.training.loop import train
from triptych.training.run import RunFolder, refuse_run

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer


@dataclass(frozen=True, config=STRICT)
class EncoderFitConfig:
    """How a speech encoder is trained from scratch."""

    architecture: Architecture = Architecture()
    """family and sizes"""
    init: str | None = None
    """an encoder (folder) of the same architecture whose weights are the start; none: random ones"""
    targets: Literal["kmeans", "best-rq", "tokens"] = "kmeans"
    """what frames are predicted as: clusters, nearest vectors of a random projection, which fits nothing, or tokens"""
    clusters: int = 128
    """ids of those targets; BEST-RQ was published with 8192; not for tokens, who have their own"""
    projection_dim: int = 16
    """numbers that the random projection keeps of a frame; best-rq alone"""
    targets_from: str | None = None
    """an earlier encoder (folder or hub id) whose features are clustered; none: MFCCs. For tokens: the folder of a
    semantic tokenizer"""
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
    invariance_weight: float = 0.0
    """of holding the features of the changed clip to those of the clean one; costs a forward pass more"""
    invariance_from: str | None = None
    """an encoder (folder or hub id) that hears the clean clip in the place of the one that learns, with a floor of its
    own: what it says there is learned (distillation); none: the encoder itself"""
    token_layer: int | None = None
    """hidden_states[k] that is held, the one that will be clustered to tokens; none: the last"""
    token_weight: float = 0.0
    """of telling the clean clip's token from the distances of the changed clip's features to the centroids, with
    targets=tokens: the tokens stay what they are, and borders between them are cleared"""
    token_temperature: float = 8.0
    """squared distance, a unit of logit, of that"""
    augment: AugmentConfig = AugmentConfig()
    """how the input is changed while the targets stay clean"""
    frames_per_batch: int = 1500
    """padded encoder frames of a micro-batch"""
    max_seconds: float = 20.0
    """longer clips are cut there"""
    held_out: float = 0.02
    """share of the clips for validation, where no others are given"""
    validation_clips: Annotated[int, Field(ge=1)] = 200
    """at most so many are heard in a validation"""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    """share of the clips that may be unusable before the fit stops; each is named, and not learned from"""
    training: TrainingConfig = TrainingConfig()
    """steps, rates and the like"""


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
        ValueError: no clips, none long enough, too many that cannot be used, CTC without a text, or `folder` holds a
            run and `resume` is not asked for (or the other way round).
    """
    _refuse(clips, validation, folder, config, resume)
    teacher = teacher_of(config)
    text = text if config.ctc_weight else None
    classes = TextClasses.of(text, config.ctc_skip, config.ctc_stress) if text else None
    seed, accumulation = config.training.seed, config.training.accumulation
    said = json.loads(json.dumps(asdict(config)))
    with ranks(config.training.device, config.training.timeout), RunFolder(folder / "run", said) as run:
        if teacher:
            teacher.model.to(pick_device(config.training.device))
        material = gather(clips, validation, config, text, classes, folder / "run", resume)
        run.log(0, "data", summary(material.shelf, config.ctc_steps))
        torch.manual_seed(seed)
        names = list(classes.names) if classes else []
        centroids, weights = None, loss_weights(config)
        if config.token_weight:
            centroids = torch.from_numpy(material.targets.centroids)
            weights = replace(weights, phonemes=phonemes_held(config, material.targets, names))
        model = MaskedPrediction(config.architecture, weights, material.clusters, len(names), centroids, teacher)
        if config.init and not resume:
            start_from(model, front_end(config.architecture), config.init, classes)
        clean_front = (teacher.front if teacher else material.shelf.front) if config.invariance_weight else None
        buckets = Buckets(material.shelf.frames, config.frames_per_batch, seed)

        def batches(step: int) -> list[Batch]:
            first = ((step - 1) * world() + rank()) * accumulation
            return [
                make_batch(
                    material.shelf,
                    buckets.rows(number),
                    material.targets.ids[0],
                    config,
                    (seed, 4, number),
                    clean_front,
                )
                for number in range(first, first + accumulation)
            ]

        def validate(step: int, run: RunFolder) -> Mapping[str, float]:
            return evaluate(model, material.dev, material.targets.ids[1], config)

        record = {"stage": "encoder", "format": 1, "clusters": material.clusters, "text_classes": names, "config": said}
        train(model, batches, config.training, run, record, validate=validate, resume=resume, progress=progress)
        if rank() == 0:
            write_encoder(model, config.architecture, folder, classes)
        wait_for_all()
    return folder


def _refuse(clips: Clips, validation: Clips | None, folder: Path, config: EncoderFitConfig, resume: bool) -> None:
    """What can be known to be wrong before the clips are read."""
    if len(clips) == 0:
        raise ValueError("there are no clips to learn from: check the manifest and its split")
    if validation is None and not held_out(len(clips), config.held_out, config.training.seed)[0]:
        raise ValueError(
            f"held_out={config.held_out:g} leaves none of {len(clips)} clips to learn from, since one cannot be both "
            "learned from and held out: give more clips, or some of split dev"
        )
    layers = config.architecture.layers
    for name in ("ctc_layer", "token_layer"):
        layer = getattr(config, name)
        if layer is not None and not 1 <= layer <= layers:
            raise ValueError(f"{name} = {layer}: the encoder has layers 1 to {layers}")
    if config.targets == "best-rq" and config.targets_from:
        raise ValueError("targets_from is for targets=kmeans: a random projection learns from no encoder; leave it out")
    if config.targets == "tokens" and not config.targets_from:
        raise ValueError("targets=tokens asks for a semantic tokenizer: add targets_from=FOLDER")
    if config.invariance_from and not config.invariance_weight:
        raise ValueError("invariance_from is whom features are held to: add invariance_weight=1, or leave it out")
    if config.token_weight and config.targets != "tokens":
        raise ValueError("token_weight asks for a tokenizer's centroids: add targets=tokens targets_from=FOLDER")
    if not resume:
        refuse_run(folder / "run")
    elif not (folder / "run" / "latest").exists():
        raise ValueError(f"{folder} holds no run that could be resumed")


def teacher_of(config: EncoderFitConfig) -> Encoder | None:
    """Whom the features of the token layer are held to.

    Raises:
        ValueError: there is none, or its frames or features are others than this encoder's.
    """
    if config.invariance_from is None:
        return None
    own, layer = front_end(config.architecture), config.token_layer or config.architecture.layers
    teacher = Encoder.load(config.invariance_from, layer)
    said = (teacher.front.wave, teacher.front.mels, teacher.hop, teacher.dim)
    if said != (own.wave, own.mels, own.hop, config.architecture.dim):
        raise ValueError(
            f"invariance_from: {config.invariance_from} has {teacher.dim} features every {teacher.hop} samples; "
            f"the new encoder has {config.architecture.dim} every {own.hop}, and can be held to the same alone"
        )
    return teacher


def recipe_of(config: EncoderFitConfig) -> Recipe:
    return Recipe(
        kind=config.targets,
        clusters=config.clusters,
        seed=config.training.seed,
        source=config.targets_from,
        layer=config.targets_layer,
        projection_dim=config.projection_dim,
    )


def loss_weights(config: EncoderFitConfig) -> LossWeights:
    return LossWeights(
        visible=config.visible_weight,
        ctc=config.ctc_weight,
        ctc_layer=config.ctc_layer,
        ctc_steps=config.ctc_steps,
        invariance=config.invariance_weight,
        token_layer=config.token_layer,
        tokens=config.token_weight,
        temperature=config.token_temperature,
    )


def phonemes_held(config: EncoderFitConfig, targets: Targets, names: Sequence[str]) -> float:
    """Weight of what CTC hears in the tokens that features are held to.

    Raises:
        ValueError: they hear phonemes, and this encoder's CTC others or at another layer.
    """
    layers = config.architecture.layers
    if targets.phonemes and (config.ctc_layer or layers) != (config.token_layer or layers):
        raise ValueError("targets_from: its tokens hear phonemes; give ctc_layer and token_layer one value")
    if targets.phonemes and tuple(names) != targets.classes:
        raise ValueError("targets_from: its tokens hear other phonemes than CTC learns: give the --text that it had")
    return targets.phonemes


@record_class(frozen=True)
class Material:
    """What is learned from, and what is validated on."""

    shelf: Shelf
    dev: Shelf
    targets: Targets
    """of `shelf` and of `dev`"""

    @property
    def clusters(self) -> int:
        return len(self.targets.centroids)


def gather(
    clips: Clips,
    validation: Clips | None,
    config: EncoderFitConfig,
    text: "TextTokenizer | None",
    classes: TextClasses | None,
    run: Path,
    resume: bool,
) -> Material:
    """Reads every clip once, and the targets from the run folder, where the first rank puts them if there are none."""
    learned, heard = held_out(len(clips), config.held_out, config.training.seed)
    if validation is not None:
        learned, heard = list(range(len(clips))), list(range(len(validation)))
    heard = heard[:: max(1, len(heard) // config.validation_clips)][: config.validation_clips]

    def encode(words: str) -> NDArray[np.int64]:
        assert text is not None and classes is not None
        return classes.encode(text, words)

    front = front_end(config.architecture)
    others = clips if validation is None else validation
    refused = Refused(len(learned) + len(heard), config.max_rejected)
    shelf = fill_shelf(clips, front, encode if text else None, learned, config.max_seconds, refused)
    dev = fill_shelf(others, front, encode if text else None, heard, config.max_seconds, refused)
    if not shelf.frames.any() or not dev.frames.any():
        raise ValueError(f"no clip holds a frame of {front.hop} samples: give longer recordings")
    if text and not any(len(said) for said in shelf.text):
        raise ValueError("no clip has a text that CTC could learn: give texts, or ctc_weight=0")
    names = [[clips.name(i) for i in learned], [others.name(i) for i in heard]]
    recipe = recipe_of(config)
    if not of_all_ranks(resume and has_targets(run))[0]:  # a run folder from before they were kept has none
        made = make_targets((shelf, dev), ((clips, learned), (others, heard)), recipe=recipe)
        if rank() == 0:
            keep_targets(run, made, recipe, names)
    wait_for_all()
    return Material(shelf, dev, kept_targets(run, recipe, names, (shelf, dev)))


def make_batch(
    shelf: Shelf,
    rows: NDArray[np.int64],
    targets: Sequence[NDArray[np.int64]],
    config: EncoderFitConfig,
    seed: tuple[int, ...],
    clean_front: FrontEnd | None,
    *,
    clean: bool = False,
) -> Batch:
    """`clean_front`: as `collate` has it."""
    return collate(
        shelf,
        rows,
        targets,
        np.random.default_rng(seed),
        augmentation=None if clean else config.augment,
        mask_start=config.mask_start,
        mask_span=config.mask_span,
        ctc_steps=config.ctc_steps,
        clean_front=clean_front,
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
        rows, front = order[begin : begin + per_batch], model.teacher.front if model.teacher else None
        batch = make_batch(dev, rows, targets, config, (5, begin), front, clean=True)
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
