"""What a run begins with: a stage of a bundle, the best checkpoint of another run, or a language model of text.

    init=BUNDLE      BUNDLE/stages/NAME           its config, under the keys that the run gives itself, and its weights
    init=RUN         RUN/checkpoints/step-…       likewise
    init=MODEL       text_model.py                semantic stage alone

Invariant: the shards were made with the tokenizers that the weights were trained on, unless the config says otherwise.
Knows no data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from triptych.corpus.shard_set import ShardSet
from triptych.stages.bundle import check_stage
from triptych.stages.cascade import find_bundle
from triptych.stages.text_model import TextModel, is_text_model
from triptych.stages.three import read_stage, read_state
from triptych.training.checkpoint import find_checkpoint


class Beginning(Protocol):
    """Weights that exist."""

    @property
    def config(self) -> dict[str, Any]:
        """What they say of the stage's config, a plain tree."""

    def check(self, shards: ShardSet) -> None:
        """Raises ValueError where the shards were made with other tokenizers than the weights."""

    def load(self, model: nn.Module) -> list[str]:
        """Puts them into a new model; returns the names of what they lack. Raises ValueError where they do not fit."""


def beginning(source: str, name: str) -> Beginning:
    """What `init=source` means for the stage `name`.

    Raises:
        ValueError: nothing there, or a stage of another name.
    """
    if is_text_model(source):
        if name != "semantic":
            raise ValueError(f"init={source} is a language model of text: only the semantic stage can begin with one")
        return TextModel(source)
    folder = folder_of(source, name)
    found = read_stage(folder).name
    if found != name:
        raise ValueError(f"init={source} holds a {found} stage, not a {name} stage")
    return TrainedStage(folder, name)


def folder_of(source: str, name: str) -> Path:
    """The folder with stage.json that a bundle (folder or hub id), a run or a checkpoint means.

    Raises:
        ValueError: there is none.
    """
    path = Path(source)
    if path.is_dir() and not (path / "bundle.json").exists():
        return find_checkpoint(path, "best")
    return find_bundle(source) / "stages" / name


@dataclass(frozen=True)
class TrainedStage:
    """A stage that was trained here. Satisfies `Beginning`."""

    folder: Path
    name: str

    @property
    def config(self) -> dict[str, Any]:
        return asdict(read_stage(self.folder).config)

    def check(self, shards: ShardSet) -> None:
        check_stage(self.name, read_stage(self.folder), shards.specs, shards.grid, self.folder)

    def load(self, model: nn.Module) -> list[str]:
        try:
            missing, unknown = model.load_state_dict(read_state(self.folder), strict=False)
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise ValueError(f"init={self.folder}: its weights do not fit this config: {said}") from None
        if unknown:
            said = f"this config has no place for {len(unknown)} of its tensors, as {unknown[0]}"
            raise ValueError(f"init={self.folder}: {said}")
        return list(missing)


def laid_over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`base`, with the keys that `given` has, at any depth."""
    both = {
        key: laid_over(base[key], value) if isinstance(base.get(key), Mapping) and isinstance(value, Mapping) else value
        for key, value in given.items()
    }
    return {**base, **both}
