"""The judges of an evaluation: who hears the words, whose voice it is, how natural it sounds; each may be missing.

    names in the settings ─▶ load_judges ─▶ Judges(recogniser, speaker, naturalness)
                                               │ each remembers what it said of a waveform, by content
                                               ▼
                                        CACHE/judged.jsonl      {"key": sha256, "said": "good morning"}

Invariant: a judge that is missing is `None`, and `absent` says why; nothing is measured in its place. Knows no cascade.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from triptych.evaluation import sound
from triptych.evaluation.naturalness import ABSENT, Dnsmos, Naturalness
from triptych.evaluation.recogniser import FasterWhisper, ManyRecogniser, Recogniser, SureRecogniser, load_recogniser
from triptych.evaluation.speaker import RESEMBLYZER, Embedding, Speaker, load_speaker
from triptych.tokenizers.waveform import Waveform
from triptych.training.files import file_digest

NONE = "none"
NO_SPEAKER = "no speaker encoder: pip install resemblyzer 'setuptools<81', or name a model with speaker="
WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Judges:
    """Who judges."""

    recogniser: Recogniser | None = None
    speaker: Speaker | None = None
    naturalness: Naturalness | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """'recogniser', 'speaker', 'naturalness' -> model, package and version"""
    absent: Mapping[str, str] = field(default_factory=dict)
    """likewise -> why there is none"""


class Memory:
    """What judges said, by content; a JSONL file, to which a line is added at once, so that a kill loses nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
                self.known[row["key"]] = row["said"]
            except (ValueError, KeyError, TypeError):  # a line cut short by a kill
                continue

    def key(self, judge: str, waveform: Waveform, sample_rate: int) -> str:
        """Of what a judge says of a waveform [N], in `known` once it was said."""
        digest = hashlib.sha256(json.dumps([judge, sample_rate]).encode())
        digest.update(np.ascontiguousarray(waveform, np.float32).tobytes())
        return digest.hexdigest()

    def ask(self, judge: str, waveform: Waveform, sample_rate: int, answer: Callable[[], Any]) -> Any:
        """What `answer` says, or said before of the same waveform [N] in the name of the same judge."""
        key = self.key(judge, waveform, sample_rate)
        if key not in self.known:
            self.known[key] = answer()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "said": self.known[key]}) + "\n")
        return self.known[key]


@dataclass(frozen=True)
class RememberingRecogniser:
    """A recogniser that hears no waveform twice; silence has no words, whatever a recogniser dreams in it."""

    judge: Recogniser
    name: str
    memory: Memory

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        return self.hear_surely(waveform, sample_rate)[0]

    def hear_surely(self, waveform: Waveform, sample_rate: int) -> tuple[str, float | None]:
        """The words, and how sure the judge is; None where it does not say."""
        if sound.is_silent(waveform):
            return "", None

        def answer() -> list[Any]:
            if isinstance(self.judge, SureRecogniser):
                return list(self.judge.hear_surely(waveform, sample_rate))
            return [self.judge.hear(waveform, sample_rate), None]

        text, sure = self.memory.ask(self.name, waveform, sample_rate, answer)
        return str(text), sure

    @property
    def hears_many(self) -> bool:
        """Whether it is worth while to `hear_ahead`."""
        return isinstance(self.judge, ManyRecogniser)

    def hear_ahead(self, waveforms: Iterable[Waveform], sample_rate: int, slots: int) -> None:
        """Has a judge that can hear what it has not heard yet, `slots` waveforms side by side; for the others nothing
        changes."""
        if not isinstance(self.judge, ManyRecogniser):
            return
        keys = ((self.memory.key(self.name, one, sample_rate), one) for one in waveforms if not sound.is_silent(one))
        new = list({key: one for key, one in keys if key not in self.memory.known}.values())
        for start in range(0, len(new), slots):
            some = new[start : start + slots]
            for one, said in zip(some, self.judge.hear_all(some, sample_rate), strict=True):
                self.memory.ask(self.name, one, sample_rate, partial(list, said))


@dataclass(frozen=True)
class RememberingSpeaker:
    """A speaker encoder that hears no waveform twice."""

    judge: Speaker
    name: str
    memory: Memory

    def embed(self, waveform: Waveform, sample_rate: int) -> Embedding:
        def answer() -> list[float]:
            return [float(f"{number:.7g}") for number in self.judge.embed(waveform, sample_rate)]

        return np.asarray(self.memory.ask(self.name, waveform, sample_rate, answer), np.float32)


@dataclass(frozen=True)
class RememberingNaturalness:
    """A predictor that hears no waveform twice."""

    judge: Naturalness
    name: str
    memory: Memory

    def rate(self, waveform: Waveform, sample_rate: int) -> float:
        return float(self.memory.ask(self.name, waveform, sample_rate, lambda: self.judge.rate(waveform, sample_rate)))


def load_judges(recogniser: str, speaker: str, naturalness: str, memory: Memory) -> Judges:
    """The judges that the names mean; one whose package is missing, or whose name is 'none', is absent.

    Raises:
        ValueError: a model that cannot be loaded.
    """
    names = {
        "recogniser": described(recogniser, "transformers"),
        "speaker": described(speaker, "resemblyzer" if speaker == RESEMBLYZER else "transformers"),
        "naturalness": described("DNSMOS P.835", "speechmos"),
    }
    said = {"recogniser": recogniser, "speaker": speaker, "naturalness": naturalness}
    absent = {kind: f"{kind}={NONE}" for kind, name in said.items() if name == NONE}
    gone = {
        "recogniser": missing(
            ("jiwer", "whisper_normalizer"), "word error needs packages: pip install 'triptych[eval]'"
        ),
        "speaker": missing(("resemblyzer",) if speaker == RESEMBLYZER else (), NO_SPEAKER),
        "naturalness": missing(("speechmos", "librosa", "onnxruntime", "requests"), ABSENT),
    }
    absent |= {kind: why for kind, why in gone.items() if why and kind not in absent}
    ear = voice = mos = None
    if "recogniser" not in absent:
        loaded = or_none("recogniser", load_recogniser, recogniser)
        if isinstance(loaded, FasterWhisper):
            names["recogniser"] = f"{described(recogniser, 'faster-whisper')}, {loaded.precision}"
        ear = RememberingRecogniser(loaded, names["recogniser"], memory)
    if "speaker" not in absent:
        voice = RememberingSpeaker(or_none("speaker", load_speaker, speaker), names["speaker"], memory)
    if "naturalness" not in absent:
        mos = RememberingNaturalness(Dnsmos(), names["naturalness"], memory)
    return Judges(ear, voice, mos, {kind: name for kind, name in names.items() if kind not in absent}, absent)


def or_none(kind: str, load: Callable[[str], Any], name: str) -> Any:
    """What `load` makes of a name; where it cannot, its line says that one can do without."""
    try:
        return load(name)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}: name a folder or a hub id, or say {kind}={NONE}") from None


def missing(modules: Sequence[str], why: str) -> str | None:
    """`why`, where one of the modules is not installed."""
    return None if all(find_spec(module) for module in modules) else why


def described(model: str, package: str) -> str:
    """'whisper-base (3fa1c2d4), faster-whisper 1.2.1': a folder by its name and its weights, a hub id as it is."""
    try:
        with_version = f"{package} {version(package)}"
    except PackageNotFoundError:
        with_version = package
    folder = Path(model)
    if not folder.is_dir():
        return with_version if model == package else f"{model}, {with_version}"
    weights = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    digest = "+".join(file_digest(path)[:8] for path in weights)
    return (
        f"{folder.resolve().name} ({digest}), {with_version}" if digest else f"{folder.resolve().name}, {with_version}"
    )
