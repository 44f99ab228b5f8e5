"""What a stage's config means before it is trained: what ranks would read, how long an epoch is, what fits in memory.

Knows what `training.py` knows, and asks the same functions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych.corpus.plan import BatchPlan
from triptych.corpus.shards import ShardSet
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.stages.three import make_stage
from triptych.training.dealing import Dealing
from triptych.training.distributed import world
from triptych.training.files import fingerprint_of
from triptych.training.loop import autocast, pick_device, recompute_layers
from triptych.training.preflight import Memory, ask, disjoint, equal, memory, resumable, saved_bytes

STEPS = 20
"""first steps whose deal is compared"""


@dataclass(frozen=True)
class Plan:
    """A training that has not begun."""

    clips: int
    steps_per_epoch: float
    epochs: float
    """of the whole training"""
    memory: Memory
    problems: list[str]
    """lines; empty where all is well"""
    notes: list[str]


def look_ahead(name: str, config: Any) -> Plan:
    """Reads the shards, builds the model, and asks all ranks whether they agree; trains nothing.

    Raises:
        ValueError: shards that cannot be read, or no clip to learn from.
    """
    shards = ShardSet.open(Path(config.shards))
    specs = Specs(shards.specs["semantic"], shards.specs["acoustic"], shards.specs.get("text"))
    speech = Speech(shards, "train")
    stage = make_stage(name, asdict(config.stage), specs).measured(speech)
    usable = stage.usable(speech)
    if not usable:
        raise ValueError(f"{config.shards} holds no clip of split train that the {name} stage can learn from")
    plan = BatchPlan([stage.length(speech, index) for index in usable], config.budget, config.training.seed)
    accumulation = config.training.accumulation
    ask("equal data and config")
    problems = equal("the config", fingerprint_of(asdict(config)))
    problems += equal("the shards' specs", fingerprint_of(specs.to_json()))
    problems += equal("clips", len(usable))
    problems += equal("micro-batches of an epoch", plan.batches_per_epoch())
    ask("disjoint data")
    deal = Dealing.of(None, accumulation)
    mine = [number for step in range(1, STEPS + 1) for number in deal.numbers(step)]
    problems += disjoint(mine, accumulation, STEPS)
    ask("memory")
    model = stage.model()
    per_epoch = plan.batches_per_epoch() / (accumulation * world())
    notes = [line for line in (resumable(Path(config.run)),) if line and not config.resume]
    if per_epoch < 1:
        notes.append(f"one step reads more than an epoch: {plan.batches_per_epoch()} micro-batches for all ranks")
    estimate = memory(model, config.training, _activations(stage, speech, usable, model, config))
    return Plan(len(usable), per_epoch, config.training.max_steps / per_epoch, estimate, problems, notes)


def _activations(stage: Any, speech: Speech, usable: list[int], model: Any, config: Any) -> int:
    """Bytes of a full micro-batch: those of its shortest clip, measured on the CPU, times what fits in the budget."""
    lengths = [stage.length(speech, index) for index in usable]
    shortest = int(np.argmin(lengths))
    row = stage.row(speech, usable[shortest], np.random.default_rng(0), "own")
    model.train()
    recompute_layers(model, config.training.recompute)
    with autocast(torch.device("cpu"), config.training.dtype):
        kept = saved_bytes(lambda: model.loss(stage.collate([row])), model)
    return int(kept * config.budget / lengths[shortest])


def device_of(config: Any) -> torch.device:
    """Where a rank of this training computes."""
    return pick_device(config.training.device)
