"""Ears: whatever turns a recording into words. Exchangeable; `load_recogniser` picks one by what the name is.

    hub id, transformers folder      transformers' speech recognition pipeline (Whisper, or any CTC model)
    CTranslate2 folder               faster-whisper, where it is installed

Knows no texts that should be heard.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from triptych.tokenizers.waveform import Waveform, resample

DEFAULT = "openai/whisper-base.en"
SAMPLE_RATE = 16_000
"""Hz, that every ear here hears at"""
WINDOW_SECONDS = 30.0
"""what Whisper hears at once"""
LOOP = 2.4
"""bytes a byte of what zlib leaves of a transcript: above it Whisper has run into a loop (Radford et al. 2022, section
4.5) and would write hundreds of words that nobody said; it is asked again, and may say no three tokens twice"""
NO_REPEAT = 3


class Recogniser(Protocol):
    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        """The words in a waveform [N]; empty where none are heard."""


@runtime_checkable
class SureRecogniser(Recogniser, Protocol):
    """One that also says how sure it is."""

    def hear_surely(self, waveform: Waveform, sample_rate: int) -> tuple[str, float | None]:
        """The words, and the mean log probability (nats) of what was written down; None where nothing was."""


@runtime_checkable
class ManyRecogniser(Recogniser, Protocol):
    """One that hears several waveforms side by side, with the words of each alone."""

    def hear_all(self, waveforms: Sequence[Waveform], sample_rate: int) -> Iterator[tuple[str, float | None]]:
        """As `SureRecogniser.hear_surely`, of each waveform [N]."""


def load_recogniser(name: str) -> Recogniser:
    """The recogniser that a folder or a hub id means.

    Raises:
        ValueError: a folder of neither kind, or one that needs a package that is missing.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ValueError(f"recogniser {name}: no such folder, and no hub id of the form owner/name")
        return TransformersRecogniser(name)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no recogniser: it has no config.json")
    if "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        return TransformersRecogniser(name)
    try:
        return FasterWhisper(folder)
    except ModuleNotFoundError:
        raise ValueError(f"{folder} is a CTranslate2 model: pip install faster-whisper") from None


class TransformersRecogniser:
    """A Whisper or CTC model through transformers, greedy.

    Only Whisper hears waveforms side by side: it pads each to the same window, alone or not. A CTC model would hear
    zeros behind the shorter ones, which changes what many of them write (those that take no attention mask).

    Raises:
        ValueError: no such model, here or on the hub.
    """

    def __init__(self, name: str) -> None:
        from transformers import pipeline

        try:
            self.pipeline: Any = pipeline("automatic-speech-recognition", model=name)
        except (OSError, ValueError) as error:
            raise ValueError(f"recogniser {name}: cannot be loaded: {str(error).splitlines()[0]}") from None
        config = self.pipeline.model.generation_config if self.pipeline.type == "seq2seq_whisper" else None
        self.whisper = config is not None
        self.language = {"language": "en", "task": "transcribe"} if getattr(config, "is_multilingual", False) else {}

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        if not self.whisper:
            return str(self.pipeline(prepared(waveform, sample_rate))["text"]).strip()
        return self._written([waveform], sample_rate, long=len(waveform) > WINDOW_SECONDS * sample_rate)[0]

    def hear_all(self, waveforms: Sequence[Waveform], sample_rate: int) -> Iterator[tuple[str, float | None]]:
        pads = self.whisper and self.pipeline.tokenizer.pad_token_id is not None
        short = [one for one in waveforms if pads and len(one) <= WINDOW_SECONDS * sample_rate]
        heard = iter(self._written(short, sample_rate) if short else [])
        for one in waveforms:
            fits = pads and len(one) <= WINDOW_SECONDS * sample_rate
            yield next(heard) if fits else self.hear(one, sample_rate), None

    def _written(self, waveforms: Sequence[Waveform], sample_rate: int, long: bool = False) -> list[str]:
        """What Whisper writes, all at once; `long`: one waveform, window by window."""
        sounds = [prepared(one, sample_rate) for one in waveforms]
        written = self._ask([dict(sound) for sound in sounds], long)
        if long:  # pages of prose shrink as loops do
            return written
        for place in [place for place, text in enumerate(written) if loops(text)]:
            (written[place],) = self._ask([sounds[place]], long, no_repeat_ngram_size=NO_REPEAT)
        return written

    def _ask(self, sounds: list[dict[str, Any]], long: bool, **more: Any) -> list[str]:
        how = {**self.language, "num_beams": 1, **more}
        found = self.pipeline(sounds, batch_size=len(sounds), return_timestamps=long, generate_kwargs=how)
        return [str(one["text"]).strip() for one in found]


def loops(text: str) -> bool:
    """Whether a transcript is a loop, by Whisper's own measure."""
    said = text.encode()
    return len(said) / len(zlib.compress(said)) > LOOP


def prepared(waveform: Waveform, sample_rate: int) -> dict[str, Any]:
    """As transformers' pipeline takes a waveform [N]."""
    return {"raw": resample(waveform, sample_rate, SAMPLE_RATE), "sampling_rate": SAMPLE_RATE}


class FasterWhisper:
    """A Whisper model in CTranslate2's format, computed in the fastest precision of the machine."""

    def __init__(self, folder: Path) -> None:
        from faster_whisper import WhisperModel

        self.model: Any = WhisperModel(str(folder), compute_type="auto")
        self.precision = str(self.model.model.compute_type)

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        return self.hear_surely(waveform, sample_rate)[0]

    def hear_surely(self, waveform: Waveform, sample_rate: int) -> tuple[str, float | None]:
        sound = resample(waveform, sample_rate, SAMPLE_RATE)
        how = {"language": "en", "temperature": 0.0, "condition_on_previous_text": False}
        parts = list(self.model.transcribe(sound, **how)[0])
        if any(part.compression_ratio > LOOP for part in parts):
            parts = list(self.model.transcribe(sound, **how, no_repeat_ngram_size=NO_REPEAT)[0])
        counts = [len(part.tokens) for part in parts]
        sure = sum(n * part.avg_logprob for n, part in zip(counts, parts, strict=True)) / max(1, sum(counts))
        return " ".join(part.text.strip() for part in parts), float(sure) if sum(counts) else None
