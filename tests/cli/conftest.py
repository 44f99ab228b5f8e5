"""A cascade that needs no model, and a way to run one command line."""

import sys
import types
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from triptych.cli.main import main

RATE = 8000


STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, config=STRICT)
class Settings:
    seed: int = 0
    rate: float = 1.0
    semantic: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, config=STRICT)
class Utterance:
    waveform: Any
    sample_rate: int
    semantic: Any
    codes: Any
    text: str | None
    seconds_by_stage: dict[str, float]
    notes: tuple[str, ...] = ()


class FakeCascade:
    """Makes a tone for every job, and remembers what it was asked."""

    asked: ClassVar[list[tuple[str, Any, dict[str, Any]]]] = []
    names: ClassVar[dict[str, str]] = {"ada": "Good morning.", "bob": "Good night."}
    sample_rate = RATE
    settings = Settings(seed=5, semantic=Sampling(temperature=0.7, top_p=0.9))
    stages: ClassVar[dict[str, Any]] = {
        "fine": (types.SimpleNamespace(config=types.SimpleNamespace(coarse_levels=2)), None)
    }

    @classmethod
    def load(cls, path: str | None = None, precision: str = "fp32") -> "FakeCascade":
        cls.asked = [("load", path, {} if precision == "fp32" else {"precision": precision})]
        return cls()

    @property
    def tokenizers(self) -> Any:
        return types.SimpleNamespace(text=self)

    def encode(self, text: str) -> list[int]:
        if "☃" in text:
            raise ValueError("cannot speak ☃")
        return [ord(letter) for letter in text]

    def voices(self) -> dict[str, str]:
        return self.names

    def _made(self, job: str, what: Any, seconds: float, **asked: Any) -> Utterance:
        self.asked.append((job, what, asked))
        frames = int(seconds * 25)
        tone = np.sin(np.arange(int(seconds * RATE)) * 0.3).astype(np.float32) * 0.5
        codes = np.arange(8 * 2 * frames, dtype=np.uint16).reshape(8, -1) % 1024
        stages = {"semantic": 0.1, "coarse": 0.2, "fine": 0.1, "codec": 0.1}
        text = what if isinstance(what, str) else None
        return Utterance(tone, RATE, np.arange(frames, dtype=np.uint16), codes, text, stages, ("a note [/b]",))

    def speak(self, text: str, **asked: Any) -> Utterance:
        if not text.strip():
            raise ValueError("nothing to speak")
        if asked["voice"] not in (None, *self.names) and not Path(asked["voice"]).exists():
            raise ValueError(f"no voice: {', '.join(self.names)}")
        return self._made("speak", text, 2.0, **asked)

    def speak_all(self, texts: list[str], **asked: Any) -> Any:
        for text in texts:
            yield self.speak(text, **asked)

    def continue_(self, prompt: Path, *, seconds: float, settings: Settings) -> Utterance:
        return self._made("continue", prompt, seconds, settings=settings)

    def convert(self, source: Path, **asked: Any) -> Utterance:
        return self._made("convert", source, 2.0, **asked)

    def resynthesise(self, source: Path, **asked: Any) -> Utterance:
        return self._made("resynthesise", source, 2.0, **asked)


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch) -> type[FakeCascade]:
    module: Any = types.ModuleType("triptych.stages.cascade")
    module.Cascade, module.Settings, module.Utterance = FakeCascade, Settings, Utterance
    monkeypatch.setitem(sys.modules, "triptych.stages.cascade", module)
    return FakeCascade


@pytest.fixture
def run_line(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives the exit code, stdout and stderr."""

    def run(*line: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(line))
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), out, err

    return run
