"""The way in and the way out: a language model as transformers' Llama (or Qwen3, with QK-norm), and back.

    LanguageModel               LlamaForCausalLM
    embedding                   model.embed_tokens
    layers.i.qkv                model.layers.i.self_attn.{q,k,v}_proj      stacked by rows, in this order
    layers.i.gate_up            model.layers.i.mlp.{gate,up}_proj          likewise
    head (absent if tied)       lm_head

Invariant: both compute the same logits. Knows nothing of vocabularies; imports transformers only when it is called.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from triptych.lm.transformer import LanguageModel, TransformerConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}
"""our name of a layer's matrix: theirs, stacked by rows"""
RENAMED = {
    "out": "self_attn.o_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
"""our name within a layer: theirs"""
STRETCH = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
"""what Llama 3's rope_parameters call the fields of `TransformerConfig.rope_stretch`"""
QK_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
"""with QK-norm, which Qwen3 has and Llama has not"""


def to_llama(
    model: LanguageModel, *, longest: int = 4096, bos_id: int | None = None, eos_id: int | None = None
) -> tuple["PretrainedConfig", dict[str, Tensor]]:
    """The LlamaConfig (Qwen3Config with QK-norm) and state dict that compute what `model` does.

    Args:
        longest: steps, what other engines take as the longest sequence.
    Raises:
        ValueError: the model is not causal, or has ALiBi: neither family can say that.
    """
    from transformers import LlamaConfig, Qwen3Config

    config = model.config
    if config.alibi or not config.causal:
        raise ValueError("only causal models with rotary positions (causal=true, alibi=false) have a Llama equal")
    family: Any = Qwen3Config if config.qk_norm else LlamaConfig
    theirs = family(
        vocab_size=model.vocabulary_size,
        hidden_size=config.dim,
        intermediate_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_size,
        rms_norm_eps=config.norm_eps,
        rope_parameters=_rope_of(config),
        tie_word_embeddings=model.tied,
        max_position_embeddings=longest,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
    )
    theirs.architectures = ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"]
    ours = model.state_dict()
    state = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "model.norm.weight": ours["transformer.norm.weight"],
        "lm_head.weight": ours["embedding.weight" if model.tied else "head.weight"],
    }
    for index in range(config.layers):
        mine, their = f"transformer.layers.{index}.", f"model.layers.{index}."
        for name, parts in FUSED.items():
            sizes = _rows(config, name)
            for part, rows in zip(parts, ours[f"{mine}{name}.weight"].split(sizes), strict=True):
                state[f"{their}{part}.weight"] = rows
        for name, part in _single(config).items():
            state[f"{their}{part}.weight"] = ours[f"{mine}{name}.weight"]
    return theirs, {name: tensor.detach().clone() for name, tensor in state.items()}


def from_llama(config: "PretrainedConfig", state: Mapping[str, Tensor], *, dropout: float = 0.0) -> LanguageModel:
    """A language model equal to a LlamaForCausalLM or Qwen3ForCausalLM, from its config and state dict; fp32.

    Raises:
        ValueError: another family, or a feature that the transformer has not (biases, scaled rotary, sliding windows).
    """
    ours = TransformerConfig(**shape_of(config), dropout=dropout)
    tied = bool(config.tie_word_embeddings)
    model = LanguageModel(ours, int(getattr(config, "vocab_size")), tied=tied)  # noqa: B009
    weights = {"embedding.weight": "model.embed_tokens.weight", "transformer.norm.weight": "model.norm.weight"}
    if not tied:
        weights["head.weight"] = "lm_head.weight"
    mine = {name: state[their] for name, their in weights.items()}
    for index in range(ours.layers):
        here, there = f"transformer.layers.{index}.", f"model.layers.{index}."
        for name, parts in FUSED.items():
            mine[f"{here}{name}.weight"] = torch.cat([state[f"{there}{part}.weight"] for part in parts])
        for name, part in _single(ours).items():
            mine[f"{here}{name}.weight"] = state[f"{there}{part}.weight"]
    model.load_state_dict(mine)
    return model


def save_llama(model: LanguageModel, folder: Path, **options: Any) -> None:
    """Writes a checkpoint that `AutoModelForCausalLM` and other engines open; options as for `to_llama`."""
    from transformers import AutoModelForCausalLM

    config, state = to_llama(model, **options)
    theirs: Any = AutoModelForCausalLM.from_config(config)
    theirs.load_state_dict(state)
    theirs.save_pretrained(folder)


def load_llama(name_or_folder: str | Path, *, dropout: float = 0.0) -> LanguageModel:
    """Opens a Llama or Qwen3 checkpoint (safetensors only) as a language model: a warm start."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(name_or_folder, dtype=torch.float32, use_safetensors=True)
    return from_llama(theirs.config, theirs.state_dict(), dropout=dropout)


def _single(config: TransformerConfig) -> dict[str, str]:
    return RENAMED | (QK_NORMS if config.qk_norm else {})


def _rows(config: TransformerConfig, name: str) -> list[int]:
    if name == "gate_up":
        return [config.hidden_size] * 2
    size = config.head_size
    return [config.heads * size, config.num_kv_heads * size, config.num_kv_heads * size]


def _rope_of(config: TransformerConfig) -> dict[str, Any]:
    if config.rope_stretch is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    return {
        "rope_type": "llama3",
        "rope_theta": config.rope_theta,
        **dict(zip(STRETCH, config.rope_stretch, strict=True)),
    }


def shape_of(config: Any) -> dict[str, Any]:
    """The keys of a TransformerConfig equal to a LlamaConfig or Qwen3Config.

    Raises:
        ValueError: another family, or a feature that the transformer has not.
    """
    rope = config.rope_parameters or {}
    known = {
        "model_type": (config.model_type, ("llama", "qwen3")),
        "hidden_act": (config.hidden_act, ("silu",)),
        "rope_type": (rope.get("rope_type", "default"), ("default", "llama3")),
        "attention_bias": (config.attention_bias, (False,)),
        "mlp_bias": (getattr(config, "mlp_bias", False), (False,)),
        "use_sliding_window": (getattr(config, "use_sliding_window", False), (False,)),
    }
    for key, (value, allowed) in known.items():
        if value not in allowed:
            raise ValueError(
                f"cannot read this checkpoint: its {key} is {value!r}, known: {', '.join(map(str, allowed))}"
            )
    return {
        "dim": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden": config.intermediate_size,
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_stretch": tuple(rope[key] for key in STRETCH) if rope.get("rope_type") == "llama3" else None,
        "norm_eps": config.rms_norm_eps,
        "qk_norm": config.model_type == "qwen3",
    }
