"""What a stage's config means before it is trained: what ranks would read, how long an epoch is, what fits in memory.

Knows what `training.py` knows, and asks the same functions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych.corpus.plan import BatchPlan
from triptych.stages.initial import Beginning
from triptych.stages.training import Ready, make_ready
from triptych.training.dealing import Dealing
from triptych.training.distributed import world
from triptych.training.files import fingerprint_of
from triptych.training.loop import recompute_layers
from triptych.training.preflight import Memory, ask, disjoint, equal, memory, resumable, saved_bytes
from triptych.training.step import autocast

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


def look_ahead(name: str, config: Any, start: Beginning | None) -> Plan:
    """Reads the shards, builds the model, and asks all ranks whether they agree; trains nothing.

    Raises:
        ValueError: shards that cannot be read, or no clip to learn from.
    """
    ready = make_ready(name, config, start)
    stage, speech, usable = ready.stage, ready.speech, ready.usable
    plan = BatchPlan([stage.length(speech, index) for index in usable], config.budget, config.training.seed)
    accumulation = config.training.accumulation
    ask("equal data and config")
    problems = equal("the config", fingerprint_of(asdict(config)))
    problems += equal("the shards' specs", fingerprint_of(stage.specs.to_json()))
    problems += equal("clips", len(usable))
    problems += equal("micro-batches of an epoch", plan.batches_per_epoch())
    ask("disjoint data")
    deal = Dealing.of(None, accumulation)
    mine = [number for step in range(1, STEPS + 1) for number in deal.numbers(step)]
    problems += disjoint(mine, accumulation, STEPS)
    ask("memory")
    per_epoch = plan.batches_per_epoch() / (accumulation * world())
    notes = [line for line in (resumable(Path(config.run)),) if line and not config.resume]
    if per_epoch < 1:
        notes.append(f"one step reads more than an epoch: {plan.batches_per_epoch()} micro-batches for all ranks")
    estimate = memory(ready.model, config.training, _activations(ready, config))
    return Plan(len(usable), per_epoch, config.training.max_steps / per_epoch, estimate, problems, notes)


def _activations(ready: Ready, config: Any) -> int:
    """Bytes of a full micro-batch: those of its shortest clip, measured on the CPU, times what fits in the budget."""
    stage, speech, usable, model = ready.stage, ready.speech, ready.usable, ready.model
    lengths = [stage.length(speech, index) for index in usable]
    shortest = int(np.argmin(lengths))
    row = stage.row(speech, usable[shortest], np.random.default_rng(0), "own")
    model.train()
    recompute_layers(model, config.training.recompute)
    with autocast(torch.device("cpu"), config.training.dtype):
        kept = saved_bytes(lambda: model.loss(stage.collate([row])), model)
    return int(kept * config.budget / lengths[shortest])
