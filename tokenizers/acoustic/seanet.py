"""EnCodec's encoder and decoder run for training: the layers of transformers' model, by a shorter way.

    the library's way     paddings are tensors, read back at each layer: on a GPU the host waits there, and
                          torch.compile falls to pieces of one layer
    this way              paddings are plain numbers; sound is [B, C, 1, T] with channels last in memory, as the
                          convolutions of CPUs and GPUs want it

Same layers, same weights, same result (a test holds it); validation and everything after training take the library's
way. Knows no training.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def runner(network: nn.Module, compiled: bool = False) -> Callable[[Tensor], Tensor]:
    """What takes [B, C, T] through an EncodecEncoder or EncodecDecoder with causal convolutions."""

    def run(hidden: Tensor) -> Tensor:
        hidden = hidden.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        for layer in network.layers:  # type: ignore[union-attr]
            hidden = run_layer(layer, hidden)
        return hidden.squeeze(2)

    return torch.compile(run, dynamic=False) if compiled else run


def run_layer(layer: Any, hidden: Tensor) -> Tensor:
    """One layer, [B, C, 1, T] to [B, C', 1, T']."""
    match type(layer).__name__:
        case "EncodecConv1d":
            return _convolve(layer, hidden)
        case "EncodecConvTranspose1d":
            return _convolve_transposed(layer, hidden)
        case "EncodecLSTM":
            recurrent: Tensor = layer(hidden.squeeze(2)).unsqueeze(2)
            return recurrent.contiguous(memory_format=torch.channels_last)
        case "EncodecResnetBlock":
            inner = hidden
            for part in layer.block:
                inner = run_layer(part, inner)
            return run_layer(layer.shortcut, hidden) + inner
        case "ELU" | "Identity":
            same: Tensor = layer(hidden)
            return same
    raise AssertionError(f"no way through {type(layer).__name__}")


def _convolve(layer: Any, hidden: Tensor) -> Tensor:
    """A causal convolution: all padding before, and after as much as fills the last stride."""
    assert layer.causal and layer.norm_type == "weight_norm"
    conv, length = layer.conv, hidden.shape[-1]
    stride, dilation = conv.stride[0], conv.dilation[0]
    kernel = (conv.kernel_size[0] - 1) * dilation + 1
    before = kernel - stride
    after = math.ceil(length / stride) * stride - length
    if before or after:
        hidden = _pad(hidden, before, after, layer.pad_mode)
    return functional.conv2d(hidden, _flat(conv), conv.bias, stride=(1, stride), dilation=(1, dilation))


def _convolve_transposed(layer: Any, hidden: Tensor) -> Tensor:
    assert layer.causal and layer.trim_right_ratio == 1.0
    conv = layer.conv
    made = functional.conv_transpose2d(hidden, _flat(conv), conv.bias, stride=(1, conv.stride[0]))
    return made[..., : made.shape[-1] - (conv.kernel_size[0] - conv.stride[0])]


def _flat(conv: nn.Module) -> Tensor:
    weight: Tensor = conv.weight  # type: ignore[assignment]
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def _pad(hidden: Tensor, before: int, after: int, mode: str) -> Tensor:
    if mode == "constant":
        return functional.pad(hidden, (before, after))
    short = max(0, max(before, after) - hidden.shape[-1] + 1)  # zeros where there is too little to reflect
    padded = functional.pad(functional.pad(hidden, (0, short)), (before, after, 0, 0), mode)
    return padded[..., : padded.shape[-1] - short]
