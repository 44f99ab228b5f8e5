"""What a run begins with: a stage of a bundle, the best checkpoint of another run, or a language model of text.

    init=BUNDLE      BUNDLE/stages/NAME           its config, under the keys that the run gives itself, and its weights
    init=RUN         RUN/checkpoints/step-…       likewise
    init=MODEL       text_model.py                semantic stage alone

    init_shards=OLD  the tokens that the weights know, of recordings that the new shards have as well

        old ids   17 17 17 803 803 …    what is known of new id 5 begins as the mean of what is known
        new ids    5  5  5   5  91 …    of the old ids that were said of its frames: 3/4 of 17, 1/4 of 803

Invariant: the shards were made with the tokenizers that the weights were trained on, unless the config says otherwise.
Of data it knows the semantic tokens alone.
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

MOST_COMPARED = 100_000
"""recordings that tell which tokens were said of the same frames"""


class Beginning(Protocol):
    """Weights that exist."""

    @property
    def config(self) -> dict[str, Any]:
        """What they say of the stage's config, a plain tree."""

    def check(self, shards: ShardSet, known: ShardSet | None = None) -> None:
        """Raises ValueError where the shards were made with other tokenizers than the weights.

        Args:
            known: shards of the semantic tokens that the weights know, where these have others.
        """

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
            known = state.get(name)
            if known is None or name not in first or known.shape[1:] != own[name].shape[1:]:
                continue  # another layout: loading says so
            rows = self.shares @ known[first[name] :][:old]
            said = self.shares.any(dim=1)[:, None]
            rows = torch.where(said, rows, own[name][begin:][:new].float())
            carried[name] = torch.cat([known[: first[name]], rows, known[first[name] + old :]])
        return carried


def carried_over(rows: Mapping[str, int], shards: ShardSet, known: ShardSet) -> Carried:
    """What the semantic tokens of `shards` take over from those of `known`, told by MOST_COMPARED recordings of both.

    Args:
        rows: see `Carried`.
    Raises:
        ValueError: the same tokens, others that do not sound at the same time, or no recording that is in both.
    """
    new, old = shards.specs["semantic"], known.specs["semantic"]
    here = f"init_shards={known.folder}"
    if new.fingerprint == old.fingerprint:
        raise ValueError(f"{here} has the same semantic tokens as {shards.folder}: leave it out, or tokenize anew")
    if new.frame_rate != old.frame_rate or shards.waveform != known.waveform:
        raise ValueError(
            f"{here} was prepared otherwise than {shards.folder}, or has tokens of another length: leave it out"
        )
    places = {shards.row(i).id: i for i in range(0, len(shards), 1 + len(shards) // MOST_COMPARED)}
    counts = np.zeros((new.size, old.size), dtype=np.int64)
    for i in range(len(known)):
        place = places.pop(known.row(i).id, None)
        if place is not None and len(shards.semantic(place)) == len(known.semantic(i)):
            np.add.at(counts, (shards.semantic(place), known.semantic(i)), 1)
    if not counts.any():
        raise ValueError(
            f"{here} has no recording that {shards.folder} has: tokenize some of the same with both tokenizers"
        )
    return Carried(rows, torch.from_numpy(counts / counts.sum(axis=1, keepdims=True).clip(min=1)).float())


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

    def check(self, shards: ShardSet, known: ShardSet | None = None) -> None:
        specs = {**shards.specs, "semantic": (known or shards).specs["semantic"]}
        check_stage(self.name, read_stage(self.folder), specs, shards.grid, self.folder)

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
