"""All that can be said of a made waveform beside the one that was given: the measures, and the judge who takes them.

    Clip(given [N], text) ─┐
                           ├─▶ Judge.judge ─▶ {"si_sdr": (8.1, 1), "words": (0.25, 12), …}     value and weight
    made [N] ──────────────┘                  + why there is no number, for those that have none

Invariant: what cannot be measured has no entry, so that it never counts as zero. Knows no codec.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from triptych.evaluation import sound
from triptych.evaluation.naturalness import Dnsmos
from triptych.evaluation.recogniser import Recogniser
from triptych.evaluation.score import count_errors, normaliser
from triptych.evaluation.speaker import Embedding, Speaker, similarity
from triptych.tokenizers.waveform import Waveform, resample

RATE = sound.PESQ_RATE
"""Hz, at which all but SI-SDR and the log-mel distance hear"""
CACHE_FORMAT = 2


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    title: str
    unit: str
    digits: int
    """after the point"""
    rising: bool
    """whether more is better"""
    packages: tuple[str, ...] = ()
    """modules without which there is no number"""
    remedy: str = ""
    """what to do where they are missing"""
    compares: bool = True
    """whether it needs the given waveform, so that the recording itself has no number"""


EVAL, DNSMOS = "pip install 'triptych[eval]'", "pip install 'triptych[dnsmos]'"
MEASURES: dict[str, Measure] = {
    "si_sdr": Measure("SI-SDR", "dB", 1, True),
    "pesq": Measure("PESQ", "MOS", 2, True, ("pesq",), "pip install 'triptych[pesq]' (mind its licence)"),
    "stoi": Measure("STOI", "", 3, True, ("pystoi",), EVAL),
    "estoi": Measure("ESTOI", "", 3, True, ("pystoi",), EVAL),
    "mel": Measure("log-mel", "dB", 2, False),
    "words": Measure("word error", "", 3, False, ("jiwer", "whisper_normalizer"), EVAL, compares=False),
    "voice": Measure("voice", "cosine", 3, True),
    "pitch": Measure("pitch", "cents", 1, False, ("swift_f0",), EVAL),
    "voicing": Measure("voicing", "share", 3, False, ("swift_f0",), EVAL),
    "dnsmos": Measure("DNSMOS", "MOS", 2, True, ("speechmos", "librosa", "requests"), DNSMOS, compares=False),
}
NO_NUMBER = {
    "si_sdr": "no sound",
    "pesq": "no utterance found",
    "stoi": "less than 0.4 s of sound",
    "estoi": "less than 0.4 s of sound",
    "words": "no text",
    "voice": "no voice found",
    "pitch": "no frame voiced in both",
}
"""measure -> why a clip may have none"""


@dataclass(frozen=True)
class Clip:
    """A recording, and what is known of it."""

    name: str
    waveform: Waveform
    """[N], prepared"""
    text: str | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class Scores:
    """What was measured of one made waveform."""

    numbers: dict[str, tuple[float, float]]
    """measure -> value, weight"""
    reasons: dict[str, str]
    """measure -> why it has no number here"""


def absent_measures(recogniser: bool, speaker: bool) -> dict[str, str]:
    """Measure -> why it cannot be taken here at all."""
    gone = {
        name: f"no package {' and '.join(missing)}: {measure.remedy}"
        for name, measure in MEASURES.items()
        if (missing := [package for package in measure.packages if find_spec(package) is None])
    }
    if not recogniser:
        gone["words"] = "recogniser=none"
    if not speaker:
        gone["voice"] = "speaker=none"
    return gone


class Judge:
    """Takes every measure that is not `absent`.

    Args:
        mel: distance in dB of two waveforms [N] at the rate of the clips.
        cache: a JSONL file that remembers what was measured, by content; None remembers nothing.
        ears: names of recogniser and speaker encoder, part of what is remembered.
    """

    def __init__(
        self,
        sample_rate: int,
        mel: Callable[[Waveform, Waveform], float],
        absent: Mapping[str, str],
        recogniser: Recogniser | None = None,
        speaker: Speaker | None = None,
        cache: Path | None = None,
        ears: str = "",
    ) -> None:
        self.sample_rate, self.mel, self.absent = sample_rate, mel, dict(absent)
        self.recogniser, self.speaker, self.normalise = recogniser, speaker, normaliser()
        self.pitch = None if "pitch" in absent else sound.PitchTracker()
        self.cache, self.ears = cache, ears
        self._known = read_cache(cache) if cache else {}
        self._given: tuple[Clip, Waveform, Embedding | None, sound.Melody | None] | None = None

    def judge(self, clip: Clip, made: Waveform, compare: bool = True) -> Scores:
        """Every measure of `made` [N]; without `compare`, those alone that need no given waveform."""
        wanted = [name for name, m in MEASURES.items() if name not in self.absent and (compare or not m.compares)]
        key = self._key(clip, made, wanted)
        if key in self._known:
            return self._known[key]
        values = self._words(clip, made) if "words" in wanted else {}
        values |= self._mos(made) if "dnsmos" in wanted else {}
        if compare:
            values |= self._compared(clip, made, wanted)
        numbers = {name: value for name, value in values.items() if value is not None}
        scores = Scores(numbers, {name: NO_NUMBER[name] for name in wanted if name not in numbers})
        self._remember(key, scores)
        return scores

    def embed(self, waveform: Waveform) -> Embedding | None:
        """Whose voice it is; None where the encoder finds none."""
        if self.speaker is None or sound.is_silent(waveform):
            return None
        found = self.speaker.embed(waveform, self.sample_rate)
        return found if np.isfinite(found).all() and np.abs(found).max() > 0 else None

    def _words(self, clip: Clip, made: Waveform) -> dict[str, tuple[float, float] | None]:
        wanted = self.normalise(clip.text or "")
        if not wanted or self.recogniser is None:
            return {}
        heard = self.normalise(self.recogniser.hear(made, self.sample_rate))
        words = len(wanted.split())
        return {"words": (count_errors(wanted, heard) / words, words)}

    def _mos(self, made: Waveform) -> dict[str, tuple[float, float] | None]:
        return {"dnsmos": (Dnsmos().rate(made, self.sample_rate), 1.0)}

    def _compared(self, clip: Clip, made: Waveform, wanted: list[str]) -> dict[str, tuple[float, float] | None]:
        given, low_given, voice, melody = self._reference(clip)
        found: dict[str, float | None] = {}
        moved = sound.align(made, given.waveform, self.sample_rate)
        low = resample(moved, self.sample_rate, RATE)
        found["si_sdr"] = sound.si_sdr(moved, given.waveform)
        found["mel"] = self.mel(moved, given.waveform)
        if "pesq" in wanted:
            found["pesq"] = sound.pesq_wideband(low, low_given)
        if "stoi" in wanted:
            found["stoi"] = sound.stoi(low, low_given, RATE)
            found["estoi"] = sound.stoi(low, low_given, RATE, extended=True)
        if self.pitch is not None and melody is not None:
            found["pitch"], found["voicing"] = sound.pitch_error(self.pitch.track(low), melody)
        if voice is not None and (own := self.embed(made)) is not None:
            found["voice"] = similarity(own, voice)
        return {name: None if value is None else (value, 1.0) for name, value in found.items()}

    def _reference(self, clip: Clip) -> tuple[Clip, Waveform, Embedding | None, sound.Melody | None]:
        """What every made waveform of a clip is held against; the last clip's is kept."""
        if self._given is None or self._given[0] is not clip:
            low = resample(clip.waveform, self.sample_rate, RATE)
            melody = self.pitch.track(low) if self.pitch else None
            self._given = clip, low, self.embed(clip.waveform), melody
        return self._given

    def _key(self, clip: Clip, made: Waveform, wanted: list[str]) -> str:
        said = json.dumps([CACHE_FORMAT, self.sample_rate, self.ears, clip.text, wanted])
        digest = hashlib.sha256(said.encode())
        for waveform in (clip.waveform, made):
            digest.update(np.ascontiguousarray(waveform, np.float32).tobytes())
        return digest.hexdigest()

    def _remember(self, key: str, scores: Scores) -> None:
        self._known[key] = scores
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, **asdict(scores)}) + "\n")


def read_cache(path: Path) -> dict[str, Scores]:
    """What a judge wrote; a line cut short by a crash is forgotten."""
    known: dict[str, Scores] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row: dict[str, Any] = json.loads(line)
            numbers = {name: (float(value), float(weight)) for name, (value, weight) in row["numbers"].items()}
            known[row["key"]] = Scores(numbers, row["reasons"])
        except (ValueError, KeyError, TypeError):
            continue
    return known
