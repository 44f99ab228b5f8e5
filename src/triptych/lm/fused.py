"""What lies between the matrix products, with backward passes that touch memory as seldom as a CPU allows.

Each equals the plain expression in its docstring. On other devices, and where no gradient is asked for, that expression
itself runs. Knows no layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def swiglu(gate_up: Tensor) -> Tensor:
    """[..., 2 h] to [..., h]: silu(gate) * up (Shazeer 2020)."""
    if _on_cpu(gate_up):
        out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
        return out
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """norm(x): x / sqrt(mean(x²) + eps) * weight, over the last axis (Zhang & Sennrich 2019)."""
    if _on_cpu(x) and x.dtype == norm.weight.dtype == torch.float32 and norm.eps is not None:
        normed: Tensor = _RMSNorm.apply(x, norm.weight, norm.eps)  # type: ignore[no-untyped-call]
        return normed
    plain: Tensor = norm(x)
    return plain


def _on_cpu(x: Tensor) -> bool:
    compiling = torch.compiler.is_compiling()  # a compiler does this itself, from the plain expressions
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not compiling


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        bent = F.silu(gate)
        ctx.save_for_backward(gate_up, bent)
        return bent * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gate_up, bent = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)  # one matrix, since the product before it was one
        of_gate, of_up = both.chunk(2, dim=-1)
        torch.mul(gradients[0], bent, out=of_up)
        torch.ops.aten.silu_backward(gradients[0] * up, gate, grad_input=of_gate)
        return both


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out: Tensor = (x * scale).mul_(weight)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        gradient, size = gradients[0], x.shape[-1]
        product = (gradient * x).view(-1, size)
        of_weight = scale.view(-1) @ product
        along = (product @ weight).view(scale.shape).mul_(scale.pow(3)).div_(-size)
        of_x: Tensor = (gradient * weight).mul_(scale).addcmul_(x, along)
        return of_x, of_weight, None
