"""Recordings that the starter spoke, with its tokens: held-out clips without a corpus, a download or a judge; and a
cascade whose faults are known, with judges to hear them."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.corpus.manifest import Recording, write_manifest
from triptych.evaluation import judge
from triptych.evaluation.judges import Judges
from triptych.evaluation.sections import measures
from triptych.evaluation.subject import EvaluateConfig, Evaluation
from triptych.stages.bundle import Voice
from triptych.stages.cascade import Cascade
from triptych.stages.request import REACHED_LONGEST, Settings, Utterance
from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.waveform import Waveform, write_wav

SPOKEN = (
    ("af_heart", "Good morning.", "test"),
    ("am_fenrir", "Close the door.", "test"),
    ("af_heart", "Seven trees.", "train"),
    ("am_fenrir", "Nine boats.", "train"),
)
NOBODY = Judges(absent={kind: f"{kind}=none" for kind in ("recogniser", "speaker", "naturalness")})


@pytest.fixture(scope="session")
def starter() -> Cascade:
    return Cascade.load()


@pytest.fixture(scope="session")
def manifest(starter: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of two voices to judge, and another of each."""
    folder, clips = tmp_path_factory.mktemp("spoken"), []
    for number, (voice, text, split) in enumerate(SPOKEN):
        said = starter.speak(text, voice=voice)
        wav = folder / f"{number}.wav"
        write_wav(wav, said.waveform, said.sample_rate)
        clips.append(Recording(f"clip{number}", wav, said.seconds, text, voice, split))  # type: ignore[arg-type]
    write_manifest(folder / "manifest.jsonl", clips)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="session")
def evaluation(starter: Cascade, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Of the starter, without judges."""
    settings = EvaluateConfig(resamples=50, samples=0)
    return Evaluation(starter, manifest, settings, NOBODY, tmp_path_factory.mktemp("report"), lambda *said: None)


@pytest.fixture
def evaluation_of(evaluation: Evaluation, tmp_path: Path) -> Callable[..., Evaluation]:
    """The same clips with another cascade, other settings or other judges."""

    def changed(cascade: Cascade | None = None, judges: Judges = NOBODY, **settings: Any) -> Evaluation:
        return replace(
            evaluation,
            cascade=cascade or evaluation.cascade,
            judges=judges,
            folder=tmp_path / "report",
            settings=replace(evaluation.settings, **settings),
        )

    return changed


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


RATE, FRAMES = 4000, 25
TEXT = "red cats sleep under old trees"
SAID = {
    "good": (TEXT, TEXT),
    "loops": (TEXT + " now", "red cats sleep under old trees trees trees trees now"),
    "stops": (TEXT + " again", "red cats sleep"),
    "runs on": (TEXT + " today", TEXT + " today and then some more words"),
    "is silent": (TEXT + " here", ""),
}
"""what an utterance does -> its text, and what is heard"""


class Codec:
    """Two levels a sample: the high byte, then the low one; all samples of a frame are one code each."""

    spec = TokenizerSpec("acoustic", "bytes", 256, RATE, 1, 2, "bytes-1")

    def encode(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        whole = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int64) + 32768
        return np.stack([whole // 256, whole % 256]).astype(np.uint16)

    def decode(self, codes: np.ndarray, shift: np.ndarray | None = None) -> Waveform:
        low = codes[1].astype(np.int64) if len(codes) > 1 else 128
        sound = (codes[0].astype(np.int64) * 256 + low - 32768) / 32767
        return (sound if shift is None else sound + shift[0]).astype(np.float32)


CODEC = Codec()
HEAVY = ("swift_f0", "pystoi", "pesq")


def hum(seconds: float, level: float = 0.5) -> Waveform:
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * sum(np.sin(2 * np.pi * 110 * k * times + k) / k for k in range(1, 6)) / 2).astype(np.float32)


class FaultyCascade:
    """Says what SAID says, an utterance of its own length each, and counts what it is asked."""

    sample_rate = RATE
    settings = Settings()
    grid = types.SimpleNamespace(semantic_rate=FRAMES, beat=Fraction(1, FRAMES))
    stages: Any = {  # noqa: RUF012
        "semantic": (types.SimpleNamespace(expected_frames=lambda letters: FRAMES * 2), None),
        "fine": (types.SimpleNamespace(config=types.SimpleNamespace(coarse_levels=1)), None),
    }

    def __init__(self) -> None:
        self.asked = 0
        self.tokenizers: Any = types.SimpleNamespace(
            text=types.SimpleNamespace(encode=lambda text: np.zeros(len(text), np.uint16)),
            acoustic=CODEC,
            waveform=WaveformSpec(RATE, loudness=None),
        )

    def voices(self) -> dict[str, str]:
        return {"ada": "hello"}

    def named_voice(self, name: str) -> Voice:
        return Voice(np.zeros(25, np.uint16), CODEC.encode(hum(1.0, 0.9), RATE), "hello")

    def _made(
        self, waveform: Waveform, text: str | None = None, notes: tuple[str, ...] = (), loop: bool = False
    ) -> Utterance:
        self.asked += 1
        frames = len(waveform) * FRAMES // RATE
        tokens = np.arange(frames) % 10 if loop else np.arange(frames)
        stages = {"semantic": 0.1, "coarse": 0.2, "fine": 0.0, "codec": 0.1}
        codes = CODEC.encode(waveform, RATE)
        return Utterance(CODEC.decode(codes), RATE, tokens.astype(np.uint16), codes, text, stages, notes)

    def speak(self, text: str, **asked: Any) -> Utterance:
        (kind,) = [kind for kind, (wanted, _) in SAID.items() if wanted == text]
        seconds = 2 + 0.1 * list(SAID).index(kind)
        waveform = hum(seconds) if kind != "is silent" else np.zeros(round(seconds * RATE), np.float32)
        return self._made(waveform, text, (REACHED_LONGEST,) if kind == "runs on" else ())

    def speak_all(self, texts: Sequence[str], **asked: Any) -> Iterator[Utterance]:
        return (self.speak(text) for text in texts)

    def continue_all(self, prompts: Sequence[Path], *, seconds: float, **asked: Any) -> Iterator[Utterance]:
        for prompt in prompts:
            given = soundfile.read(prompt, dtype="float32")[0]
            yield self._made(np.concatenate([given, hum(seconds - 1), np.zeros(RATE, np.float32)]), loop=True)

    def convert_all(self, sources: Sequence[Path], **asked: Any) -> Iterator[Utterance]:
        for source in sources:
            yield self._made(soundfile.read(source, dtype="float32")[0] * np.float32(0.9 / 0.5))


class Ear:
    """Knows utterances by their length; everything else says 'red cats'."""

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        known = {round((2 + 0.1 * place) * RATE): heard for place, (_, heard) in enumerate(SAID.values())}
        return known.get(len(waveform), "red cats")


class Loudness:
    def embed(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        loud = float(np.abs(waveform).max())
        return np.array([loud, 1 - loud], dtype=np.float32)


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """Its pitch, PESQ and STOI are not measured: their own tests call them."""
    for place in (measures, judge):
        monkeypatch.setattr(place, "find_spec", lambda name: None if name in HEAVY else find_spec(name))
    rows = []
    for number, (split, speaker, seconds, level) in enumerate(
        [("train", "bob", 1.6, 0.5), ("test", "bob", 4.5, 0.5), ("test", "eve", 4.7, 0.2), ("test", None, 0.6, 0.5)]
    ):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, hum(seconds, level), RATE, subtype="PCM_16")
        rows.append(Recording(str(number), path, seconds, "Red cats." if number < 3 else None, speaker, split))  # type: ignore[arg-type]
    rows.append(replace(rows[1], id="part", start=1.0, seconds=2.5, speaker="eve", custom={"origin": "human"}))
    write_manifest(tmp_path / "manifest.jsonl", rows)
    (tmp_path / "texts").write_text("\n".join(text for text, _ in SAID.values()))
    settings = EvaluateConfig(
        sentences_file=str(tmp_path / "texts"), resamples=50, prompt_seconds=1.0, continued_seconds=3.0, samples=1
    )
    judges = Judges(Ear(), Loudness(), None, {"recogniser": "ear"}, {"naturalness": "no nose"})
    cascade: Any = FaultyCascade()
    return Evaluation(cascade, tmp_path / "manifest.jsonl", settings, judges, tmp_path / "out", lambda *said: None)


@pytest.fixture
def said() -> Mapping[str, tuple[str, str]]:
    """What an utterance of `subject` does, its text, and what is heard."""
    return SAID
