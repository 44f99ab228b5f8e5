"""What a processor computes in. Tokens made in bf16 are those of a processor that has it."""

from typing import Literal

import torch
from torch import nn

Dtype = Literal["fp32", "bf16"]
NEAR = 0.1
"""relative error of a convolution in bf16; right ones have 0.003"""


def check_bf16(dtype: Dtype, model: nn.Module) -> None:
    """Raises ValueError where `dtype` is bf16, and the device of `model` has no bf16 arithmetic, or gets a convolution
    of the model wrong in it."""
    if dtype != "bf16":
        return
    device = next(model.parameters()).device
    if not has_bf16(device):
        raise ValueError(
            "dtype = bf16: this processor has no bf16 arithmetic, and others would give other tokens; use "
            "one that has it (AVX512-BF16, AMX, Armv8.6, CUDA from Ampere on), or fit with dtype=fp32"
        )
    check_convolutions(model)


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies in bf16 itself, and not by way of fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        can = torch.cpu.get_capabilities()
        return any(can.get(key, False) for key in ("avx512_bf16", "amx_bf16", "bf16"))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def check_convolutions(model: nn.Module) -> None:
    """Raises ValueError where a CPU gets a convolution of `model` wrong in bf16.

    Of noise, against fp32. With AMX and torch 2.13, long kernels over eight or twelve channels a group come out as
    noise (WavLM has 48 and more a group, which are right): an encoder would have learned through it, and tokens would
    have been made of it, without a word.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    for conv in model.modules():
        if isinstance(conv, nn.Conv1d) and conv.groups > 1:
            frames = 2 * conv.kernel_size[0] * conv.dilation[0]
            given = torch.randn(1, conv.in_channels, frames, generator=torch.Generator().manual_seed(0))
            with torch.autocast("cpu", enabled=False):
                exact = conv(given)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = conv(given).float()
            if float((exact - rough).norm()) > NEAR * float(exact.norm()):
                raise ValueError(
                    f"dtype = bf16: this processor's library gets a convolution of {conv.in_channels} channels in "
                    f"{conv.groups} groups wrong in bf16: use dtype=fp32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
                )
