"""Reads a speech encoder, whatever its family, into transformers' own class, with the way in that it was trained with.

    family            class              way in, from its preprocessor_config.json
    wav2vec2          Wav2Vec2Model      samples; do_normalize says whether each clip is brought to unit variance
    hubert            HubertModel        likewise
    wavlm             WavLMModel         likewise
    data2vec-audio    Data2VecAudioModel likewise
    wav2vec2-bert     Wav2Vec2BertModel  80 filterbanks of 10 ms, normalised over the clip, `stride` of them a frame
    whisper           WhisperEncoder     log-mels of 30 s; the decoder is not read

A file instead of a folder is a checkpoint of fairseq2 (`fairseq2.py`). Blocks above the layer are not loaded. Code from
a hub is never run, and pickles are only read with `weights_only`. Knows no batches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    Data2VecAudioModel,
    HubertModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging as reports

from triptych.tokenizers.hub import on_this_machine
from triptych.tokenizers.semantic.filterbank import HOP, MELS, SAMPLE_RATE, WINDOW
from triptych.tokenizers.semantic.inputs import FrontEnd, filterbank_front_end, wave_front_end, whisper_front_end

FAMILIES: dict[str, type[PreTrainedModel]] = {
    "wav2vec2": Wav2Vec2Model,
    "hubert": HubertModel,
    "wavlm": WavLMModel,
    "data2vec-audio": Data2VecAudioModel,
    "wav2vec2-bert": Wav2Vec2BertModel,
    "whisper": WhisperEncoder,
}
WHISPER_NAMES = {r"^(model\.)?encoder\.": ""}
"""a checkpoint of the whole model names the encoder's weights with these in front"""
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, UnpicklingError, SafetensorError)
"""what transformers raises on a folder that is no checkpoint, or a broken one"""
NEVER_USED = {"masked_spec_embed"}
"""weights that only pretraining needs, and some checkpoints leave out"""


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and its report on the blocks that were left out on purpose."""
    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()


def read_model(name: str | Path, layer: int) -> tuple[PreTrainedModel, FrontEnd]:
    """The blocks up to `layer`, in fp32, and the way in.

    Raises:
        ValueError: not a checkpoint of one of the families, a layer that it has not, weights that are missing or a
            front end that does not fit; one line.
    """
    local = on_this_machine(name)
    config = _read(name, "config.json", AutoConfig, local)
    family = str(config.model_type)
    if family not in FAMILIES:
        raise ValueError(f"{name} is a checkpoint of '{family}', not of a speech encoder: {', '.join(FAMILIES)}")
    check_layer(name, config, layer)
    front = read_front_end(name, config, local)
    cut(config, layer)
    extra = {"key_mapping": WHISPER_NAMES} if family == "whisper" else {}
    with_weights = dict(config=config, dtype=torch.float32, output_loading_info=True, **extra)
    model, report = _read(name, "the weights", FAMILIES[family], local, **with_weights)
    missing = sorted(key for key in report["missing_keys"] if key not in NEVER_USED)
    if missing or report["mismatched_keys"]:
        wrong = missing or sorted(str(key) for key in report["mismatched_keys"])
        raise ValueError(f"{name}: {len(wrong)} weights are missing or of another shape, {wrong[0]} among them")
    return model, front


def check_layer(name: str | Path, config: Any, layer: int) -> None:
    """Raises ValueError where the encoder has no such layer."""
    if not 0 <= layer <= config.num_hidden_layers:
        raise ValueError(f"{name} has layers 0 to {config.num_hidden_layers}, not {layer}")


def cut(config: Any, layer: int) -> None:
    """Leaves out of a config what lies above `layer`."""
    config.num_hidden_layers = max(1, layer)
    for key in ("add_adapter", "use_intermediate_ffn_before_adapter"):
        if hasattr(config, key):
            setattr(config, key, False)


def save_front_end(front: FrontEnd, folder: Path) -> None:
    """preprocessor_config.json, so that the folder is whole for transformers."""
    common: dict[str, Any] = {"sampling_rate": SAMPLE_RATE, "padding_value": 0.0, "return_attention_mask": True}
    if front.mels:
        extractor: Any = WhisperFeatureExtractor(feature_size=front.mels, chunk_length=front.longest // SAMPLE_RATE)
    elif front.wave:
        extractor = Wav2Vec2FeatureExtractor(feature_size=1, do_normalize=front.normalise, **common)
    else:
        own = {"floor_db": front.floor_db} if front.floor_db else {}  # transformers keeps it and does not know it
        extractor = SeamlessM4TFeatureExtractor(
            feature_size=MELS, num_mel_bins=MELS, stride=front.stride, **common, **own
        )
    extractor.save_pretrained(folder)


def _read(name: str | Path, what: str, reader: Any, local: bool, **more: Any) -> Any:
    read: Callable[..., Any] = reader.from_pretrained
    code = {} if reader.__name__.endswith("FeatureExtractor") else {"trust_remote_code": False}
    try:
        with quiet():
            return read(name, local_files_only=local, **code, **more)
    except UNREADABLE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if local and not Path(name).is_dir():
            lines = ["the hub cannot be reached, and this model is not in its cache; give a folder"]
        raise ValueError(f"{name} is not a speech encoder that can be read ({what}): {lines[0]}") from None


def read_front_end(name: str | Path, config: Any, local: bool) -> FrontEnd:
    """The way in of a checkpoint, from its preprocessor_config.json."""
    what = "preprocessor_config.json"
    if config.model_type == "whisper":
        whisper = _read(name, what, WhisperFeatureExtractor, local)
        _check_rate(name, whisper.sampling_rate)
        front = whisper_front_end(config.num_mel_bins, config.max_source_positions)
        shape = (whisper.feature_size, whisper.hop_length, whisper.n_fft, whisper.n_samples)
        if shape != (front.mels, HOP, WINDOW, front.longest):
            raise ValueError(
                f"{name}: {whisper.feature_size} log-mels a {whisper.hop_length} samples over {whisper.chunk_length} s "
                f"do not fit an encoder of {front.mels} x {front.longest // HOP}"
            )
        return front
    if config.model_type == "wav2vec2-bert":
        mels = _read(name, what, SeamlessM4TFeatureExtractor, local)
        _check_rate(name, mels.sampling_rate)
        if (mels.num_mel_bins, mels.stride * MELS) != (MELS, config.feature_projection_input_dim):
            raise ValueError(
                f"{name}: {mels.stride} x {mels.num_mel_bins} filterbanks do not make the "
                f"{config.feature_projection_input_dim} inputs of the encoder"
            )
        return filterbank_front_end(mels.stride, float(getattr(mels, "floor_db", 0.0)))
    waves = _read(name, what, Wav2Vec2FeatureExtractor, local)
    _check_rate(name, waves.sampling_rate)
    return wave_front_end(config.conv_kernel, config.conv_stride, bool(waves.do_normalize))


def _check_rate(name: str | Path, rate: int) -> None:
    if rate != SAMPLE_RATE:
        raise ValueError(f"{name} hears {rate} Hz; encoders of {SAMPLE_RATE} Hz are supported")
