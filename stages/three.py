"""The three stages by name, and how one is saved and loaded. Beside the cascade, the one room that sees all three."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triptych.stages.adapters import plain
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.semantic.sequence import SemanticConfig, SemanticStage
from triptych.stages.stage import Specs
from triptych.stages.weights import read_weights
from triptych.training.config import build
from triptych.training.files import read_json

AnyStage = SemanticStage | CoarseStage | FineStage

STAGES: dict[str, tuple[Any, Any]] = {
    "semantic": (SemanticStage, SemanticConfig),
    "coarse": (CoarseStage, CoarseConfig),
    "fine": (FineStage, FineConfig),
}
"""name to the stage and its config"""

FORMAT = 1
"""of stage.json; a higher one is refused"""


def make_stage(name: str, tree: Mapping[str, Any], specs: Specs) -> AnyStage:
    """A stage from its name and a plain tree of its config.

    Raises:
        ValueError: no such stage, or an unknown key.
    """
    if name not in STAGES:
        raise ValueError(f"'{name}' is no stage: choose one of {', '.join(STAGES)}")
    kind, config = STAGES[name]
    stage: AnyStage = kind(build(config, dict(tree), f"config of the {name} stage"), specs)
    return stage


def record_of(stage: AnyStage) -> dict[str, Any]:
    """What stage.json says: enough to build the stage and its model again."""
    return {"format": FORMAT, "stage": stage.name, "config": asdict(stage.config), "specs": stage.specs.to_json()}


def read_stage(folder: Path) -> AnyStage:
    """The stage that `folder`/stage.json describes, without its weights.

    Raises:
        ValueError: no stage there, or one of a newer format.
    """
    record = read_json(folder / "stage.json")
    if record.get("format") != FORMAT or "specs" not in record:
        raise ValueError(
            f"{folder / 'stage.json'} is no stage of format {FORMAT}: it needs another version of triptych"
        )
    return make_stage(record["stage"], record["config"], Specs.from_json(record["specs"]))


def read_state(folder: Path) -> dict[str, Tensor]:
    """The weights beside `folder`/stage.json, fp32, adapters added to what they adapt.

    Raises:
        ValueError: missing or damaged.
    """
    return plain(read_weights(folder / "model.safetensors"), read_json(folder / "stage.json"))


def load_stage(folder: Path, device: str | torch.device = "cpu") -> tuple[AnyStage, nn.Module]:
    """Stage and model, fp32, in eval mode; reads safetensors only.

    Raises:
        ValueError: no stage there, or weights that do not fit it.
    """
    stage = read_stage(folder)
    model = stage.model()
    try:
        model.load_state_dict(read_state(folder))
    except RuntimeError as error:
        raise ValueError(f"{folder / 'model.safetensors'} does not fit: {str(error).splitlines()[0]}") from None
    return stage, model.to(device).eval()
