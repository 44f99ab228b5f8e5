"""A corpus of random tokens, small stages, and no tokenizer: stages see tokens only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from triptych.lm.transformer import TransformerConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec

torch.set_num_threads(1)


@dataclass
class FakeRow:
    id: str
    speaker: str | None


class FakeShards:
    """Twelve clips of three speakers, the last one unnamed; rates as given, four levels of 16 entries."""

    def __init__(self, semantic_hop: int, acoustic_hop: int, clips: int = 12) -> None:
        rng = np.random.default_rng(0)
        self.specs = {
            "text": TokenizerSpec("text", "letters", 10, fingerprint="t"),
            "semantic": TokenizerSpec("semantic", "fake", 20, 16_000, semantic_hop, fingerprint="s"),
            "acoustic": TokenizerSpec("acoustic", "fake", 16, 24_000, acoustic_hop, levels=4, fingerprint="a"),
        }
        self.grid = TimeGrid.of(self.specs["semantic"], self.specs["acoustic"])
        self.rows = [FakeRow(f"clip{i}", ["ann", "bob", None][i % 3]) for i in range(clips)]
        beats = rng.integers(25, 60, clips)
        s, a = self.grid.semantic_per_beat, self.grid.acoustic_per_beat
        self._semantic = [rng.integers(0, 20, b * s).astype(np.uint16) for b in beats]
        self._codes = [rng.integers(0, 16, (4, b * a)).astype(np.uint16) for b in beats]
        self._text = [rng.integers(0, 10, 12 if i % 4 else 0).astype(np.uint16) for i in range(clips)]

    def row(self, i: int) -> FakeRow:
        return self.rows[i]

    def text(self, i: int) -> Any:
        return self._text[i]

    def semantic(self, i: int) -> Any:
        return self._semantic[i]

    def codes(self, i: int) -> Any:
        return self._codes[i]

    def indices(self, split: str) -> Any:
        return np.arange(len(self.rows))


@pytest.fixture(params=[(640, 480), (320, 320)], ids=["25:50 Hz", "50:75 Hz"])
def speech(request: pytest.FixtureRequest) -> Speech:
    return Speech(FakeShards(*request.param), "train")  # type: ignore[arg-type]


@pytest.fixture
def specs(speech: Speech) -> Specs:
    s = speech.shards.specs
    return Specs(s["semantic"], s["acoustic"], s["text"])


@pytest.fixture
def shape() -> TransformerConfig:
    return TransformerConfig(dim=32, layers=2, heads=2)
