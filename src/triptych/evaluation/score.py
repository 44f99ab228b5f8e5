"""Word error: what a recogniser hears in a recording against what should be said; how like a voice, how natural it is.

    {"audio": "a.wav", "text": "Twenty-two cats."} ─▶ hear "22 cats" ─▶ normalise both ─▶ 0 errors of 2 words
    {…, "voice": "b.wav"}                          ─▶ cosine of two speaker embeddings
    every recording, where it is asked for         ─▶ how natural it sounds

Both sides pass through Whisper's English normaliser (Radford et al. 2022, appendix C), so that numbers count as heard.
Knows no cascade: any recordings can be judged.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from triptych.evaluation.naturalness import Naturalness
from triptych.evaluation.recogniser import Recogniser
from triptych.evaluation.sound import is_silent
from triptych.evaluation.speaker import Speaker, similarity
from triptych.tokenizers.waveform import read_audio


@dataclass(frozen=True)
class Row:
    """A recording, and what should be heard in it."""

    audio: Path
    text: str
    voice: Path | None = None
    """a recording of the voice that it should have"""


@dataclass(frozen=True)
class Judged:
    """A recording as it was heard."""

    audio: Path
    text: str
    heard: str
    """normalised"""
    errors: int
    """words wrong, missing or too many"""
    words: int
    """of the normalised text"""
    similarity: float | None = None
    """cosine of speaker embeddings, -1 to 1; None where no voice was named"""
    naturalness: float | None = None
    """1 to 5; None where nobody rated it, or nothing sounds"""


@dataclass(frozen=True)
class Total:
    errors: int
    words: int
    similarity: float | None = None
    """mean over the rows that have one"""
    naturalness: float | None = None
    """likewise"""

    @classmethod
    def of(cls, rows: Sequence[Judged]) -> "Total":
        errors, words = sum(row.errors for row in rows), sum(row.words for row in rows)
        return cls(errors, words, _mean(row.similarity for row in rows), _mean(row.naturalness for row in rows))

    @property
    def word_error(self) -> float:
        """Errors a word; above 1 where more is heard than is said."""
        return self.errors / max(1, self.words)


def _mean(numbers: Iterable[float | None]) -> float | None:
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else None


def read_list(path: Path) -> list[Row]:
    """The rows of a JSONL file; audio is relative to it, or to the working folder.

    Raises:
        ValueError: a line that is no row, a recording that is missing, or no line at all.
        ModuleNotFoundError: the extra `eval` is not installed.
    """
    import jiwer  # noqa: F401  (so that its absence is known before hours of listening)

    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            raise ValueError(f'{path}, line {number}: give {{"audio": …, "text": …}} with a text that has words')
        audio = _find(row.audio, path, number)
        rows.append(Row(audio, row.text, _find(row.voice, path, number) if row.voice else None))
    if not rows:
        raise ValueError(f"{path} has no line")
    return rows


def _find(name: Path, listed: Path, number: int) -> Path:
    found = next((file for file in (listed.parent / name, name) if file.is_file()), None)
    if found is None:
        raise ValueError(f"{listed}, line {number}: no file {listed.parent / name}")
    return found


def _row(line: str) -> Row | None:
    try:
        found: Any = json.loads(line)
        audio, text = Path(found["audio"]), found["text"]
        voice = Path(found["voice"]) if found.get("voice") else None
        return Row(audio, text, voice) if any(c.isalnum() for c in text) else None
    except (ValueError, KeyError, TypeError):
        return None


def normaliser() -> Callable[[str], str]:
    """Lower case, no punctuation, numbers as digits, contractions written out, American spelling.

    What it returns raises ValueError where the list of spellings is not installed.
    """
    return lambda text: " ".join(str(_english()(text)).split())


@cache
def _english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    try:  # OpenAI's list, which transformers leaves to each checkpoint
        spellings = files("whisper_normalizer") / "normalizers" / "english.json"
    except ModuleNotFoundError:
        raise ValueError("words are counted with whisper-normalizer: pip install 'triptych[eval]'") from None
    normalise: Callable[[str], str] = EnglishTextNormalizer(json.loads(spellings.read_text(encoding="utf-8")))
    return normalise


def word_errors(
    rows: Sequence[Row],
    recogniser: Recogniser,
    speaker: Speaker | None = None,
    naturalness: Naturalness | None = None,
) -> Iterator[Judged]:
    """Judges recording after recording.

    Args:
        speaker: compares voices; needed where a row names one.
        naturalness: rates each recording that is not silent, as `evaluate` does.
    Raises:
        ValueError: a recording that cannot be read.
    """
    normalise = normaliser()
    for row in rows:
        waveform, rate = read_audio(row.audio)
        wanted, heard = normalise(row.text), normalise(recogniser.hear(waveform, rate))
        alike = None
        if row.voice is not None and speaker is not None:
            alike = similarity(speaker.embed(waveform, rate), speaker.embed(*read_audio(row.voice)))
        rated = None if naturalness is None or is_silent(waveform) else naturalness.rate(waveform, rate)
        yield Judged(row.audio, row.text, heard, count_errors(wanted, heard), len(wanted.split()), alike, rated)


def count_errors(wanted: str, heard: str) -> int:
    """Substitutions, deletions and insertions between two normalised texts."""
    import jiwer

    if not wanted or not heard:
        return len(wanted.split()) + len(heard.split())
    found = jiwer.process_words(wanted, heard)
    return int(found.substitutions + found.deletions + found.insertions)


def count_character_errors(wanted: str, heard: str) -> int:
    """`count_errors` in characters, the spaces between words among them."""
    import jiwer

    if not wanted or not heard:
        return len(wanted) + len(heard)
    found = jiwer.process_characters(wanted, heard)
    return int(found.substitutions + found.deletions + found.insertions)
