"""Codecs from disk or hub: folders of transformers, and `.th` files of the original `encodec` package.

Invariant: nothing that a checkpoint leaves out is made up, and nothing of a pickle but tensors is opened.
Knows no tokens.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from triptych.tokenizers.hub import on_this_machine

SNAC_REASON = (
    "its levels run at rates of their own (vq_strides {strides}), so its codes lie on no [Q, T'] grid: "
    "use descript/dac_24khz, kyutai/mimi or facebook/encodec_24khz"
)
STEREO_REASON = (
    "holds EnCodec 48 kHz, which is stereo, normalised and cut in chunks, so its codes lie on no [Q, T'] grid: "
    "use encodec_24khz"
)
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
)  # fmt: skip
"""what torch.load raises over a file that is no checkpoint, by what its first bytes happen to mean"""
# the names of the original package, and those of transformers
RENAMED = (
    ("quantizer.vq.layers.", "quantizer.layers."), ("._codebook.", ".codebook."), (".model.", ".layers."),
    ("convtr.convtr.", "conv."), ("conv.conv.", "conv."),
    ("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"),
)  # fmt: skip


def read_checkpoint(source: Path | str) -> Any:
    """The model, in float32, of a folder or hub id whose config.json names a codec of transformers.

    Raises:
        ValueError: no such checkpoint, another model's, or one that lacks weights.
    """
    from transformers import DacModel, EncodecModel, MimiModel, PreTrainedConfig

    here = on_this_machine(source)
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, local_files_only=here)
        kind = config.get("model_type")
        if kind is None and "vq_strides" in config:
            raise ValueError(f"{source} is a SNAC: " + SNAC_REASON.format(strides=config["vq_strides"]))
        models: dict[Any, Any] = {"encodec": EncodecModel, "dac": DacModel, "mimi": MimiModel}
        if kind not in models:
            raise ValueError(f"{source}: config.json is of model_type {kind}; codecs are {', '.join(models)}")
        model, found = models[kind].from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=here
        )
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{source}: no codec checkpoint that can be loaded: {str(error).splitlines()[0]}") from None
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{source}: its weights lack {len(missing)} tensors of the model, the first {missing[0]}")
    return model


def read_original(path: Path) -> Any:
    """An EncodecModel of the weights in a `.th` file of the original package, such as encodec_24khz-d7cc33bc.th.

    Raises:
        ValueError: anything else is in the file.
    """
    from transformers import EncodecModel

    state = _tensors(path)
    if "encoder.model.0.conv.norm.weight" in state:
        raise ValueError(f"{path} {STEREO_REASON}")
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    try:
        model = EncodecModel(_architecture(state))
        model.load_state_dict(renamed)
    except (LookupError, ValueError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:160]
        raise ValueError(f"{path} holds no EnCodec of 24 kHz: {problem}") from None
    return model


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise ValueError(
            f"{path} is no checkpoint of the original encodec package, or holds more than tensors: it is not opened"
        ) from None
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state dict: give encodec_24khz-….th as the original package has it")
    return state


def _architecture(state: dict[str, Tensor]) -> Any:
    """The config that the shapes of a state dict tell; what they do not tell is that of EnCodec 24 kHz."""
    from transformers import EncodecConfig

    numbers = sorted({int(name.split(".")[2]) for name in state if name.startswith("encoder.model.")})
    names = [f"encoder.model.{i}.conv.conv.weight_v" for i in numbers]
    convolutions = [state[name] for name in names if name in state]  # first, one a ratio, last
    entries, width = state["quantizer.vq.layers.0._codebook.embed"].shape
    levels = sum(name.endswith("._codebook.embed") for name in state)
    ratios = [conv.shape[2] // 2 for conv in convolutions[1:-1]]
    config = EncodecConfig(
        num_filters=convolutions[0].shape[0],
        upsampling_ratios=ratios[::-1],
        hidden_size=width,
        num_lstm_layers=sum(name.startswith("encoder.") and ".lstm.weight_ih_l" in name for name in state),
        codebook_size=entries,
    )
    config.target_bandwidths = [levels * config.codebook_nbits * config.frame_rate / 1000]
    return config
