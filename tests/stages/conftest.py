"""A corpus of random tokens, small stages, and no tokenizer: stages see tokens only."""

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from triptych.corpus.shard_set import Row
from triptych.lm.transformer import TransformerConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec, WaveformSpec

torch.set_num_threads(1)

STARTER = Path(str(files("triptych"))) / "starter"


@dataclass
class FakeRow:
    id: str


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
        self.speakers = ["ann", "bob"]
        self.speaker_of = np.array([[0, 1, -1][i % 3] for i in range(clips)], dtype=np.int32)
        self.rows = [FakeRow(f"clip{i}") for i in range(clips)]
        beats = rng.integers(25, 60, clips)
        s, a = self.grid.semantic_per_beat, self.grid.acoustic_per_beat
        self._semantic = [rng.integers(0, 20, b * s).astype(np.uint16) for b in beats]
        self._codes = [rng.integers(0, 16, (4, b * a)).astype(np.uint16) for b in beats]
        self._text = [rng.integers(0, 10, 12 if i % 4 else 0).astype(np.uint16) for i in range(clips)]

    def row(self, i: int) -> FakeRow:
        return self.rows[i]

    def lengths(self, kind: str) -> Any:
        kinds = {"text": self._text, "semantic": self._semantic, "codes": self._codes}
        return np.array([tokens.shape[-1] for tokens in kinds[kind]])

    def text(self, i: int) -> Any:
        return self._text[i]

    def semantic(self, i: int) -> Any:
        return self._semantic[i]

    def codes(self, i: int) -> Any:
        return self._codes[i]

    def indices(self, split: str) -> Any:
        return np.arange(len(self._semantic))


@pytest.fixture(params=[(640, 480), (320, 320)], ids=["25:50 Hz", "50:75 Hz"])
def speech(request: pytest.FixtureRequest) -> Speech:
    return Speech(FakeShards(*request.param), "train")  # type: ignore[arg-type]


@pytest.fixture
def fake_shards() -> type[FakeShards]:
    return FakeShards


@pytest.fixture
def specs(speech: Speech) -> Specs:
    s = speech.shards.specs
    return Specs(s["semantic"], s["acoustic"], s["text"])


@pytest.fixture
def shape() -> TransformerConfig:
    return TransformerConfig(dim=32, layers=2, heads=2)


def write_random_shards(
    folder: Path, specs: Specs, clips: int = 12, text_of: Any = None, speech_of: Any = None
) -> Path:
    """A folder of shards with random tokens of tokenizers that need not exist; two speakers, two clips of split dev.

    text_of: the text tokens of a clip, from random semantic tokens; random ones else.
    speech_of: its semantic tokens, from its text; the random ones else.
    """
    rng, grid = np.random.default_rng(0), specs.grid
    assert specs.text is not None
    kinds: dict[str, list[Any]] = {"text": [], "semantic": [], "codes": []}
    rows = []
    for number in range(clips):
        beats = int(rng.integers(20, 40))
        semantic = rng.integers(0, specs.semantic.size, beats * grid.semantic_per_beat)
        text = rng.integers(0, specs.text.size, 8) if text_of is None else text_of(semantic)
        if speech_of is not None:
            semantic = speech_of(text)
            beats = len(semantic) // grid.semantic_per_beat
        codes = rng.integers(0, specs.acoustic.size, (specs.acoustic.levels, beats * grid.acoustic_per_beat))
        for kind, ids in (("text", text), ("semantic", semantic), ("codes", codes)):
            kinds[kind].append(ids.astype(np.uint16))
        seconds, split = float(beats * grid.beat), "dev" if number < 2 else "train"
        speaker = "ann" if number % 2 else "bob"
        rows.append(Row(str(number), "a text", speaker, seconds, split, round(seconds * 24_000)))
    arrays = {kind: np.concatenate([ids.reshape(-1) for ids in found]) for kind, found in kinds.items()}
    for kind, found in kinds.items():
        arrays[f"{kind}_offsets"] = np.cumsum([0, *(ids.shape[-1] for ids in found)], dtype=np.int64)
    folder.mkdir(parents=True)
    save_file(arrays, folder / "shard-00000.safetensors")
    (folder / "shard-00000.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    record = {
        "format": 1,
        "specs": {kind: spec for kind, spec in specs.to_json().items() if spec},
        "waveform": asdict(WaveformSpec(24_000)),
        "shards": ["shard-00000.safetensors"],
        "files": {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()},
    }
    (folder / "shards.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="session")
def starter_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that say they were made with the tokenizers of the starter."""
    return write_random_shards(tmp_path_factory.mktemp("starter") / "shards", starter_specs())


def starter_specs() -> Specs:
    record = json.loads((STARTER / "stages" / "coarse" / "stage.json").read_text())
    return Specs.from_json(record["specs"])


@pytest.fixture(scope="session")
def random_shards() -> Any:
    """`write_random_shards`, for test files with tokenizers of their own."""
    return write_random_shards
