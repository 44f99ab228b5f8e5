"""The shapes of an encoder that is trained here, and what it hears through. Knows how transformers builds each family.

wav2vec2-bert    filterbanks, `stride` of them a frame        stride 4 = 25 Hz, stride 2 = 50 Hz
wavlm, hubert    samples through seven convolutions           50 Hz
"""

from typing import Any, Literal

from pydantic.dataclasses import dataclass
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    WavLMConfig,
    WavLMModel,
)

from triptych.tokenizers.semantic.filterbank import MELS
from triptych.tokenizers.semantic.inputs import FrontEnd, filterbank_front_end, wave_front_end, with_floor
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class Architecture:
    """Family and sizes of an encoder."""

    family: Literal["wav2vec2-bert", "wavlm", "hubert"] = "wav2vec2-bert"
    """filterbanks (fast) or convolutions over samples"""
    dim: int = 192
    """width of the hidden states"""
    layers: int = 4
    """blocks"""
    heads: int = 4
    """attention heads"""
    ffn: int = 768
    """inner width of a feed-forward layer"""
    dropout: float = 0.1
    """on hidden states, while it learns"""
    stride: int = 4
    """filterbank frames of 10 ms a frame; wav2vec2-bert alone"""
    floor_db: float = 0.0
    """dB under the clip's power of the white noise whose mean is added to its filterbanks, so that noise under it moves
    little; 0: none; wav2vec2-bert alone"""
    conv_kernel: int = 15
    """frames, of the convolution in each wav2vec2-bert block; odd"""
    reach: int = 32
    """frames each way that attention tells apart; wav2vec2-bert alone"""
    front_dim: int = 256
    """channels of the convolutions over samples"""
    front_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """of those convolutions"""
    front_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """of those convolutions; their product is the hop in samples, a multiple of 160"""
    position_kernel: int = 64
    """frames, of the convolution that tells wavlm and hubert where they are; even"""


def front_end(architecture: Architecture) -> FrontEnd:
    """How samples become the input of such an encoder."""
    if architecture.family == "wav2vec2-bert":
        return with_floor(filterbank_front_end(architecture.stride), architecture.floor_db)
    return with_floor(
        wave_front_end(architecture.front_kernels, architecture.front_strides, normalise=True), architecture.floor_db
    )


def build_encoder(architecture: Architecture) -> PreTrainedModel:
    """Random weights; masking and layer drop of transformers are switched off."""
    common: dict[str, Any] = {
        "hidden_size": architecture.dim,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "intermediate_size": architecture.ffn,
        "hidden_dropout": architecture.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        "apply_spec_augment": False,
    }
    if architecture.dim % architecture.heads:
        raise ValueError(f"dim = {architecture.dim} is no multiple of heads = {architecture.heads}")
    if architecture.family == "wav2vec2-bert":
        config = Wav2Vec2BertConfig(
            **common,
            feature_projection_input_dim=MELS * architecture.stride,
            position_embeddings_type="relative_key",
            left_max_position_embeddings=architecture.reach,
            right_max_position_embeddings=architecture.reach,
            conv_depthwise_kernel_size=architecture.conv_kernel,
            conformer_conv_dropout=architecture.dropout,
        )
        bert = Wav2Vec2BertModel(config)
        bert.set_attn_implementation("eager")  # the position bias keeps the fused kernel from being faster
        return bert
    waves: dict[str, Any] = {
        "conv_dim": (architecture.front_dim,) * len(architecture.front_kernels),
        "conv_kernel": architecture.front_kernels,
        "conv_stride": architecture.front_strides,
        "conv_bias": True,
        "feat_extract_norm": "layer",  # a group norm would hear the padding of a batch
        "do_stable_layer_norm": True,
        "num_feat_extract_layers": len(architecture.front_kernels),
        "num_conv_pos_embeddings": architecture.position_kernel,
        "num_conv_pos_embedding_groups": architecture.heads,
    }
    if architecture.family == "wavlm":
        return WavLMModel(WavLMConfig(**common, **waves))
    return HubertModel(HubertConfig(**common, **waves))
