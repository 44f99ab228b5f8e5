"""What a processor computes in. Tokens made in bf16 are those of a processor that has it."""

from typing import Literal

import torch

Dtype = Literal["fp32", "bf16"]


def check_bf16(dtype: Dtype, device: torch.device) -> None:
    """Raises ValueError where `dtype` is bf16 and `device` has no bf16 arithmetic."""
    if dtype == "bf16" and not has_bf16(device):
        raise ValueError(
            "dtype = bf16: this processor has no bf16 arithmetic, and others would give other tokens; use "
            "one that has it (AVX512-BF16, AMX, Armv8.6, CUDA from Ampere on), or fit with dtype=fp32"
        )


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies in bf16 itself, and not by way of fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        can = torch.cpu.get_capabilities()
        return any(can.get(key, False) for key in ("avx512_bf16", "amx_bf16", "bf16"))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
