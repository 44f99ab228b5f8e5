"""The codecs of the original packages, small: what they answer, for ours to be held against.

    pip install --no-deps encodec descript-audio-codec moshi     beside torch, einops, safetensors, sentencepiece, tqdm
    python tests/tokenizers/acoustic/originals/originals.py      writes names.json and answers.npz beside this file

Weights are a pure function of their name and shape (`weights`), so that names.json (the names of the checkpoints, with
shapes) and answers.npz (codes, and every seventh sample of the sound) are all that has to be kept. The names are those
of the published checkpoints: for EnCodec those of its own .th file, for DAC and Mimi those of transformers' folders.
torchaudio, audiotools and argbind, which they need for files and command lines alone, are stood in for where absent.
"""

import importlib.util
import json
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
SAMPLES = 12_100  # no whole number of frames for any of them
STRIDE = 7
DAC_CONFIG = {
    "architectures": ["DacModel"], "codebook_dim": 8, "codebook_loss_weight": 1.0, "codebook_size": 64,
    "commitment_loss_weight": 0.25, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 5, 8],
    "encoder_hidden_size": 4, "hidden_size": 64, "hop_length": 512, "model_type": "dac", "n_codebooks": 4,
    "quantizer_dropout": 0.0, "sampling_rate": 24000, "torch_dtype": "float32", "upsampling_ratios": [8, 5, 4, 2],
}  # fmt: skip
MIMI_CONFIG = {
    "architectures": ["MimiModel"], "attention_bias": False, "attention_dropout": 0.0, "audio_channels": 1,
    "codebook_dim": 16, "codebook_size": 64, "compress": 2, "dilation_growth_rate": 2, "frame_rate": 12.5,
    "head_dim": 16, "hidden_act": "gelu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 64,
    "kernel_size": 7, "last_kernel_size": 3, "layer_scale_initial_scale": 0.01, "max_position_embeddings": 8000,
    "model_type": "mimi", "norm_eps": 1e-05, "num_attention_heads": 2, "num_filters": 2, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "num_quantizers": 6, "num_residual_layers": 1, "num_semantic_quantizers": 1,
    "pad_mode": "constant", "residual_kernel_size": 3, "rope_theta": 10000.0, "sampling_rate": 24000,
    "sliding_window": 8, "torch_dtype": "float32", "trim_right_ratio": 1.0, "upsample_groups": 32,
    "upsampling_ratios": [8, 6, 5, 4], "use_cache": False, "use_causal_conv": True, "use_conv_shortcut": False,
    "vector_quantization_hidden_dimension": 16,
}  # fmt: skip
Names = dict[str, tuple[int, ...]]


def weights(names: Names) -> dict[str, torch.Tensor]:
    """A tensor for each name; NumPy keeps the numbers of RandomState for good."""
    return {name: torch.from_numpy(_weight(name, tuple(shape)).astype(np.float32)) for name, shape in names.items()}


def _weight(name: str, shape: tuple[int, ...]) -> Any:
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(("inited", "initialized")):
        return np.ones(shape)
    if name.endswith(("cluster_size", "cluster_usage")):
        return 1 + np.abs(normal)
    if name.endswith(("embed", "embed_avg", "embed_sum", "codebook.weight")):
        return normal
    if name.endswith(("layernorm.weight", "weight_g", "alpha")):
        return 1.2 + 0.1 * normal
    if name.endswith(".scale"):
        return 0.3 * np.abs(normal)
    if "bias" in name:
        return 0.1 * normal
    gain = 0.5 if name.startswith("decoder.block") else 1.2  # more makes of DAC's sines a chaos that magnifies rounding
    return normal * gain / np.sqrt(max(1, np.prod(shape[1:])))


def waveform(samples: int = SAMPLES, seed: int = 0) -> torch.Tensor:
    """Noise whose colour and loudness change, [N]."""
    rng = np.random.RandomState(seed)
    noise = rng.standard_normal(samples)
    loudness = np.interp(np.arange(samples), np.linspace(0, samples, 9), rng.uniform(0.02, 1.0, 9))
    return torch.from_numpy((loudness * (noise + 0.9 * np.roll(noise, 1))).astype(np.float32))


@dataclass(frozen=True)
class Original:
    """One package's codec with the weights of `weights`."""

    names: Names
    """of the checkpoint"""
    encode: Callable[[torch.Tensor], torch.Tensor]
    """[N] to [Q, T']"""
    decode: Callable[[torch.Tensor], torch.Tensor]
    """[Q, T'] to samples"""


def encodec() -> Original:
    with stand_ins():
        from encodec import modules, quantization
        from encodec.model import EncodecModel
    sizes = {"channels": 1, "norm": "weight_norm", "causal": True, "n_filters": 2, "dimension": 16}
    model = EncodecModel(
        modules.SEANetEncoder(**sizes),
        modules.SEANetDecoder(**sizes),
        quantization.ResidualVectorQuantizer(dimension=16, n_q=4, bins=64),
        target_bandwidths=[1.8],
        sample_rate=24_000,
        channels=1,
    )
    names = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights(names))
    model.eval().set_target_bandwidth(1.8)
    return Original(
        names, lambda x: model.encode(x[None, None])[0][0][0], lambda ids: model.decode([(ids[None], None)])[0, 0]
    )


def dac() -> Original:
    with stand_ins():
        from dac.model.dac import DAC
    c = DAC_CONFIG
    model = DAC(
        encoder_dim=c["encoder_hidden_size"], encoder_rates=c["downsampling_ratios"],
        decoder_dim=c["decoder_hidden_size"], decoder_rates=c["upsampling_ratios"], n_codebooks=c["n_codebooks"],
        codebook_size=c["codebook_size"], codebook_dim=c["codebook_dim"], sample_rate=c["sampling_rate"],
    ).eval()  # fmt: skip
    published = {
        name: _dac_name(name.replace("weight_v", "weight")) for name in model.state_dict() if "weight_g" not in name
    }
    names = {published[name]: tuple(t.shape) for name, t in model.state_dict().items() if name in published}
    filled, state = weights(names), {}
    for name, ours in published.items():
        state[name] = filled[ours]
        if name.endswith("weight_v"):  # the published weight is the normalised one; so a norm that changes nothing
            norm = filled[ours].flatten(1).norm(dim=1).reshape(-1, *[1] * (filled[ours].dim() - 1))
            state[name.replace("weight_v", "weight_g")] = norm
    model.load_state_dict(state)

    def encode(samples: torch.Tensor) -> torch.Tensor:
        return model.encode(model.preprocess(samples[None, None], c["sampling_rate"]))[1][0]

    return Original(names, encode, lambda ids: model.decode(model.quantizer.from_codes(ids[None])[0])[0, 0])


def mimi() -> Original:
    from moshi.models import loaders

    c = MIMI_CONFIG
    width = c["hidden_size"]
    config = {
        **loaders._mimi_config,
        "seanet": loaders._seanet_kwargs | {"dimension": width, "n_filters": c["num_filters"]},
        "quantizer": {
            "dimension": c["codebook_dim"], "n_q": c["num_quantizers"], "bins": c["codebook_size"],
            "input_dimension": width, "output_dimension": width,
        },
        "transformer": loaders._transformer_kwargs | {
            "d_model": width, "num_heads": c["num_attention_heads"], "num_layers": c["num_hidden_layers"],
            "context": c["sliding_window"], "dim_feedforward": c["intermediate_size"], "input_dimension": width,
            "output_dimensions": [width],
        },
    }  # fmt: skip
    model = loaders.get_mimi(None, config, num_codebooks=c["num_quantizers"])
    names: Names = {}
    for name, tensor in model.state_dict().items():
        for part in ("q_proj", "k_proj", "v_proj") if "in_projs" in name else ("",):
            shape = tuple(tensor.shape)
            names[_mimi_name(name, part)] = (shape[0] // 3, *shape[1:]) if part else shape
    filled, state = weights(names), {}
    for name in model.state_dict():
        if "in_projs" in name:
            q, k, v = (filled[_mimi_name(name, part)] for part in ("q_proj", "k_proj", "v_proj"))
            state[name] = torch.cat([_interleaved(q), _interleaved(k), v])
        else:
            state[name] = filled[_mimi_name(name, "")]
    model.load_state_dict(state)
    return Original(names, lambda x: model.encode(x[None, None])[0], lambda ids: model.decode(ids[None])[0, 0])


def _interleaved(weight: torch.Tensor) -> torch.Tensor:
    """Rotary positions turn neighbours in the original, and halves of a head in transformers."""
    heads = weight.reshape(MIMI_CONFIG["num_attention_heads"], 2, -1, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def _dac_name(name: str) -> str:
    """encoder.block.1.block.0.block.1.weight → encoder.block.0.res_unit1.conv1.weight"""
    part, *rest = name.split(".")
    if part == "quantizer":
        return name
    blocks, number, leaf = len(DAC_CONFIG["downsampling_ratios"]), int(rest[1]), rest[-1]
    if number == 0:
        return f"{part}.conv1.{leaf}"
    if number > blocks:
        return f"{part}.{'snake1' if number == blocks + 1 else 'conv2'}.{leaf}"
    inner = int(rest[3])
    encoder = ["res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"]
    where = (encoder if part == "encoder" else ["snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"])[inner]
    unit = f".{['snake1', 'conv1', 'snake2', 'conv2'][int(rest[5])]}" if where.startswith("res") else ""
    return f"{part}.block.{number - 1}.{where}{unit}.{leaf}"


def _mimi_name(name: str, projection: str) -> str:
    for theirs, ours in (
        ("conv.conv.conv", "conv"), ("convtr.convtr.convtr", "conv"), ("convtr.convtr", "conv"), ("conv.conv", "conv"),
        ("rvq_first.vq", "semantic_residual_vector_quantizer"), ("rvq_first", "semantic_residual_vector_quantizer"),
        ("rvq_rest.vq", "acoustic_residual_vector_quantizer"), ("rvq_rest", "acoustic_residual_vector_quantizer"),
        ("_codebook", "codebook"), ("_initialized", "initialized"), ("embedding_sum", "embed_sum"),
        ("coder.model", "coder.layers"), ("transformer.transformer", "transformer"), ("linear1", "mlp.fc1"),
        ("linear2", "mlp.fc2"), ("out_projs.0", "o_proj"), ("in_projs.0", projection), ("norm1", "input_layernorm"),
        ("norm2", "post_attention_layernorm"), ("layer_scale_1", "self_attn_layer_scale"),
        ("layer_scale_2", "mlp_layer_scale"),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return name


@contextmanager
def stand_ins() -> Iterator[None]:
    """Empty torchaudio, audiotools and argbind while a package is imported, where they are not installed."""
    absent = {name for name in ("torchaudio", "audiotools", "argbind") if importlib.util.find_spec(name) is None}
    added = [*absent, "audiotools.ml"] if "audiotools" in absent else [*absent]
    sys.modules.update({name: types.ModuleType(name) for name in added})
    if "argbind" in absent:
        sys.modules["argbind"].bind = lambda *_, **__: lambda function: function
    if "audiotools" in absent:
        base = type("BaseModel", (torch.nn.Module,), {"INTERN": [], "EXTERN": []})
        tools, ml = sys.modules["audiotools"], sys.modules["audiotools.ml"]
        tools.ml, tools.AudioSignal, tools.STFTParams = ml, object, lambda *_, **__: None
        ml.BaseModel, ml.Accelerator = base, object
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


ORIGINALS = {"encodec": encodec, "dac": dac, "mimi": mimi}


@torch.inference_mode()
def main() -> None:
    names, answers = {}, {}
    for name, build in ORIGINALS.items():
        original = build()
        names[name] = original.names
        ids = original.encode(waveform())
        answers[f"{name}_codes"] = ids.numpy().astype(np.uint16)
        answers[f"{name}_sound"] = original.decode(ids).numpy()[::STRIDE]
        print(name, tuple(ids.shape), [len(row.unique()) for row in ids], "ids used;", len(original.names), "tensors")
    (HERE / "names.json").write_text(json.dumps(names, indent=0).replace("\n", "") + "\n")
    np.savez_compressed(HERE / "answers.npz", **answers)


if __name__ == "__main__":
    main()
