"""Every key of every config is explained, and `config` prints what the dataclasses say."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from triptych.cli.fields import REQUIRED, keys
from triptych.cli.train import NAMES, config_class
from triptych.training.config import TrainingConfig, build


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    """Hz, of the inner one"""


@dataclass(frozen=True)
class Base:
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(max_steps=7))
    """how it is trained"""
    wait_seconds: float = 1.0
    """between two tries"""


@dataclass(frozen=True)
class Outer(Base):
    name: str = ""
    """
    what a person
    calls it
    """
    sizes: tuple[int, ...] = (1, 2)
    """samples of each"""
    inner: Inner = field(default_factory=lambda: Inner(rate=2.0))
    """the inner one"""
    needed: "int | None" = None
    """nothing by itself"""


@dataclass(frozen=True)
class Bare:
    silent: int = 0


def test_keys_are_read_from_the_source() -> None:
    found = {key.name: key for key in keys(Outer)}
    assert found["training.max_steps"].default == 7
    assert found["training.max_steps"].unit == "optimiser steps"
    assert found["name"].sentence == "what a person calls it"
    assert (found["sizes"].default, found["sizes"].unit, found["sizes"].shown_default()) == (
        [1, 2],
        "samples",
        "[1, 2]",
    )
    assert (found["inner.rate"].default, found["inner.rate"].unit) == (2.0, "Hz")
    assert found["wait_seconds"].unit == "seconds"
    assert found["needed"].shown_default() == "null"
    assert "inner" not in found and "training" not in found


def test_a_silent_field_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Bare\.silent has no line"):
        keys(Bare)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_every_config_is_explained(name: str) -> None:
    found = keys(config_class(name))
    assert found
    assert all(len(key.sentence) > 1 for key in found)
    assert len({key.name for key in found}) == len(found)


@pytest.mark.parametrize("name", NAMES)
def test_printed_defaults_are_the_defaults(name: str) -> None:
    """Saying one key's printed default aloud changes nothing: neither that key nor the ones beside it."""
    kind = config_class(name)
    needed = {key.name: "x" for key in keys(kind) if key.default == REQUIRED}
    plain = dataclasses.asdict(build(kind, needed))
    for key in keys(kind):
        if key.default != REQUIRED:
            *path, last = key.name.split(".")
            said: dict[str, object] = {last: key.default}
            for part in reversed(path):
                said = {part: said}
            assert dataclasses.asdict(build(kind, needed | said)) == plain, key.name


def test_config_prints_json(run_line: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run_line("config", "acoustic", "--json")
    assert code == 0
    assert {"name": "sample_rate", "type": "int", "default": 24000, "unit": "Hz", "sentence": "Hz"} in json.loads(out)
    assert "semantic, coarse, fine" in run_line("config", "corse")[2]
