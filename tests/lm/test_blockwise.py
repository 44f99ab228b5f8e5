"""Attention in blocks equals torch's, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from triptych.lm.blockwise import BLOCK, Blockwise, attend

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
"""root mean square error; single values may be further off, where the terms of a gradient cancel"""


def both(steps: int, causal: bool, dtype: torch.dtype, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of output and of gradients: ours, and torch's in fp32 on the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(2, 3, steps, 8, generator=generator).to(dtype) for _ in range(4)]
    found = []
    for kind, inputs in ((None, values[:3]), (torch.float32, values[:3])):
        q, k, v = (x.to(kind or dtype, copy=True).requires_grad_() for x in inputs)
        out = attend(q, k, v, causal) if kind is None else F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out.backward(values[3].to(out.dtype))
        found.append([out.detach(), q.grad, k.grad, v.grad])
    return list(zip(*found, strict=True))


@settings(max_examples=12, deadline=None)
@given(steps=st.integers(1, 300), causal=st.booleans(), dtype=st.sampled_from(list(BLOCK)), seed=st.integers(0, 9))
def test_values_and_gradients_are_those_of_torch(steps, causal, dtype, seed):
    for ours, theirs in both(steps, causal, dtype, seed):
        assert (ours.float() - theirs).square().mean().sqrt() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", list(BLOCK))
def test_training_goes_through_blocks_and_inference_does_not(dtype, monkeypatch):
    seen = []
    monkeypatch.setattr(Blockwise, "apply", lambda q, k, v, causal: seen.append(q.dtype) or q)
    x = torch.randn(1, 2, 5, 8, dtype=dtype, requires_grad=True)
    attend(x, x, x, True)
    with torch.no_grad():
        attend(x, x, x, True)
    attend(x.detach(), x.detach(), x.detach(), True)
    assert seen == [dtype]
