"""What a user can say about training, and the one way in which a config tree becomes a frozen record.

Knows nothing of models: each owner keeps its config dataclass beside itself and calls `build`.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")
"""Every config dataclass is built with it: an unknown key is an error."""

T = TypeVar("T")
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class DeepSpeedConfig:
    """Training through DeepSpeed; with zero=null the loop itself is data-parallel."""

    zero: Literal[0, 1, 2, 3] | None = None
    """what ZeRO deals out: 0 nothing, 1 optimiser state, 2 and gradients, 3 and weights; null: no DeepSpeed"""
    offload: bool = False
    """optimiser state (with zero=3 weights too) lies in the CPU's memory"""

    def __post_init__(self) -> None:
        if self.offload and not self.zero:
            raise ValueError("training.deepspeed.offload needs training.deepspeed.zero=1, 2 or 3")


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """How a model is trained, whatever the model."""

    max_steps: int = 10_000
    """optimiser steps in all; training ends after exactly this many"""
    seed: int = 0
    """of the order of the data, of dropout and of the initial weights"""
    learning_rate: float = 1e-3
    """the peak, after warm-up"""
    warmup_steps: int = 300
    """steps over which the learning rate rises from 0"""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """after warm-up: cosine falls all the way; wsd stays at the peak and falls at the end (warm-up, stable, decay)"""
    decay_share: float = 0.2
    """share of max_steps over which wsd falls"""
    final_ratio: float = 0.05
    """learning rate at the last step, as a share of the peak"""
    average: float = 0.0
    """share of the averaged weights that a step keeps, such as 0.999; validation and bundles have them. 0: none"""
    weight_decay: float = 0.1
    """on matrices and embeddings; vectors (norms, biases) have none"""
    betas: tuple[float, float] = (0.9, 0.95)
    """of AdamW"""
    clip_norm: float = 1.0
    """gradients longer than this are shortened to it; 0 switches it off"""
    accumulation: Positive = 1
    """micro-batches per optimiser step, of each rank"""
    recompute: bool = False
    """activation checkpointing: layers are computed again in the backward pass; less memory, a third more work"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """of the activations (autocast); master weights are always fp32"""
    compile: bool = False
    """torch.compile of the layers, but for their attention; needs a C++ compiler (on cuda Triton) and a minute"""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one"""
    threads: int = 0
    """CPU threads; 0 leaves torch's own choice"""
    log_every: Positive = 50
    """steps between two lines of metrics.jsonl"""
    validate_every: Positive = 500
    """steps between two validations"""
    checkpoint_every: Positive = 500
    """steps between two checkpoints"""
    keep_last: int = 2
    """checkpoints kept, besides the best one"""
    timeout: float = 600.0
    """seconds that a rank waits for the others before it names who is missing and ends"""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """ZeRO"""


def build(kind: type[T], tree: Any, where: str = "config") -> T:
    """A frozen config dataclass from a plain tree of dicts.

    A key that is left out keeps the default that its owner shows: `training.max_steps=5` leaves the other defaults of
    a codec's training as they are, and does not go back to those of training at large.

    Raises:
        ValueError: an unknown key (the nearest known one is named) or a value that does not fit.
    """
    try:
        return TypeAdapter(kind).validate_python(_over_defaults(kind, tree))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = _keys_at(kind, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
            raise ValueError(f"{where}: unknown key '{path}': {hint}") from None
        raise ValueError(f"{where}: '{path}' = {first.get('input')!r}: {first['msg']}") from None


def _over_defaults(kind: Any, tree: Any) -> Any:
    """`tree`, its nested records laid over the default records of `kind`'s fields."""
    if not dataclasses.is_dataclass(kind) or not isinstance(tree, dict):
        return tree
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    return {key: _over(defaults.get(key), value) for key, value in tree.items()}


def _over(default: Any, value: Any) -> Any:
    if not dataclasses.is_dataclass(default) or not isinstance(value, dict):
        return value
    own = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    return own | {key: _over(own.get(key), inner) for key, inner in value.items()}


def _keys_at(kind: Any, loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        kind = next(field.type for field in dataclasses.fields(kind) if field.name == part)
    return [field.name for field in dataclasses.fields(kind)]


def load_tree(path: Path | None, overrides: list[str]) -> dict[str, Any]:
    """Merges a yaml file (or nothing) and `a.b=c` overrides into a plain tree.

    Raises:
        ValueError: the file is missing or not a yaml mapping, or an override has no `=`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for item in overrides:
        if "=" not in item:
            raise ValueError(f"override '{item}' is not of the form key=value")
    try:
        base = OmegaConf.load(path) if path else OmegaConf.create({})
        tree = OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist(overrides)), resolve=True)
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path or 'overrides'}: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is not a yaml mapping of keys to values")
    return {str(key): value for key, value in tree.items()}
