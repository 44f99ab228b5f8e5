"""Trains one stage on token shards: config, stage, data, model, `train(...)`.

    shards/ ──Speech──▶ clips ──stage.row──▶ rows ──stage.collate──▶ batches ──training.loop──▶ runs/semantic/

Which clips make up a micro-batch is a function of (seed, number of the micro-batch); how each row is drawn, of that and
of its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.corpus.plan import BatchPlan
from triptych.corpus.shards import ShardSet
from triptych.stages.adapters import AdapterConfig, add_adapters, note_of
from triptych.stages.bundle import check_stage
from triptych.stages.coarse.sequence import CoarseConfig
from triptych.stages.fine.sequence import FineConfig
from triptych.stages.initial import Beginning, beginning, carried_over, laid_over
from triptych.stages.listening import Listener
from triptych.stages.sanity import first_loss_is_wrong
from triptych.stages.semantic.sequence import SemanticConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Batch, Specs, Stage
from triptych.stages.three import AnyStage, make_stage, read_stage, record_of
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import STRICT, TrainingConfig, build
from triptych.training.dealing import Dealing
from triptych.training.device import pick_device
from triptych.training.distributed import rank, ranks, reached, sum_metrics, world
from triptych.training.loop import train
from triptych.training.run import RunFolder, refuse_run
from triptych.training.step import add_metric
from triptych.training.zero import whole


@config_dataclass(frozen=True, config=STRICT)
class RunConfig:
    """What a run is made of, whatever the stage."""

    shards: str = "shards"
    """folder of token shards"""
    run: str = "run"
    """folder that the run owns: config, metrics, checkpoints"""
    resume: bool = False
    """go on from the run's latest checkpoint"""
    init: str | None = None
    """bundle, run or checkpoint whose weights and stage config the run begins with; levels that it lacks begin anew"""
    init_retokenized: bool = False
    """the shards may be of other tokenizers than init was trained on, such as those of a codec that was trained on"""
    init_shards: str | None = None
    """shards that init was trained on, of some of the same recordings: each new semantic token begins as the mean of
    the old ones that were said of its frames, however many there are of either"""
    lora: AdapterConfig = AdapterConfig()
    """low-rank adapters in place of all weights; needs init"""
    budget: int = 4096
    """positions a micro-batch, about: prompts are drawn when it is read"""
    validation_rows: int = 64
    """clips of split dev at each validation; 0: no validation"""
    listen: str | None = None
    """tokenizers (coarse, fine) or a bundle (any stage) through which validation is heard in TensorBoard; of coarse and
    fine the tokenizer counts `edits` too"""
    best: Literal["loss", "edits"] = "loss"
    """what marks the best checkpoint: held-out loss on true pasts, or the edits of what is made on the stage's own"""
    training: TrainingConfig = TrainingConfig()
    """steps, rates, precision"""


@config_dataclass(frozen=True, config=STRICT)
class SemanticRun(RunConfig):
    """`triptych train semantic`."""

    stage: SemanticConfig = SemanticConfig()
    """the semantic stage"""


@config_dataclass(frozen=True, config=STRICT)
class CoarseRun(RunConfig):
    """`triptych train coarse`."""

    stage: CoarseConfig = CoarseConfig()
    """the coarse stage"""


@config_dataclass(frozen=True, config=STRICT)
class FineRun(RunConfig):
    """`triptych train fine`."""

    stage: FineConfig = FineConfig()
    """the fine stage"""


TOLD = ("loss", "accuracy", "illegal_mass")
"""of the tasks that a stage learns beside its main one"""

RUNS: dict[str, type[Any]] = {"semantic": SemanticRun, "coarse": CoarseRun, "fine": FineRun}


def stage_config_class(name: str) -> type[Any]:
    """The config dataclass of `triptych train NAME`.

    Raises:
        ValueError: no such stage.
    """
    if name not in RUNS:
        raise ValueError(f"'{name}' is no stage: choose one of {', '.join(RUNS)}")
    return RUNS[name]


def train_stage(
    name: str, tree: Mapping[str, Any], progress: Callable[[int, Mapping[str, float]], None] | None = None
) -> Path:
    """Trains the stage `name` as the plain config `tree` says; returns the last checkpoint.

    Raises:
        ValueError: a config key or value that does not fit, shards that cannot be read, no clip to learn from.
        TrainingError, TrainingStopped: see `training.loop.train`.
    """
    config, start = run_config(name, tree)
    training = config.training
    with ranks(training.device, training.timeout, even_alone=training.deepspeed.zero is not None):
        return _train_stage(name, config, start, progress)


def run_config(name: str, tree: Mapping[str, Any]) -> tuple[Any, Beginning | None]:
    """The run's config, over that of the weights that it begins with; and those."""
    start = beginning(str(tree["init"]), name) if tree.get("init") else None
    if start:
        tree = {**tree, "stage": laid_over(start.config, tree.get("stage", {}))}
    return build(stage_config_class(name), dict(tree), f"config of the {name} stage"), start


@dataclass(frozen=True)
class Ready:
    """What a run is made of before its first step."""

    shards: ShardSet
    speech: Speech
    """split train"""
    stage: AnyStage
    usable: list[int]
    """clips that the stage can learn from"""
    model: Any
    lacks: list[str]
    """tensors that the weights it begins with do not have"""


def make_ready(name: str, config: Any, start: Beginning | None) -> Ready:
    """Opens the data and builds the model, with the weights and adapters that the config asks for."""
    shards = ShardSet.open(Path(config.shards))
    if config.init_shards and not start:
        raise ValueError(f"init_shards={config.init_shards} says what init was trained on: add init=")
    whole = config.resume and config.init_shards  # a checkpoint of these shards is there, and has it all
    known = ShardSet.open(Path(config.init_shards)) if config.init_shards and not whole else None
    if start and not whole and (known or not config.init_retokenized):
        start.check(known if known and config.init_retokenized else shards, known)
    specs = Specs(shards.specs["semantic"], shards.specs["acoustic"], shards.specs.get("text"))
    speech = Speech(shards, "train")
    reached("its shards, opened")
    stage = make_stage(name, asdict(config.stage), specs).measured(speech)
    reached("its texts, counted")
    usable = stage.usable(speech)
    if not usable:
        raise ValueError(f"{config.shards} holds no clip of split train that the {name} stage can learn from")
    torch.manual_seed(config.training.seed)
    model = stage.model()
    rows = stage.semantic_rows()
    carried = carried_over(rows, shards, known) if known and rows else None
    lacks = start.load(model, carried) if start and not whole else []
    if config.lora.rank:
        if not start:
            raise ValueError(f"lora.rank={config.lora.rank}: adapters need trained weights; name them with init=")
        if config.listen and config.training.deepspeed.zero == 3:
            raise ValueError("listen: not with lora.rank and training.deepspeed.zero=3; leave one of them out")
        add_adapters(model, config.lora)
    return Ready(shards, speech, stage, usable, model, lacks)


def _train_stage(
    name: str, config: Any, start: Beginning | None, progress: Callable[[int, Mapping[str, float]], None] | None
) -> Path:
    ready = make_ready(name, config, start)
    shards, stage, model, held_out = ready.shards, ready.stage, ready.model, Speech(ready.shards, "dev")
    resolved = asdict(config) | {"stage": asdict(stage.config)}
    validate = Validation(stage, held_out, model, config) if len(held_out.indices) and config.validation_rows else None
    if config.best == "edits" and not (validate and validate.listener and validate.listener.ear):
        raise ValueError("best=edits: nothing counts them here; give listen=TOKENIZERS, and clips of split dev")
    if config.resume:
        latest = find_checkpoint(Path(config.run))
        check_stage(name, read_stage(latest), shards.specs, shards.grid, latest)
    else:
        refuse_run(Path(config.run))
    with RunFolder(Path(config.run), resolved) as run:
        dealing = Dealing.of(run.path if config.resume else None, config.training.accumulation)
        if ready.lacks:
            names = ", ".join(ready.lacks)
            run.warn(0, f"init={config.init} lacks {len(ready.lacks)} tensors, which begin anew: {names}")
        if validate and not config.resume:
            _first_look(validate, run, new=start is None)
        return train(
            model,
            batches_of(stage, ready.speech, ready.usable, config, dealing),
            config.training,
            run,
            record_of(stage) | note_of(config.lora),
            dealing=dealing,
            validate=validate,
            best=config.best,
            resume=config.resume,
            progress=progress,
        )


def _first_look(validate: "Validation", run: RunFolder, *, new: bool) -> None:
    """Logs the held-out loss before the first step, and warns where that of a new model is not log V."""
    validate.model.to(pick_device(validate.config.training.device)).eval()
    with torch.no_grad():
        values = validate.mean("own")
    run.log(0, "start", values)
    said = first_loss_is_wrong(validate.stage, values) if new else None
    if said:
        run.warn(0, said)


def batches_of(
    stage: Stage, speech: Speech, usable: Sequence[int], config: RunConfig, dealing: Dealing | None = None
) -> Callable[[int], list[Batch]]:
    """step (from 1) -> its micro-batches on this rank; a pure function."""
    seed, dealing = config.training.seed, dealing or Dealing.of(None, config.training.accumulation)
    lengths = []
    for place, index in enumerate(usable):
        if place % 100_000 == 0:
            reached(f"row {place}, measured")
        lengths.append(stage.length(speech, index))
    plan = BatchPlan(lengths, config.budget, seed, lambda place: speech.shards.row(usable[place]).id)
    device = pick_device(config.training.device)

    def batches(step: int) -> list[Batch]:
        return [micro_batch(number) for number in dealing.numbers(step)]

    def micro_batch(number: int) -> Batch:
        clips = [usable[int(at)] for at in plan.batch(number)]
        rows = [
            stage.row(speech, clip, np.random.default_rng((seed, number, place))) for place, clip in enumerate(clips)
        ]
        return stage.collate(rows).of(clips, speech.shards).to(device)

    return batches


class Validation:
    """Held-out loss with each clip's own conditions, and how much worse it gets with another clip's.

    The gaps answer "only noise" better than any other number: near 0, the stage does not listen to that condition.
    """

    def __init__(self, stage: AnyStage, held_out: Speech, model: Any, config: RunConfig) -> None:
        self.stage, self.held_out, self.model, self.config = stage, held_out, model, config
        self.listener = Listener(Path(config.listen), stage, held_out) if config.listen else None
        self.rows = stage.usable(held_out)[:: max(1, len(held_out.indices) // config.validation_rows)]

    def __call__(self, step: int, run: RunFolder) -> dict[str, float]:
        values = self.mean("own")
        for condition in self.stage.conditions:
            values[f"gap_{condition}"] = self.mean(condition)["loss"] - values["loss"]
        for task in getattr(self.stage, "also", ()):
            values |= {f"{task}_{name}": value for name, value in self.mean(task).items() if name in TOLD}
        if self.listener:
            values |= self.listener(step, run, whole(self.model, self.stage.model))
        return values

    def mean(self, given: str) -> dict[str, float]:
        """Mean metrics of the rows; `given` as in `Stage.row`."""
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        device = pick_device(self.config.training.device)
        starts = range(0, len(self.rows), 8)
        for turn in range(-(-len(starts) // world())):  # as many on all ranks: ZeRO-3 gathers weights in each
            reached(f"batch {turn} of a validation")
            place = turn * world() + rank()
            start = starts[min(place, len(starts) - 1)]
            rows = [
                self.stage.row(self.held_out, index, np.random.default_rng((7, index)), given)
                for index in self.rows[start : start + 8]
            ]
            loss, metrics = self.model.loss(self.stage.collate(rows).to(device))
            weight = float(metrics["targets"]) if place < len(starts) else 0.0
            for name, value in {**metrics, "loss": loss}.items():
                if name != "targets":
                    add_metric(sums, weights, name, float(value), weight)
        return sum_metrics(sums, weights)
