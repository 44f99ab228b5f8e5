"""Trains one stage on token shards: config, stage, data, model, `train(...)`.

    shards/ ──Speech──▶ clips ──stage.row──▶ rows ──stage.collate──▶ batches ──training.loop──▶ runs/semantic/

Which clips make up a micro-batch is a function of (seed, number of the micro-batch); how each row is drawn, of that and
of its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import nn

from triptych.corpus.plan import BatchPlan
from triptych.corpus.shards import ShardSet
from triptych.stages.coarse.sequence import CoarseConfig
from triptych.stages.fine.sequence import FineConfig
from triptych.stages.listening import Listener
from triptych.stages.semantic.sequence import SemanticConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Batch, Specs, Stage
from triptych.stages.three import make_stage, record_of
from triptych.training.config import STRICT, TrainingConfig, build
from triptych.training.loop import pick_device, train
from triptych.training.run import RunFolder


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """What a run is made of, whatever the stage."""

    shards: str = "shards"
    """folder of token shards"""
    run: str = "run"
    """folder that the run owns: config, metrics, checkpoints"""
    resume: bool = False
    """go on from the run's latest checkpoint"""
    init: str | None = None
    """stage folder or checkpoint whose weights the run begins with"""
    budget: int = 4096
    """positions a micro-batch, about: prompts are drawn when it is read"""
    validation_rows: int = 64
    """clips of split dev at each validation; 0: no validation"""
    listen: str | None = None
    """tokenizers (coarse, fine) or a bundle (any stage) through which validation is heard in TensorBoard"""
    training: TrainingConfig = TrainingConfig()
    """steps, rates, precision"""


@dataclass(frozen=True, config=STRICT)
class SemanticRun(RunConfig):
    """`triptych train semantic`."""

    stage: SemanticConfig = SemanticConfig()
    """the semantic stage"""


@dataclass(frozen=True, config=STRICT)
class CoarseRun(RunConfig):
    """`triptych train coarse`."""

    stage: CoarseConfig = CoarseConfig()
    """the coarse stage"""


@dataclass(frozen=True, config=STRICT)
class FineRun(RunConfig):
    """`triptych train fine`."""

    stage: FineConfig = FineConfig()
    """the fine stage"""


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
    config = build(stage_config_class(name), dict(tree), f"config of the {name} stage")
    shards = ShardSet.open(Path(config.shards))
    specs = Specs(shards.specs["semantic"], shards.specs["acoustic"], shards.specs.get("text"))
    speech, held_out = Speech(shards, "train"), Speech(shards, "dev")
    stage = make_stage(name, asdict(config.stage), specs).measured(speech)
    usable = stage.usable(speech)
    if not usable:
        raise ValueError(f"{config.shards} holds no clip of split train that the {name} stage can learn from")
    torch.manual_seed(config.training.seed)
    model = stage.model()
    if config.init:
        _initialise(model, Path(config.init))
    resolved = asdict(config) | {"stage": asdict(stage.config)}
    with RunFolder(Path(config.run), resolved) as run:
        return train(
            model,
            batches_of(stage, speech, usable, config),
            config.training,
            run,
            record_of(stage),
            validate=Validation(stage, held_out, model, config)
            if held_out.indices and config.validation_rows
            else None,
            resume=config.resume,
            progress=progress,
        )


def _initialise(model: nn.Module, source: Path) -> None:
    from triptych.stages.three import load_stage
    from triptych.training.run import find_checkpoint

    _, other = load_stage(find_checkpoint(source, "best"))
    try:
        model.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"init={source}: its weights do not fit this config: {str(error).splitlines()[-1].strip()}"
        ) from None


def batches_of(stage: Stage, speech: Speech, usable: Sequence[int], config: RunConfig) -> Callable[[int], list[Batch]]:
    """step (from 1) -> its micro-batches; a pure function."""
    seed, accumulation = config.training.seed, config.training.accumulation
    plan = BatchPlan([stage.length(speech, index) for index in usable], config.budget, seed)
    device = pick_device(config.training.device)

    def batches(step: int) -> list[Batch]:
        return [micro_batch(number) for number in range((step - 1) * accumulation, step * accumulation)]

    def micro_batch(number: int) -> Batch:
        clips = [usable[int(at)] for at in plan.batch(number)]
        rows = [
            stage.row(speech, clip, np.random.default_rng((seed, number, place))) for place, clip in enumerate(clips)
        ]
        return stage.collate(rows).named([speech.shards.row(clip).id for clip in clips]).to(device)

    return batches


class Validation:
    """Held-out loss with each clip's own conditions, and how much worse it gets with another clip's.

    The gaps answer "only noise" better than any other number: near 0, the stage does not listen to that condition.
    """

    def __init__(self, stage: Stage, held_out: Speech, model: Any, config: RunConfig) -> None:
        self.stage, self.held_out, self.model, self.config = stage, held_out, model, config
        self.listener = Listener(Path(config.listen), stage, held_out) if config.listen else None
        self.rows = stage.usable(held_out)[:: max(1, len(held_out.indices) // config.validation_rows)]

    def __call__(self, step: int, run: RunFolder) -> dict[str, float]:
        values = self._mean("own")
        for condition in self.stage.conditions:
            values[f"gap_{condition}"] = self._mean(condition)["loss"] - values["loss"]
        if self.listener:
            self.listener(step, run, self.model)
        return values

    def _mean(self, given: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        device = pick_device(self.config.training.device)
        for start in range(0, len(self.rows), 8):
            rows = [
                self.stage.row(self.held_out, index, np.random.default_rng((7, index)), given)
                for index in self.rows[start : start + 8]
            ]
            loss, metrics = self.model.loss(self.stage.collate(rows).to(device))
            weight = float(metrics["targets"])
            for name, value in {**metrics, "loss": loss}.items():
                if name != "targets":
                    sums[name] = sums.get(name, 0.0) + float(value) * weight
                    weights[name] = weights.get(name, 0.0) + weight
        return {name: total / weights[name] for name, total in sums.items()}
