"""The fused pieces equal the plain expressions, in values and gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from triptych.lm.fused import rms_norm, swiglu


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(out, given, *inputs):
    return out.detach(), *torch.autograd.grad(out, inputs, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu(dtype):
    x, given = random(2, 5, 16).to(dtype).requires_grad_(), random(2, 5, 8, seed=1).to(dtype)
    gate, up = x.chunk(2, dim=-1)
    ours, theirs = gradients(swiglu(x), given, x), gradients(F.silu(gate) * up, given, x)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e3])
def test_rms_norm(spread):
    norm = nn.RMSNorm(16, eps=1e-5)
    norm.weight.data = random(16, seed=2)
    x, given = (random(2, 5, 16) * spread).requires_grad_(), random(2, 5, 16, seed=1)
    ours, theirs = (gradients(f(), given, x, norm.weight) for f in (lambda: rms_norm(x, norm), lambda: norm(x)))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_slopes_are_those_of_the_values():
    assert torch.autograd.gradcheck(swiglu, random(3, 8).double().requires_grad_())
