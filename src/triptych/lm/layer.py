"""One layer of the transformer: attention, then SwiGLU, each normed first and added to the residual stream.

    x ─┬─ norm ─ qkv ─ rotate ─ attention ─ out ─(+)─┬─ norm ─ gate, up ─ down ─(+)─▶
       └──────────────────────────────────────────┘  └─────────────────────────┘

Pre-norm RMSNorm (Zhang & Sennrich 2019), rotary positions (RoFormer, Su et al. 2021) in the rotate-half convention of
transformers' Llama, grouped-query attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020); on request QK-norm as in
Qwen3. Knows neither where positions and masks come from nor how many layers there are.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.lm.blockwise import attend
from triptych.lm.cache import Cache
from triptych.lm.packing import Packed, attend_packed

if TYPE_CHECKING:
    from triptych.lm.transformer import TransformerConfig


@dataclass(frozen=True)
class Context:
    """What all layers of one forward pass share."""

    cos: Tensor | None
    """[B or 1, S, 1, head_dim]; None with ALiBi"""
    sin: Tensor | None
    """likewise, its first half negated"""
    mask: Tensor | None
    """bool, or float to add: [B or 1, heads or 1, S, keys]"""
    causal: bool
    """attention itself hides the future; no mask then"""
    cache: Cache | None
    packed: Packed | None = None
    """rows side by side on one axis, each seeing itself alone"""
    biases: tuple[Tensor, ...] | None = None
    """of packed rows, with ALiBi: what is added to the scores of each, [1, heads, n, n]"""
    beside: tuple[Cache, ...] | None = None
    """of rows that go on for one step, each with a cache of its own"""


class Layer(nn.Module):
    """Attention and SwiGLU, each added to the residual stream."""

    def __init__(self, config: "TransformerConfig", index: int) -> None:
        super().__init__()
        self.index, self.dropout = index, config.dropout
        self.heads, self.kv_heads, self.head_size = config.heads, config.num_kv_heads, config.head_size
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.qkv = nn.Linear(config.dim, (config.heads + 2 * self.kv_heads) * self.head_size, bias=False)
        self.query_norm = nn.RMSNorm(self.head_size, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = nn.RMSNorm(self.head_size, eps=config.norm_eps) if config.qk_norm else None
        self.out = nn.Linear(config.heads * self.head_size, config.dim, bias=False)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.gate_up = nn.Linear(config.dim, 2 * config.hidden_size, bias=False)
        self.down = nn.Linear(config.hidden_size, config.dim, bias=False)
        self._compiled: Any = None

    def compile_parts(self) -> None:
        """Compiles, for training, all but attention: what is left depends on the number of positions alone, which may
        change, and never on how they are dealt into rows."""
        self._compiled = (torch.compile(self._before, dynamic=True), torch.compile(self._after, dynamic=True))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        before, after = self._compiled if self._compiled and self.training else (self._before, self._after)
        q, k, v = before(x, context.cos, context.sin)
        if context.cache is not None:
            k, v = context.cache.append(self.index, k, v)
        if context.beside is not None:
            mixed = torch.cat([self._row(q, k, v, row, cache) for row, cache in enumerate(context.beside)])
        elif context.packed is not None:
            mixed = attend_packed(q, k, v, context.packed, context.causal, context.biases)
        else:
            mixed = _attend(q, k, v, context.mask, context.causal)
        out: Tensor = after(x, mixed)
        return out

    def _row(self, q: Tensor, k: Tensor, v: Tensor, row: int, cache: Cache) -> Tensor:
        """Attention of one row with its own cache."""
        keys, values = cache.append(self.index, k[row : row + 1], v[row : row + 1])
        return _attend(q[row : row + 1], keys, values, None, False)

    def _before(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, heads, S, head_dim]."""
        batch, steps, _ = x.shape
        qkv = self.qkv(self.attention_norm(x))
        qkv = qkv.view(batch, steps, self.heads + 2 * self.kv_heads, self.head_size)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            exact = self.query_norm.weight.dtype  # fp32 under autocast, where qk is bfloat16
            qk = torch.cat((self.query_norm(q.to(exact)), self.key_norm(k.to(exact))), dim=2)
        if cos is not None and sin is not None:
            turned = torch.roll(qk, self.head_size // 2, dims=-1)
            qk = torch.addcmul(qk * cos, turned, sin)
        qk = qk.to(v.dtype).transpose(1, 2)
        q, k = qk.split((self.heads, self.kv_heads), dim=1)
        return q, k, v.transpose(1, 2)

    def _after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What attention found is added to x, and what SwiGLU makes of that."""
        batch, steps, _ = x.shape
        x = x + self._drop(self.out(mixed.transpose(1, 2).reshape(batch, steps, self.heads * self.head_size)))
        return x + self._drop(self.down(swiglu(self.gate_up(self.mlp_norm(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


def swiglu(gate_up: Tensor) -> Tensor:
    """[..., 2 h] to [..., h]: silu(gate) * up (Shazeer 2020)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Grouped-query attention: q [B, H, S, d], k and v [B, KV, N, d]; query head h reads key head h // (H / KV)."""
    batch, heads, steps, size = q.shape
    kv_heads = k.shape[1]
    if heads == kv_heads and mask is None and steps == k.shape[2]:
        return attend(q, k, v, causal)
    if heads == kv_heads:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    if steps == 1:  # the queries of a group are like steps of one head: the keys need no copy
        if mask is not None and mask.shape[1] > 1:
            mask = mask.reshape(mask.shape[0], kv_heads, heads // kv_heads, mask.shape[3])
        q = q.reshape(batch, kv_heads, heads // kv_heads, size)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(batch, heads, 1, size)
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
    k, v = (kv.repeat_interleave(heads // kv_heads, dim=1) for kv in (k, v))  # keeps the CPU's fused kernel
    if mask is None and steps == k.shape[2]:
        return attend(q, k, v, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
