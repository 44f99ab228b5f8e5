"""The one transformer that all stages share: embeddings in, hidden states out; and the language model around it.

    ids ─ embedding ─▶ x ─ layer ─ layer ─ … ─ norm ─▶ hidden states ─ head ─▶ logits
          └ LanguageModel ┘└──────── Transformer ────────┘           └ LanguageModel ┘

Invariant: with an id embedding and a head on it, it equals transformers' LlamaForCausalLM, or Qwen3ForCausalLM with
QK-norm, on the same weights. Knows not what an id stands for.
"""

import math
from dataclasses import replace

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from triptych.lm.cache import Cache
from triptych.lm.layer import Context, Layer
from triptych.lm.packing import Packed
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class TransformerConfig:
    """The shape of a transformer."""

    dim: int = 512
    """width of the residual stream, in features"""
    layers: int = 8
    """layers of attention and SwiGLU"""
    heads: int = 8
    """query heads of attention"""
    kv_heads: int = 0
    """key and value heads, a divisor of heads; 0: as many as heads"""
    head_dim: int = 0
    """features of one head, even; 0: dim / heads"""
    hidden: int = 0
    """features inside SwiGLU; 0: 8/3 dim, rounded up to a multiple of 64"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies; the slowest turns about once in 2 pi theta positions"""
    rope_stretch: tuple[float, float, float, float] | None = None
    """Llama 3: factor, least and most turns within the earlier length, and that length in positions; see `stretched`"""
    norm_eps: float = 1e-5
    """added to the mean square in every norm"""
    dropout: float = 0.0
    """share of features dropped in training, of the embeddings and of each branch before it is added"""
    causal: bool = True
    """each step sees itself and the past alone; false: both sides"""
    qk_norm: bool = False
    """norm queries and keys by head before they are rotated"""
    alibi: bool = False
    """a penalty that grows with distance, in place of rotary positions"""

    def __post_init__(self) -> None:
        if self.head_dim == 0 and self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}: change one, or give head_dim")
        if self.head_size % 2:
            raise ValueError(f"head_dim {self.head_size} is odd: rotary positions turn pairs of features")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Features of one head, with the default filled in."""
        return self.head_dim or self.dim // self.heads

    @property
    def hidden_size(self) -> int:
        """Features inside SwiGLU, with the default filled in."""
        return self.hidden or -(-8 * self.dim // (3 * 64)) * 64


def stretched(rates: Tensor, stretch: tuple[float, float, float, float] | None) -> Tensor:
    """Rotary rates [head_dim / 2], the slow ones slowed further for longer sequences (Llama 3, Dubey et al. 2024).

    Those that turn less than `least` times within `before` positions are divided by `factor`, those that turn more
    than `most` times stay, and those between change over from one to the other.
    """
    if stretch is None:
        return rates
    factor, least, most, before = stretch
    share = ((before * rates / (2 * math.pi) - least) / (most - least)).clamp(0, 1)
    return rates * (share + (1 - share) / factor)


class Transformer(nn.Module):
    """Layers and a final norm: [B, S, dim] in, [B, S, dim] out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """activation checkpointing, in training"""
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        # Plain attributes, not buffers: a model cast to bfloat16 must keep exact angles.
        exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32, device="cpu") / config.head_size
        self._rates = stretched(1.0 / config.rope_theta**exponents, config.rope_stretch)
        self._slopes = torch.tensor([2.0 ** (-8.0 * (h + 1) / config.heads) for h in range(config.heads)], device="cpu")
        self.apply(init_weights)
        for layer in self.layers:
            for linear in (layer.out, layer.down):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * config.layers))  # type: ignore[union-attr, arg-type]

    def forward(
        self,
        x: Tensor,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        packed: Packed | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states [B, S, dim] of embeddings x [B, S, dim].

        Args:
            positions: [S] or [B, S], whole or fractional; default: 0..S-1, or on from the cache's last step.
            lengths: int [B], valid steps of each row (padding on the right). Valid steps never see padding; what comes
                out at the padding means nothing. A causal model needs no mask for it.
            packed: the rows that lie side by side on the axis S, with B = 1: each sees itself alone, and positions
                count from 0 in each. Without lengths, mask and cache.
            mask: bool [B, S, S] ([B, S, filled + S] with a cache), True: may attend; replaces causality and lengths.
            cache: the steps so far; the new ones are added to it.
        Raises:
            ValueError: the cache is full.
        """
        filled = 0
        if cache is not None:
            assert self.config.causal and lengths is None, "a cache is for causal models, without padding on the right"
            cache.reserve(x.shape[1])
            filled = cache.filled
        if packed is not None:
            assert lengths is None and mask is None and cache is None and x.shape[:2] == (1, packed.positions)
        if positions is None and packed is not None:
            positions = packed.steps
        elif positions is None:
            positions = torch.arange(filled, filled + x.shape[1], device=x.device)
        if positions.dim() == 1:
            positions = positions[None]
        context = self._context(x, positions, lengths, packed, mask, cache)
        if self.training and self.config.dropout:
            x = F.dropout(x, self.config.dropout)
        for layer in self.layers:
            recompute = self.recompute and self.training and torch.is_grad_enabled()
            x = checkpoint(layer, x, context, use_reentrant=False) if recompute else layer(x, context)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.norm(x)
        return out

    def beside(self, x: Tensor, positions: Tensor, caches: tuple[Cache, ...]) -> Tensor:
        """Hidden states [B, dim] of one new token a row, x [B, dim] at positions [B]; row r goes on in `caches[r]`."""
        assert self.config.causal and not self.config.alibi and len(caches) == len(x)
        for cache in caches:
            cache.reserve(1)
        context = replace(self._context(x[:, None], positions[:, None], None, None, None, None), beside=caches)
        x = x[:, None]
        for layer in self.layers:
            x = layer(x, context)
        for cache in caches:
            cache.advance(1)
        out: Tensor = self.norm(x)[:, 0]
        return out

    def _context(
        self,
        x: Tensor,
        positions: Tensor,
        lengths: Tensor | None,
        packed: Packed | None,
        mask: Tensor | None,
        cache: Cache | None,
    ) -> Context:
        steps = x.shape[1]
        if mask is not None:
            mask = mask[:, None]
        elif cache is not None:
            mask = cache.mask(steps)
        elif lengths is not None and not self.config.causal:
            mask = (torch.arange(steps, device=x.device) < lengths[:, None])[:, None, None]
        causal = self.config.causal and mask is None and steps > 1
        if self.config.alibi and packed is not None:
            rows = packed.split(positions, 1)
            biases = tuple(self._alibi(row, None, self.config.causal, None).to(x.dtype) for row in rows)
            return Context(None, None, None, False, None, packed, biases)
        if self.config.alibi:
            return Context(None, None, self._alibi(positions, mask, causal, cache).to(x.dtype), False, cache)
        if self._rates.device != x.device:
            self._rates = self._rates.to(x.device)
        angles = (positions[..., None].float() * self._rates)[:, :, None]
        cos, sin = angles.cos(), angles.sin()
        return Context(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1), mask, causal, cache, packed)

    def _alibi(self, positions: Tensor, mask: Tensor | None, causal: bool, cache: Cache | None) -> Tensor:
        """What is added to the scores, [B or 1, heads, S, keys]: minus slope times distance; -inf where masked."""
        keys, steps = positions, positions.shape[1]
        if cache is not None:
            cache.positions[:, cache.filled : cache.filled + steps] = positions
            keys = cache.positions[:, : cache.filled + steps]
        distance = (positions[:, :, None] - keys[:, None, :]).abs().float()
        bias = -self._slopes.to(positions.device)[:, None, None] * distance[:, None]
        if causal:
            mask = torch.ones(steps, steps, dtype=torch.bool, device=positions.device).tril()[None, None]
        return bias if mask is None else bias.masked_fill(~mask, -math.inf)


class LanguageModel(nn.Module):
    """Ids in, logits out: an embedding, a transformer and a head (the embedding itself, if tied)."""

    def __init__(self, config: TransformerConfig, vocabulary_size: int, *, tied: bool = False) -> None:
        super().__init__()
        self.config, self.vocabulary_size, self.tied = config, vocabulary_size, tied
        self.embedding = nn.Embedding(vocabulary_size, config.dim)
        self.transformer = Transformer(config)
        self.head = None if tied else nn.Linear(config.dim, vocabulary_size, bias=False)
        init_weights(self.embedding)
        if self.head is not None:
            init_weights(self.head)

    def hidden(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        packed: Packed | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states [B, S, dim] of ids [B, S]; see `Transformer.forward`."""
        x = self.embedding(ids)
        out: Tensor = self.transformer(x, positions=positions, lengths=lengths, packed=packed, mask=mask, cache=cache)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, dim] -> [..., V]. Select the steps that count first: the head is the widest product of all."""
        if self.head is None:
            return F.linear(hidden, self.embedding.weight)
        out: Tensor = self.head(hidden)
        return out

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        packed: Packed | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits [B, S, V]: at step s, of the id after `ids[:, s]`."""
        hidden = self.hidden(ids, positions=positions, lengths=lengths, packed=packed, mask=mask, cache=cache)
        return self.logits(hidden)


def init_weights(module: nn.Module) -> None:
    """Normal, std 0.02, for matrices and embeddings (GPT-2); with it the loss at step 0 is about log V."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
