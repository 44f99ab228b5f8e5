"""Attention for training on a CPU: blocks of queries, each against the keys that it may see and no others.

    queries    keys ─▶
    block 0    ■
    block 1    ■ ■           causal: the upper half is never computed
    block 2    ■ ■ ■

torch's fused CPU kernel computes the whole square in its backward pass, and multiplies bfloat16 slowly; here every
product is a batched matrix product. The price is memory: probabilities are kept for the backward pass, n² / 2 a head.
Equals scaled_dot_product_attention. Knows no rows and no masks: one sequence a batch entry, all of one length.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = {torch.float32: 64, torch.bfloat16: 128}
"""queries a block, by dtype: the quickest of 64, 128 and 256 for 12 heads of 64 features and 512 steps"""


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention of q, k, v [B, H, n, d], by the quicker way."""
    blocks = q.device.type == "cpu" and q.dtype in BLOCK and q.requires_grad and torch.is_grad_enabled()
    if blocks and (causal or q.dtype == torch.bfloat16):
        flat = [x.reshape(-1, *x.shape[2:]) for x in (q, k, v)]
        mixed: Tensor = Blockwise.apply(*flat, causal)  # type: ignore[no-untyped-call]
        return mixed.view(q.shape)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Blockwise(torch.autograd.Function):
    """q, k, v [B, n, d] to [B, n, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        steps, size = q.shape[1:]
        q = q * size**-0.5
        turned, mixed, kept = k.transpose(1, 2), torch.empty_like(q), []
        for start, stop, seen in _blocks(steps, BLOCK[q.dtype], causal):
            scores = torch.bmm(q[:, start:stop], turned[:, :, :seen])
            if causal:
                scores[:, :, start:stop] += _future(stop - start, q.dtype)
            kept.append(scores.softmax(-1))
            mixed[:, start:stop] = torch.bmm(kept[-1], v[:, :seen])
        ctx.save_for_backward(q, k, v, mixed, *kept)
        ctx.causal = causal
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, mixed, *kept = ctx.saved_tensors
        gradient = gradients[0]
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        turned, common = v.transpose(1, 2), (gradient * mixed).sum(-1, keepdim=True)
        blocks = _blocks(q.shape[1], BLOCK[q.dtype], ctx.causal)
        for probabilities, (start, stop, seen) in zip(kept, blocks, strict=True):
            here = gradient[:, start:stop]
            of_v[:, :seen].baddbmm_(probabilities.transpose(1, 2), here)
            of_scores = torch.bmm(here, turned[:, :, :seen]).sub_(common[:, start:stop]).mul_(probabilities)
            of_q[:, start:stop] = torch.bmm(of_scores, k[:, :seen])
            of_k[:, :seen].baddbmm_(of_scores.transpose(1, 2), q[:, start:stop])
        return of_q.mul_(q.shape[2] ** -0.5), of_k, of_v, None


def _blocks(steps: int, block: int, causal: bool) -> list[tuple[int, int, int]]:
    """Of each block: first query, the one after its last, and the keys that it sees."""
    stops = [(start, min(steps, start + block)) for start in range(0, steps, block)]
    return [(start, stop, stop if causal else steps) for start, stop in stops]


def _future(steps: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of a block with itself: -inf above the diagonal."""
    return torch.full((steps, steps), -math.inf, dtype=dtype).triu_(1)
