"""What a run begins with: a stage of a bundle, the best checkpoint of another run, or a language model of text.

    init=BUNDLE      BUNDLE/stages/NAME           its config, under the keys that the run gives itself, and its weights
    init=RUN         RUN/checkpoints/step-…       likewise
    init=MODEL       text_model.py                semantic stage alone

    init_shards=OLD  the tokens that the weights know, of recordings that the new shards have as well

        old ids   17 17 17 803 803 …    what is known of new id 5 begins as the mean of what is known
        new ids    5  5  5   5  91 …    of the old ids that were said of its frames: 3/4 of 17, 1/4 of 803

Invariant: the shards were made with the tokenizers that the weights were trained on, unless the config says otherwise.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

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

    def load(self, model: nn.Module, carried: "Carried | None" = None) -> list[str]:
        """Puts them into a new model; returns the names of what they lack. Raises ValueError where they do not fit."""


@dataclass(frozen=True)
class Carried:
    """What new semantic tokens take over from old ones."""

    rows: Mapping[str, int]
    """by the tensors of the new model that have a row for each semantic token: the first of these rows"""
    shares: Tensor
    """[new, old], fp32: how often each old id was said of the frames of a new one; a row adds up to 1, or to 0 where
    the new id was never said"""

    def over(
        self, state: Mapping[str, Tensor], first: Mapping[str, int], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """`state` of an old model, whose semantic rows begin at `first`, with those of a new one.

        Args:
            own: of the new model, for ids that were never said.
        """
        carried, (new, old) = dict(state), self.shares.shape
        for name, begin in self.rows.items():
            known = state[name]
            rows = self.shares @ known[first[name] :][:old]
            said = self.shares.any(dim=1)[:, None]
            rows = torch.where(said, rows, own[name][begin:][:new].float())
            carried[name] = torch.cat([known[: first[name]], rows, known[first[name] + old :]])
        return carried


def carried_over(rows: Mapping[str, int], shards: ShardSet, old: ShardSet) -> Carried:
    """What the semantic tokens of `shards` take over from those of `old`.

    Raises:
        ValueError: no recording is in both, or they have other numbers of tokens a second.
    """
    places = {old.row(i).id: i for i in range(len(old))}
    counts = torch.zeros(shards.specs["semantic"].size, old.specs["semantic"].size)
    for i in range(len(shards)):
        place = places.get(shards.row(i).id)
        if place is None:
            continue
        now, then = shards.semantic(i).astype(np.int64), old.semantic(place).astype(np.int64)
        if len(now) != len(then):
            raise ValueError(
                f"init_shards={old.folder}: {shards.row(i).id} has {len(then)} semantic tokens there and {len(now)} in "
                f"{shards.folder}: ids are carried over between tokenizers of one rate alone"
            )
        counts.index_put_((torch.from_numpy(now), torch.from_numpy(then)), torch.ones(len(now)), accumulate=True)
    if not counts.any():
        raise ValueError(
            f"init_shards={old.folder} has no recording that {shards.folder} has: "
            "tokenize some of the same with both tokenizers"
        )
    return Carried(rows, counts / counts.sum(dim=1, keepdim=True).clamp(min=1.0))


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

    def load(self, model: nn.Module, carried: Carried | None = None) -> list[str]:
        state = read_state(self.folder)
        if carried:
            state = carried.over(state, read_stage(self.folder).semantic_rows(), model.state_dict())
        try:
            missing, unknown = model.load_state_dict(state, strict=False)
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
