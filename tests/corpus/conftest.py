"""Small recordings, and tokenizers whose tokens can be foretold."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.corpus.manifest import Recording, write_manifest
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
    def check_length(self, seconds: float, name: str) -> None:
        """Any length is welcome."""

    def encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        ids = self.ids(waveform, sample_rate)
        return np.stack([(ids + level) % 64 for level in range(self.spec.levels)]).astype(np.uint16)

    def encode_batch(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        return [self.encode(waveform, sample_rate) for waveform in waveforms]


def stand_ins(semantic_rate: int, acoustic_hop: int) -> Tokenizers:
    semantic = TokenizerSpec("semantic", "loud", 64, 16000, 16000 // semantic_rate, fingerprint="semantic-1")
    acoustic = TokenizerSpec("acoustic", "loud", 64, 24000, acoustic_hop, levels=3, fingerprint="acoustic-1")
    parts: Any = (Letters(), SemanticLevels(semantic), AcousticLevels(acoustic))
    return Tokenizers(*parts, waveform=WaveformSpec(24000, -23.0, None))


@pytest.fixture(params=[(25, 480), (50, 320)], ids=["25/50", "50/75"])
def tokenizers(request: pytest.FixtureRequest) -> Tokenizers:
    """Stand-ins at the starter's and at the standard rates."""
    return stand_ins(*request.param)


@pytest.fixture
def one_pair() -> Tokenizers:
    """Those at the starter's rates alone."""
    return stand_ins(25, 480)


@pytest.fixture
def recordings(write_tone: Write) -> list[Recording]:
    """Eight, 0.3 to 0.8 s long."""
    splits: list[Any] = ["train", "train", "dev", "test"]
    return [
        Recording(
            id=f"take[/b] {i}",
            path=write_tone(f"take[/b] {i}.wav", seconds=0.3 + 0.07 * i, hertz=100 + 30 * i),
            seconds=0.3 + 0.07 * i,
            text=f"Text {i}" if i % 3 else None,
            speaker=f"s{i % 2}" if i else None,
            split=splits[i % 4],
        )
        for i in range(8)
    ]


@pytest.fixture
def manifest(tmp_path: Path, recordings: list[Recording]) -> Path:
    write_manifest(tmp_path / "m.jsonl", recordings)
    return tmp_path / "m.jsonl"
