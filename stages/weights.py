"""A stage's weights on disk, in the precision that is shipped.

    float32    as trained; checkpoints
    float16    half the bytes
    int8       a quarter: each row of a matrix is rounded to 255 steps of its largest entry; vectors stay float16

    head.weight          int8    [V, D]
    head.weight.scale    float32 [V, 1]       int8 tensors only: weight = int8 * scale

Reading gives float32 whatever the precision. safetensors alone. Knows no stage.
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Precision = Literal["float32", "float16", "int8"]
PRECISIONS = ("float32", "float16", "int8")
SCALE = ".scale"


def write_weights(path: Path, state: dict[str, Tensor], precision: Precision) -> None:
    """Writes a state dict; tensors that are no floats stay as they are."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or precision == "float32":
            stored[name] = tensor.contiguous()
        elif precision == "int8" and tensor.dim() == 2:
            rows = tensor.float()
            scale = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
            stored[name] = torch.round(rows / scale).clamp(-127, 127).to(torch.int8)
            stored[name + SCALE] = scale
        else:
            stored[name] = tensor.half().contiguous()
    save_file(stored, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Undoes `write_weights`, as float32.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    try:
        stored = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    state = {}
    for name, tensor in stored.items():
        if name + SCALE in stored:
            state[name] = tensor.float() * stored[name + SCALE]
        elif not name.endswith(SCALE):
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state
