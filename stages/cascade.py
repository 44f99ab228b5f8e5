"""The three stages in a row. Reads like the drawing:

    text ──front end──▶ text tokens
                            │  1 semantic        what is said, and how
                            ▼
                     semantic tokens [T]
                            │  2 coarse          who says it, and where       ◀── voice prompt
                            ▼
                     codes [coarse levels, T']
                            │  3 fine            the last detail of the sound ◀── voice prompt
                            ▼
                     codes [Q, T'] ──EnCodec──▶ waveform

Four jobs: speak a text, continue a recording, convert it into another voice, resynthesise it from any level down.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.lm import native
from triptych.lm.blocks import PRECISIONS, Precision
from triptych.stages.bundle import Voice, check_bundle, find_bundle, hear_voice, read_bundle, read_voices
from triptych.stages.request import Request
from triptych.stages.rules import Rules
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.split import split_text
from triptych.stages.stream import stream
from triptych.stages.takes import Proofreader
from triptych.stages.three import STAGES, load_stage
from triptych.stages.together import Draft, go_on_all, lots, say_all, utter_all
from triptych.stages.utterance import Settings, Utterance
from triptych.tokenizers.spec import TimeGrid
from triptych.tokenizers.trio import Tokenizers
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import build

__all__ = ["Cascade", "Settings", "Utterance", "find_bundle"]

LONGEST_TEXT = 50_000
"""characters of one request"""
LONGEST_CONTINUED = 60.0
"""seconds that a recording is continued by"""
Asked = str | Path | Voice | None
"""a voice: its name, a recording, or one that is tokenized; None: the first named one"""


class Cascade:
    """Three trained stages and their tokenizers."""

    def __init__(
        self,
        tokenizers: Tokenizers,
        stages: Mapping[str, tuple[Any, Any]],
        voices: Mapping[str, Voice],
        settings: Settings,
        precision: Precision = "fp32",
    ) -> None:
        self.tokenizers, self.stages, self._voices, self.settings = tokenizers, dict(stages), dict(voices), settings
        self.rules = Rules(self.stages, precision)
        self.grid: TimeGrid = tokenizers.grid
        self.sample_rate = tokenizers.acoustic.spec.sample_rate

    @classmethod
    def load(cls, path: Path | str | None = None, device: str = "cpu", precision: Precision = "fp32") -> "Cascade":
        """A bundle folder or hub id; None: the starter, the small cascade in the package.

        Args:
            precision: of the weights on a CPU: fp32, or bf16 or int8, which are faster.
        Raises:
            ValueError: no bundle there, its parts do not belong together, or no such precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision '{precision}': choose one of {', '.join(PRECISIONS)}")
        folder = find_bundle(path)
        record = read_bundle(folder)
        if device == "cpu":
            native.begin()
        tokenizers = Tokenizers.load(folder / "tokenizers")
        stages = {name: load_stage(folder / "stages" / name, device) for name in STAGES}
        check_bundle(folder, tokenizers, {name: stage for name, (stage, _) in stages.items()})
        settings = build(Settings, record["settings"], f"settings of {folder}")
        return cls(tokenizers, stages, read_voices(folder), settings, precision)

    @cached_property
    def proofreader(self) -> Proofreader:
        """What chooses among `semantic_takes`.

        Raises:
            ValueError: these tokens know no phonemes.
        """
        return Proofreader(self.tokenizers)

    def voices(self) -> dict[str, str]:
        """Named voices, and what each says in its prompt."""
        return {name: voice.text or "" for name, voice in self._voices.items()}

    def named_voice(self, name: str) -> Voice:
        """The tokens of a voice of `voices`."""
        return self._voices[name]

    def speak(
        self,
        text: str,
        *,
        voice: Asked = None,
        voice_text: str | None = None,
        settings: Settings | None = None,
    ) -> Utterance:
        """Speaks `text`.

        Args:
            voice: a named voice, a recording of 0.5 to 30 s, or one that is tokenized; None: the first named voice.
            voice_text: what is said in that recording; it prompts the semantic stage too, where that was trained so.
        Raises:
            ValueError: a text that is empty, too long or cannot be spoken; a voice that cannot be heard.
        """
        return next(self.speak_all([text], voice=voice, voice_text=voice_text, settings=settings))

    def speak_all(
        self,
        texts: Sequence[str],
        *,
        voice: Asked = None,
        voice_text: str | None = None,
        voices: Sequence[Asked] | None = None,
        settings: Settings | None = None,
        seeds: Sequence[int] | None = None,
        slots: int = 8,
    ) -> Iterator[Utterance]:
        """Speaks each text as `speak` does, up to `slots` of them at a time; see there.

        Work of a stage that was done together is shared out by the tokens that came of it.

        Args:
            voices: of each text, in the place of `voice`.
            seeds: of each text; None: that of the settings for all.
        """
        pieces = [self.text_pieces(text) for text in texts]
        asked = zip(texts, pieces, voices or [voice] * len(texts), self._each(texts, settings, seeds), strict=True)
        known: dict[Asked, Voice] = {}
        for lot in lots(asked, slots):
            jobs = [Request(self, sampled) for *_, sampled in lot]
            who = [self._once(known, each[2], voice_text, job) for each, job in zip(lot, jobs, strict=True)]
            said = say_all(jobs, [each[1] for each in lot], who, slots)
            yield from utter_all(map(Draft, jobs, said, who, [each[0] for each in lot]), slots)

    def stream(
        self,
        text: str,
        *,
        voice: Asked = None,
        voice_text: str | None = None,
        settings: Settings | None = None,
    ) -> Iterator[Waveform]:
        """The waveform of `speak`, piece by piece, while the rest is being made: [n] each, at `sample_rate`.

        The tokens are those of `speak`; the sound is decoded in pieces and agrees within -60 dB. Short windows
        (`first_seconds=2`) sound earlier.

        Raises:
            ValueError: as `speak`, before the first piece.
        """
        job = Request(self, settings)
        pieces = self.text_pieces(text)
        return stream(job, pieces, self.voice(voice, voice_text, job))

    def replace(self, name: str, stage: Any, model: Any) -> None:
        """Another stage, or the same one with other weights, in the place of `name`."""
        self.stages[name] = (stage, model)
        self.rules.forget(name)

    def continue_(self, prompt: Path, *, seconds: float = 5.0, settings: Settings | None = None) -> Utterance:
        """Goes on for `seconds` where a recording ends; the result begins with the recording.

        Raises:
            ValueError: a recording that cannot be heard, or `seconds` not between a beat and 60.
        """
        return next(self.continue_all([prompt], seconds=seconds, settings=settings))

    def continue_all(
        self,
        prompts: Sequence[Path],
        *,
        seconds: float = 5.0,
        settings: Settings | None = None,
        seeds: Sequence[int] | None = None,
        slots: int = 8,
    ) -> Iterator[Utterance]:
        """Continues each recording as `continue_` does, up to `slots` of them at a time; see there, and `speak_all`."""
        if not float(self.grid.beat) <= seconds <= LONGEST_CONTINUED:
            raise ValueError(f"seconds={seconds}: give {float(self.grid.beat)} to {LONGEST_CONTINUED:g}")
        for lot in lots(zip(prompts, self._each(prompts, settings, seeds), strict=True), slots):
            jobs = [Request(self, sampled) for _, sampled in lot]
            heard = [self._hear(prompt, job) for (prompt, _), job in zip(lot, jobs, strict=True)]
            new = go_on_all(jobs, [one.semantic for one in heard], self.grid.beats(seconds), slots)
            yield from utter_all(map(Request.after, jobs, heard, new), slots)

    def convert(self, source: Path, *, voice: Asked, settings: Settings | None = None) -> Utterance:
        """What `source` says, as it says it, in another voice. The semantic stage has no part in it.

        Raises:
            ValueError: a recording that cannot be heard.
        """
        return next(self.convert_all([source], voices=[voice], settings=settings))

    def convert_all(
        self,
        sources: Sequence[Path],
        *,
        voices: Sequence[Asked],
        settings: Settings | None = None,
        seeds: Sequence[int] | None = None,
        slots: int = 8,
    ) -> Iterator[Utterance]:
        """Converts each recording into a voice of its own as `convert` does, up to `slots` of them at a time; see
        there, and `speak_all`."""
        known: dict[Asked, Voice] = {}

        def draft(source: Path, voice: Asked, sampled: Settings) -> Draft:
            job = Request(self, sampled)
            return Draft(job, self._hear(source, job).semantic, self._once(known, voice, None, job))

        each = zip(sources, voices, self._each(sources, settings, seeds), strict=True)
        return utter_all((draft(*asked) for asked in each), slots)

    def resynthesise(
        self, source: Path, *, level: str, voice: str | Path | None = None, settings: Settings | None = None
    ) -> Utterance:
        """`source` with all below `level` made anew: "codes" (codec alone), "coarse" (fine stage), "semantic" (both).

        Args:
            voice: the prompt; None: the first seconds of the source itself.
        Raises:
            ValueError: a recording that cannot be heard, or no such level.
        """
        job = Request(self, settings)
        said = self._hear(source, job)
        prompt = said if voice is None else self.voice(voice, None, job)
        if level == "semantic":
            return job.utter(said.semantic, prompt)
        if level == "coarse":
            return job.utter(said.semantic, prompt, coarse=said.codes)
        if level == "codes":
            return job.decode(said.semantic, said.codes)
        raise ValueError(f"level '{level}': choose codes, coarse or semantic")

    def text_pieces(self, text: str) -> list[NDArray[np.uint16]]:
        """Text tokens [L] of each piece of a text that the semantic stage can speak in one go."""
        front_end = self.tokenizers.text
        if front_end is None:
            raise ValueError("this cascade has no text front end: it continues, converts and resynthesises")
        if not text.strip():
            raise ValueError("the text is empty: give something to say")
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"the text has {len(text)} characters: give at most {LONGEST_TEXT} at a time")
        stage = self.stages["semantic"][0]
        longest = stage.config.max_seconds * 0.6 * float(self.grid.semantic_rate)

        def too_long(tokens: NDArray[np.uint16]) -> bool:
            return bool(stage.expected_frames(len(tokens)) > longest)

        return split_text(text, front_end.encode, too_long)

    def voice(self, voice: Asked, text: str | None, job: Request) -> Voice:
        """A named voice, one from a recording, or one that is tokenized already."""
        if isinstance(voice, Voice):
            return voice
        if voice is None:
            empty = np.zeros((self.tokenizers.acoustic.spec.levels, 0), np.uint16)
            return next(iter(self._voices.values()), Voice(NOTHING, empty, None))
        if str(voice) in self._voices:
            return self._voices[str(voice)]
        if not Path(voice).exists():
            known = ", ".join(self._voices) or "none"
            raise ValueError(f"voice '{voice}' is neither a recording nor a named voice (named: {known})")
        with job.clock("tokenizers"):
            return hear_voice(self.tokenizers, Path(voice), text)

    def _each(self, asked: Sequence[object], settings: Settings | None, seeds: Sequence[int] | None) -> list[Settings]:
        """How each of many requests is sampled."""
        all_alike = settings or self.settings
        if seeds is not None and len(seeds) != len(asked):
            raise ValueError(f"{len(seeds)} seeds for {len(asked)} requests: give one each")
        return [all_alike] * len(asked) if seeds is None else [replace(all_alike, seed=seed) for seed in seeds]

    def _once(self, known: dict[Asked, Voice], voice: Asked, text: str | None, job: Request) -> Voice:
        """`voice`, where many requests may ask for the same recording."""
        if isinstance(voice, Voice):
            return voice
        if voice not in known:
            known[voice] = self.voice(voice, text, job)
        return known[voice]

    def _hear(self, path: Path, job: Request) -> Voice:
        with job.clock("tokenizers"):
            tokens = self.tokenizers.tokens(self.tokenizers.prepare_file(path))
            return Voice(tokens.semantic, tokens.codes, None)
