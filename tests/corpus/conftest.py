"""Small recordings, and tokenizers whose tokens can be foretold."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.trio import Tokenizers

Write = Callable[..., Path]


@pytest.fixture
def write_tone(tmp_path: Path) -> Write:
    """Writes a sine below the test's folder and returns its path."""

    def write(name: str, seconds: float = 0.5, rate: int = 16000, hertz: float = 200.0, **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.3 * np.sin(2 * math.pi * hertz * np.arange(round(seconds * rate)) / rate)
        soundfile.write(path, tone, rate, **options)
        return path

    return write


class Letters:
    """Text tokens: code points of lower case letters."""

    spec = TokenizerSpec("text", "letters", 128, fingerprint="letters-1")

    def encode(self, text: str) -> np.ndarray:
        if not text.isascii():
            raise ValueError("cannot speak it")
        return np.frombuffer(text.lower().encode(), np.uint8).astype(np.uint16)


class Levels:
    """One of 64 ids a frame, by the mean magnitude of its samples, each level from another offset."""

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec

    def ids(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        hop = self.spec.hop * rate // self.spec.sample_rate
        loud = np.abs(waveform[: len(waveform) // hop * hop]).reshape(-1, hop).mean(axis=1)
        return np.minimum(63, loud * 64).astype(np.uint16)


class SemanticLevels(Levels):
    def encode(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        return [self.ids(waveform, sample_rate) for waveform in waveforms]


class AcousticLevels(Levels):
    def encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        ids = self.ids(waveform, sample_rate)
        return np.stack([(ids + level) % 64 for level in range(self.spec.levels)]).astype(np.uint16)


@pytest.fixture(params=[(25, 480), (50, 320)], ids=["25/50", "50/75"])
def tokenizers(request: pytest.FixtureRequest) -> Tokenizers:
    """Stand-ins at the starter's and at the standard rates."""
    semantic_rate, acoustic_hop = request.param
    semantic = TokenizerSpec("semantic", "loud", 64, 16000, 16000 // semantic_rate, fingerprint="semantic-1")
    acoustic = TokenizerSpec("acoustic", "loud", 64, 24000, acoustic_hop, levels=3, fingerprint="acoustic-1")
    stand_ins: Any = (Letters(), SemanticLevels(semantic), AcousticLevels(acoustic))
    return Tokenizers(*stand_ins, waveform=WaveformSpec(24000, -23.0, None))
