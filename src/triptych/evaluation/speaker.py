"""Whose voice it is: whatever turns a recording into a vector that is alike for one speaker. Exchangeable.

Knows no texts.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.waveform import Waveform

Embedding = NDArray[np.float32]
"""[D], of any length"""


class Speaker(Protocol):
    def embed(self, waveform: Waveform, sample_rate: int) -> Embedding:
        """The voice in a waveform [N]."""


def load_speaker() -> Speaker:
    """The speaker encoder that is installed.

    Raises:
        ValueError: there is none.
    """
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


def similarity(one: Embedding, other: Embedding) -> float:
    """Cosine, -1 to 1. With Resemblyzer: two clips of one speaker about 0.85, two speakers 0.3 to 0.7."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other) + 1e-9))
