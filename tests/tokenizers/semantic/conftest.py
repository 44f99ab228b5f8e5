"""Tiny random encoders in the real formats, and clips of noise and tones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.waveform import Waveform

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
WAVES: dict[str, Any] = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CLASSES: dict[str, Any] = {
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config),
    "hubert": (HubertModel, HubertConfig),
    "wavlm": (WavLMModel, WavLMConfig),
    "data2vec-audio": (Data2VecAudioModel, Data2VecAudioConfig),
}
WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "max_source_positions": 100,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
"""whole, with its decoder, as the public ones are; of 2 s instead of 30"""


def write_checkpoint(folder: Path, family: str, norm: str = "group", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    if family == "wav2vec2-bert":
        Wav2Vec2BertModel(Wav2Vec2BertConfig(**SIZES)).save_pretrained(folder)
        SeamlessM4TFeatureExtractor().save_pretrained(folder)
        return folder
    if family == "whisper":
        WhisperModel(WhisperConfig(**WHISPER)).save_pretrained(folder)
        WhisperFeatureExtractor(chunk_length=2).save_pretrained(folder)
        return folder
    model, config = CLASSES[family]
    if family == "data2vec-audio":
        model(config(**SIZES, **WAVES | {"num_conv_pos_embeddings": 5})).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
        return folder
    model(config(**SIZES, **WAVES, **(LAYER_NORM if norm == "layer" else {}))).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=norm == "layer", return_attention_mask=norm == "layer").save_pretrained(
        folder
    )
    return folder


KINDS = [
    "wav2vec2-group",
    "wav2vec2-layer",
    "hubert-group",
    "hubert-layer",
    "wavlm-group",
    "wavlm-layer",
    "data2vec-audio-",
    "wav2vec2-bert-",
    "whisper-",
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of encoder in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind of encoder."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: write_checkpoint(root / kind, *kind.rsplit("-", 1)) for kind in KINDS}


def speechlike(samples: int, seed: int) -> Waveform:
    """Noise whose loudness comes and goes, on a tone."""
    generator = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    noise = generator.standard_normal(samples) * (0.02 + 0.1 * np.abs(np.sin(7 * time + seed)))
    return np.asarray(noise + 0.1 * np.sin(2 * np.pi * (150 + 40 * seed) * time), dtype=np.float32)


@pytest.fixture(scope="session")
def sound() -> Callable[[int, int], Waveform]:
    return speechlike


class NoiseClips:
    """Satisfies Clips: a few clips of different lengths, each but the first with a text."""

    sample_rate = 24000

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def seconds(self, i: int) -> float:
        return 0.6 + 0.17 * i

    def waveform(self, i: int) -> Waveform:
        return speechlike(int(self.seconds(i) * self.sample_rate), i)

    def text(self, i: int) -> str | None:
        return "abba"[: i + 1] if i else None

    def speaker(self, i: int) -> str | None:
        return None

    def name(self, i: int) -> str:
        return f"clip-{i}"


SPELLED = ("a", "ˈb", "b", "c", ".")


class Letters:
    """Satisfies TextTokenizer: a letter is a token; d cannot be spoken."""

    spec = TokenizerSpec("text", "letters", 5)

    def encode(self, text: str) -> NDArray[np.uint16]:
        if "d" in text:
            raise ValueError("cannot speak 'd'")
        return np.array(["a?bc.".index(letter) for letter in text], dtype=np.uint16)

    def decode(self, tokens: NDArray[np.uint16]) -> str:
        return "".join(SPELLED[int(i)] for i in tokens)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@pytest.fixture
def clips() -> Callable[[int], NoiseClips]:
    return NoiseClips


@pytest.fixture
def letters() -> Letters:
    return Letters()
