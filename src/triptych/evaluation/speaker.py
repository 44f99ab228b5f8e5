"""Whose voice it is: whatever turns a recording into a vector that is alike for one speaker. Exchangeable.

    resemblyzer                      the package, with its weights
    hub id, transformers folder      an x-vector model (WavLM, wav2vec 2.0, data2vec-audio, UniSpeech-SAT), such as
                                     microsoft/wavlm-base-plus-sv

Knows no texts.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.waveform import Waveform, resample

Embedding = NDArray[np.float32]
"""[D], of any length"""


RESEMBLYZER = "resemblyzer"
SAMPLE_RATE = 16_000
"""Hz, at which x-vector models hear"""
SHORTEST_SECONDS = 0.5
"""what is shorter is repeated: their convolutions see nothing in it"""


class Speaker(Protocol):
    def embed(self, waveform: Waveform, sample_rate: int) -> Embedding:
        """The voice in a waveform [N]."""


def load_speaker(name: str = RESEMBLYZER) -> Speaker:
    """The speaker encoder that a name means: 'resemblyzer', a folder, or a hub id.

    Raises:
        ValueError: it is not installed, or cannot be loaded.
    """
    if name != RESEMBLYZER:
        return XVector(name)
    try:
        return Resemblyzer()
    except ModuleNotFoundError:
        raise ValueError(
            "rows that name a voice need a speaker encoder: pip install resemblyzer 'setuptools<81', or leave voice out"
        ) from None


class Resemblyzer:
    """The GE2E encoder of the package resemblyzer (Wan et al. 2018), whose weights come with it; CPU."""

    def __init__(self) -> None:
        from resemblyzer import VoiceEncoder, preprocess_wav

        self.encoder: Any = VoiceEncoder("cpu", verbose=False)
        self.prepare: Any = preprocess_wav

    def embed(self, waveform: Waveform, sample_rate: int) -> Embedding:
        return np.asarray(self.encoder.embed_utterance(self.prepare(waveform, source_sr=sample_rate)), np.float32)


class XVector:
    """An x-vector model through transformers (Snyder et al. 2018, on the layers of a self-supervised encoder).

    Raises:
        ValueError: no such model, here or on the hub, or one of another kind.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioXVector

        try:
            kinds = AutoConfig.from_pretrained(name).architectures or []
            self.features: Any = AutoFeatureExtractor.from_pretrained(name)
            self.model: Any = AutoModelForAudioXVector.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"speaker {name}: cannot be loaded: {str(error).splitlines()[0]}") from None
        if not any(kind.endswith("ForXVector") for kind in kinds):
            raise ValueError(
                f"speaker {name}: it has {', '.join(kinds) or 'no'} weights, and none of an x-vector model"
            )

    def embed(self, waveform: Waveform, sample_rate: int) -> Embedding:
        import torch

        sound = resample(waveform, sample_rate, SAMPLE_RATE)
        sound = np.tile(sound, -(-int(SHORTEST_SECONDS * SAMPLE_RATE) // max(1, len(sound))))
        given = self.features(sound, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            return np.asarray(self.model(**given).embeddings[0].float().numpy(), np.float32)


def similarity(one: Embedding, other: Embedding) -> float:
    """Cosine, -1 to 1. With Resemblyzer: two clips of one speaker about 0.85, two speakers 0.3 to 0.7."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other) + 1e-9))
