"""Reads a checkpoint of fairseq2 into transformers' classes, by the names and shapes of its weights.

    fairseq2                                          transformers
    encoder_frontend.feature_extractor.layers.0.conv  feature_extractor.conv_layers.0.conv        wav2vec 2.0
    encoder_frontend.pos_encoder.conv.weight_g        encoder.pos_conv_embed.conv.…original0      wav2vec 2.0
    encoder_frontend.model_dim_proj                   feature_projection.projection
    encoder.layers.0.self_attn.q_proj                 encoder.layers.0.attention.q_proj           wav2vec 2.0
    encoder.layers.0.self_attn.q_proj                 encoder.layers.0.self_attn.linear_q         w2v-BERT 2.0
    encoder.layers.0.self_attn.sdpa.rel_k_embed       encoder.layers.0.self_attn.distance_embedding

What shapes do not tell (heads, strides, reach of the relative positions, do_normalize) comes from a config.json and
preprocessor_config.json beside the file, in transformers' format; without them it is what the published models have.
Only tensors are read (`weights_only`). Knows nothing of fairseq2 but its names, and needs none.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, Wav2Vec2BertConfig, Wav2Vec2Config

from triptych.tokenizers.semantic.families import (
    FAMILIES,
    NEVER_USED,
    UNREADABLE,
    check_layer,
    cut,
    quiet,
    read_front_end,
)
from triptych.tokenizers.semantic.filterbank import MELS
from triptych.tokenizers.semantic.inputs import FrontEnd, filterbank_front_end, wave_front_end

HEAD_DIM = 64
"""of all published wav2vec 2.0"""
STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""likewise"""
REACH = (64, 8)
"""frames to the left and right of w2v-BERT 2.0"""
PRETRAINING = re.compile(r"^(quantizer|final_proj|final_target_proj|final_bert_proj|masker)\.|^encoder\.adaptor")
BOTH = [
    (r"^encoder_frontend\.post_extract_layer_norm\.", "feature_projection.layer_norm."),
    (r"^encoder_frontend\.model_dim_proj\.", "feature_projection.projection."),
    (r"^encoder\.inner\.layers\.", "encoder.layers."),
]
WAV2VEC2 = [
    (r"^encoder_frontend\.feature_extractor\.layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.conv."),
    (
        r"^encoder_frontend\.feature_extractor\.layers\.(\d+)\.(layer|group)_norm\.",
        r"feature_extractor.conv_layers.\1.layer_norm.",
    ),
    (r"^encoder_frontend\.pos_encoder\.conv\.", "encoder.pos_conv_embed.conv."),
    (r"\.conv\.weight_g$", ".conv.parametrizations.weight.original0"),
    (r"\.conv\.weight_v$", ".conv.parametrizations.weight.original1"),
    (r"^encoder_frontend\.layer_norm\.", "encoder.layer_norm."),
    (r"\.self_attn\.output_proj\.", ".attention.out_proj."),
    (r"\.self_attn\.([qkv])_proj\.", r".attention.\1_proj."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.ffn\.inner_proj\.", ".feed_forward.intermediate_dense."),
    (r"\.ffn\.output_proj\.", ".feed_forward.output_dense."),
    (r"\.ffn_layer_norm\.", ".final_layer_norm."),
]
BERT = [
    (r"\.self_attn\.sdpa\.rel_k_embed\.", ".self_attn.distance_embedding."),
    (r"\.self_attn\.output_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.(ffn[12])\.inner_proj\.", r".\1.intermediate_dense."),
    (r"\.(ffn[12])\.output_proj\.", r".\1.output_dense."),
    (r"\.conv\.layer_norm\.", ".conv_module.depthwise_layer_norm."),
    (r"\.conv\.", ".conv_module."),
    (r"\.conv_layer_norm\.", ".conv_module.layer_norm."),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.final_layer_norm."),
]


def read_checkpoint(path: Path, layer: int) -> tuple[PreTrainedModel, FrontEnd]:
    """The blocks up to `layer`, in fp32, and the way in.

    Raises:
        ValueError: not a checkpoint of fairseq2's wav2vec 2.0 or w2v-BERT 2.0, or weights that do not fit; one line.
    """
    weights = read_weights(path)
    config, front = describe(path, weights)
    check_layer(path, config, layer)
    cut(config, layer)
    wanted = {name: value for name, value in renamed(weights).items() if not _above(name, config.num_hidden_layers)}
    with quiet():
        model = FAMILIES[str(config.model_type)](config)
    try:
        report = model.load_state_dict(wanted, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path}: {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in report.missing_keys if key not in NEVER_USED]
    if missing or report.unexpected_keys:
        wrong = [*missing, *report.unexpected_keys]
        raise ValueError(f"{path}: {len(wrong)} weights are missing, or unknown to transformers: {wrong[0]}")
    return model.float(), front


def read_weights(path: Path) -> dict[str, Tensor]:
    """The encoder's weights by fairseq2's names, whatever was wrapped around it."""
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is not a checkpoint that can be read: {lines[0]}") from None
    tree = tree.get("model", tree) if isinstance(tree, dict) else {}
    weights = {re.sub(r"^(module\.)?(w2v2_model\.)?", "", str(key)): value for key, value in tree.items()}
    weights = {k: v for k, v in weights.items() if isinstance(v, Tensor) and not PRETRAINING.search(k)}
    if any(".conv.batch_norm." in key for key in weights):
        raise ValueError(f"{path} is a w2v-BERT of 2021 (batch norm): transformers has w2v-BERT 2.0 alone")
    if not any(key.startswith("encoder_frontend.") for key in weights):
        raise ValueError(f"{path} is not a checkpoint of wav2vec 2.0 or w2v-BERT 2.0 as fairseq2 writes it")
    return weights


def is_bert(weights: dict[str, Tensor]) -> bool:
    """w2v-BERT 2.0, or else wav2vec 2.0."""
    return any(key.endswith(".self_attn.sdpa.rel_k_embed.weight") for key in weights)


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers names them."""
    rules = [(re.compile(old), new) for old, new in [*BOTH, *(BERT if is_bert(weights) else WAV2VEC2)]]
    found = {}
    for name, value in weights.items():
        for old, new in rules:
            name = old.sub(new, name)
        found[name] = value
    return found


def describe(path: Path, weights: dict[str, Tensor]) -> tuple[Any, FrontEnd]:
    """transformers' config of the whole encoder, and its way in."""
    if (path.parent / "config.json").is_file():
        with quiet():
            config = AutoConfig.from_pretrained(path.parent, trust_remote_code=False, local_files_only=True)
        if config.model_type not in ("wav2vec2", "wav2vec2-bert"):
            raise ValueError(f"{path}: the config.json beside it is of '{config.model_type}'")
        return config, read_front_end(path.parent, config, local=True)
    try:
        if is_bert(weights):
            return _bert(path, weights)
        return _wav2vec2(path, weights)
    except KeyError as missing:
        raise ValueError(f"{path}: the weight {missing} is missing") from None


def _common(weights: dict[str, Tensor]) -> dict[str, Any]:
    dim = weights["encoder_frontend.model_dim_proj.weight"].shape[0]
    layers = {int(found[1]) for key in weights if (found := re.match(r"encoder\.(?:inner\.)?layers\.(\d+)\.", key))}
    return {"hidden_size": dim, "num_hidden_layers": max(layers) + 1, "layerdrop": 0.0}


def _bert(path: Path, weights: dict[str, Tensor]) -> tuple[Any, FrontEnd]:
    first = {key.split("layers.0.", 1)[1]: value for key, value in weights.items() if "layers.0." in key}
    positions, head_dim = first["self_attn.sdpa.rel_k_embed.weight"].shape
    if positions != sum(REACH) + 1:
        raise ValueError(f"{path}: {positions} relative positions; put a config.json beside it that says how they lie")
    common, inputs = _common(weights), weights["encoder_frontend.post_extract_layer_norm.weight"].shape[0]
    config = Wav2Vec2BertConfig(
        **common,
        num_attention_heads=common["hidden_size"] // head_dim,
        intermediate_size=first["ffn1.inner_proj.weight"].shape[0],
        feature_projection_input_dim=inputs,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=REACH[0],
        right_max_position_embeddings=REACH[1],
        conv_depthwise_kernel_size=first["conv.depthwise_conv.weight"].shape[-1],
    )
    return config, filterbank_front_end(inputs // MELS)


def _wav2vec2(path: Path, weights: dict[str, Tensor]) -> tuple[Any, FrontEnd]:
    start = "encoder_frontend.feature_extractor.layers."
    convs = [weights[key] for key in sorted(weights) if re.fullmatch(re.escape(start) + r"\d\.conv\.weight", key)]
    if len(convs) != len(STRIDES):
        raise ValueError(f"{path}: {len(convs)} convolutions; put a config.json beside it that says their strides")
    common = _common(weights)
    dim = common["hidden_size"]
    positions = weights["encoder_frontend.pos_encoder.conv.weight_v"]
    kernels = [conv.shape[-1] for conv in convs]
    config = Wav2Vec2Config(
        **common,
        num_attention_heads=max(1, dim // HEAD_DIM),
        intermediate_size=weights["encoder.layers.0.ffn.inner_proj.weight"].shape[0],
        conv_dim=tuple(conv.shape[0] for conv in convs),
        conv_kernel=kernels,
        conv_stride=STRIDES,
        conv_bias=start + "0.conv.bias" in weights,
        feat_extract_norm="group" if start + "0.group_norm.weight" in weights else "layer",
        do_stable_layer_norm="encoder.layer_norm.weight" in weights,
        num_conv_pos_embeddings=positions.shape[-1],
        num_conv_pos_embedding_groups=dim // positions.shape[1],
    )
    return config, wave_front_end(kernels, STRIDES, normalise=True)


def _above(name: str, layers: int) -> bool:
    found = re.match(r"encoder\.layers\.(\d+)\.", name)
    return found is not None and int(found[1]) >= layers
