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

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.lm.blocks import PRECISIONS, Precision
from triptych.lm.decode import run
from triptych.stages.bundle import Voice, check_bundle, find_bundle, hear_voice, read_bundle, read_voices
from triptych.stages.request import Request, cut
from triptych.stages.rules import Rules
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.split import split_text
from triptych.stages.stream import stream
from triptych.stages.three import STAGES, load_stage
from triptych.stages.utterance import Settings, Utterance, share_time
from triptych.tokenizers.spec import TimeGrid
from triptych.tokenizers.trio import Tokenizers
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import build

__all__ = ["Cascade", "Settings", "Utterance", "find_bundle"]

LONGEST_TEXT = 50_000
"""characters of one request"""
LOT = 4
"""texts a slot that go through the stages together; their sound is there before the next lot begins"""
TAIL_SECONDS = 2.0
"""of a recording that is continued: heard as what was just said, not as a prompt"""


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
        tokenizers = Tokenizers.load(folder / "tokenizers")
        stages = {name: load_stage(folder / "stages" / name, device) for name in STAGES}
        check_bundle(folder, tokenizers, {name: stage for name, (stage, _) in stages.items()})
        settings = build(Settings, record["settings"], f"settings of {folder}")
        return cls(tokenizers, stages, read_voices(folder), settings, precision)

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
        voice: str | Path | Voice | None = None,
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
        voice: str | Path | Voice | None = None,
        voice_text: str | None = None,
        settings: Settings | None = None,
        seeds: Sequence[int] | None = None,
        slots: int = 8,
    ) -> Iterator[Utterance]:
        """Speaks each text as `speak` does, up to `slots` of them at a time; see there.

        Work of a stage that was done together is shared out by the tokens that came of it.

        Args:
            seeds: of each text; None: that of the settings for all.
        """
        asked = settings or self.settings
        each = [asked] * len(texts) if seeds is None else [replace(asked, seed=seed) for seed in seeds]
        pieces = [self.text_pieces(text) for text in texts]
        if not texts:
            return
        first = Request(self, each[0])
        spoken_by = self.voice(voice, voice_text, first)
        for start in range(0, len(texts), LOT * slots):
            lot = range(start, min(len(texts), start + LOT * slots))
            jobs = [first if number == 0 else Request(self, each[number]) for number in lot]
            said = self.say_all(jobs, [pieces[number] for number in lot], spoken_by, slots)
            coarse = self._coarse(jobs, said, spoken_by, slots)
            for number, job, semantic, codes in zip(lot, jobs, said, coarse, strict=True):
                yield job.decode(semantic, job.fill(codes, spoken_by), texts[number])

    def stream(
        self,
        text: str,
        *,
        voice: str | Path | Voice | None = None,
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

    def say_all(
        self, jobs: Sequence[Request], pieces: Sequence[list[NDArray[np.uint16]]], voice: Voice, slots: int
    ) -> list[NDArray[np.uint16]]:
        """Semantic tokens [T] of each job, for its pieces of text."""
        rule = self.rules.of(
            "semantic", sum(jobs[0].longest_frames(len(piece)) for each in pieces for piece in each) // 2
        )
        began = time.perf_counter()
        for _ in run(rule, [job.say(each, voice) for job, each in zip(jobs, pieces, strict=True)], slots):
            pass
        said = [job.said() for job in jobs]
        share_time("semantic", time.perf_counter() - began, jobs, [len(tokens) for tokens in said])
        return said

    def _coarse(
        self, jobs: Sequence[Request], said: Sequence[NDArray[np.uint16]], voice: Voice, slots: int
    ) -> list[NDArray[np.uint16]]:
        works = [job.coarse_work(voice) for job in jobs]
        for work, semantic in zip(works, said, strict=True):
            work.semantic, work.ended = semantic, True
        rule = self.rules.of("coarse", sum(map(len, said)))
        began = time.perf_counter()
        for _ in run(rule, [work.job(rule) for work in works], slots):
            pass
        share_time("coarse", time.perf_counter() - began, jobs, [work.made.shape[1] for work in works])
        return [work.made for work in works]

    def continue_(self, prompt: Path, *, seconds: float = 5.0, settings: Settings | None = None) -> Utterance:
        """Goes on for `seconds` where a recording ends; the result begins with the recording.

        Raises:
            ValueError: a recording that cannot be heard, or `seconds` not between a beat and 60.
        """
        job = Request(self, settings)
        if not float(self.grid.beat) <= seconds <= 60:
            raise ValueError(f"seconds={seconds}: give {float(self.grid.beat)} to 60")
        heard = self._hear(prompt, job)
        new = job.freely(heard.semantic, self.grid.beats(seconds))
        given = cut(heard, self.grid.beats(TAIL_SECONDS + job.settings.prompt_seconds), self.grid, end=True)
        beats = len(given.semantic) // self.grid.semantic_per_beat
        tail = cut(given, min(self.grid.beats(TAIL_SECONDS), beats // 2), self.grid, end=True)
        voice = cut(given, beats - len(tail.semantic) // self.grid.semantic_per_beat, self.grid)
        return job.utter(np.concatenate([tail.semantic, new]), voice, before=heard, made=tail.codes)

    def convert(self, source: Path, *, voice: str | Path, settings: Settings | None = None) -> Utterance:
        """What `source` says, as it says it, in another voice. The semantic stage has no part in it.

        Raises:
            ValueError: a recording that cannot be heard.
        """
        job = Request(self, settings)
        said = self._hear(source, job)
        return job.utter(said.semantic, self.voice(voice, None, job))

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

    def voice(self, voice: str | Path | Voice | None, text: str | None, job: "Request") -> Voice:
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

    def _hear(self, path: Path, job: "Request") -> Voice:
        with job.clock("tokenizers"):
            tokens = self.tokenizers.tokens(self.tokenizers.prepare_file(path))
            return Voice(tokens.semantic, tokens.codes, None)
