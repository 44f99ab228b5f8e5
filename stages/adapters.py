"""Low-rank adapters (LoRA, Hu et al. 2021, equation 3): few weights learn, all others stay as they are.

    x ─┬─ W, frozen ──────────────(+)─▶      while it trains:  qkv.base_layer.weight, qkv.lora_A…, qkv.lora_B…
       └─ A [rank, in] ─ B · s ────┘         as it is read:    qkv.weight = W + s · B · A,   s = alpha / rank

Invariant: whoever reads a checkpoint sees plain weights; only the run that trains them knows of adapters. peft (extra
`lora`) puts them in; reading needs no peft. Knows no stage.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from triptych.training.config import STRICT, build

BASE, DOWN, UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"
"""what peft calls W, A and B"""


@dataclass(frozen=True, config=STRICT)
class AdapterConfig:
    """LoRA."""

    rank: int = 0
    """of the adapters; 0: none, all weights learn"""
    alpha: float = 16.0
    """the adapters' product is weighed alpha / rank"""
    dropout: float = 0.0
    """share of features dropped before an adapter, in training"""
    targets: tuple[str, ...] = ("qkv", "out", "gate_up", "down")
    """maps of each layer that get one"""


def add_adapters(model: nn.Module, config: AdapterConfig) -> int:
    """Puts adapters into `model` and freezes all else; returns the number of weights that learn.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: no map of the model has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = [target for target in config.targets if target not in names]
    if unknown or not config.targets:
        raise ValueError(f"lora.targets={list(config.targets)}: name maps out of {', '.join(sorted(names))}")
    asked = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
    )
    inject_adapter_in_model(asked, model)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def note_of(config: AdapterConfig) -> dict[str, Any]:
    """What stage.json says of a checkpoint that holds adapters; nothing without any."""
    return {"lora": asdict(config)} if config.rank else {}


def plain(state: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the model without adapters: each one added to its map.

    Args:
        record: stage.json of the checkpoint.
    """
    if "lora" not in record:
        return dict(state)
    config = build(AdapterConfig, record["lora"], "lora of stage.json")
    merged = {}
    for name, tensor in state.items():
        if name.endswith(BASE):
            stem = name.removesuffix(BASE)
            merged[f"{stem}.weight"] = tensor + config.alpha / config.rank * (state[stem + UP] @ state[stem + DOWN])
        elif not name.endswith((DOWN, UP)):
            merged[name] = tensor
    return merged
