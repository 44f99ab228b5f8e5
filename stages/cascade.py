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
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.lm.sampling import Sampling
from triptych.stages.bundle import Voice, check_bundle, hear_voice, read_bundle, read_voices
from triptych.stages.coarse.generate import generate_coarse
from triptych.stages.fine.generate import generate_fine
from triptych.stages.semantic.generate import generate_semantic
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.span import PromptConfig, Span
from triptych.stages.split import split_text
from triptych.stages.three import STAGES, load_stage
from triptych.tokenizers.spec import TimeGrid
from triptych.tokenizers.trio import Tokenizers
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import STRICT, build

LONGEST_TEXT = 5_000
"""characters of one request"""
TAIL_SECONDS = 2.0
"""of a recording that is continued: heard as what was just said, not as a prompt"""


@config_dataclass(frozen=True, config=STRICT)
class Settings:
    """How a cascade is sampled."""

    seed: int = 0
    """each stage has a stream of its own; the same seed gives the same sound on the same machine type"""
    semantic: Sampling = Sampling(temperature=0.7, top_p=0.9)
    """of the semantic stage"""
    coarse: Sampling = Sampling(temperature=0.8)
    """of the coarse stage"""
    fine: Sampling = Sampling(temperature=0.0)
    """of the fine stage"""
    prompt_seconds: float = 3.0
    """how much of a voice prompt the coarse and fine stages hear"""
    shortest: float = 0.5
    """least length of speech, as a share of what the text should take"""
    longest: float = 2.0
    """greatest length, likewise"""


@dataclass(frozen=True)
class Utterance:
    """What a cascade made; its tokens and its waveform cover the same time."""

    waveform: Waveform
    """[N] mono"""
    sample_rate: int
    """Hz"""
    semantic: NDArray[np.uint16]
    """[T]"""
    codes: NDArray[np.uint16]
    """[Q, T']"""
    text: str | None = None
    """what was to be said"""
    seconds_by_stage: Mapping[str, float] = field(default_factory=dict)
    """work, per stage"""
    notes: tuple[str, ...] = ()
    """what a listener should know: a prompt cut short, a length limit reached"""

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


class Cascade:
    """Three trained stages and their tokenizers."""

    def __init__(
        self,
        tokenizers: Tokenizers,
        stages: Mapping[str, tuple[Any, Any]],
        voices: Mapping[str, Voice],
        settings: Settings,
    ) -> None:
        self.tokenizers, self.stages, self._voices, self.settings = tokenizers, dict(stages), dict(voices), settings
        self.grid: TimeGrid = tokenizers.grid
        self.sample_rate = tokenizers.acoustic.spec.sample_rate

    @classmethod
    def load(cls, path: Path | str | None = None, device: str = "cpu") -> "Cascade":
        """A bundle folder or hub id; None: the starter, the small cascade in the package.

        Raises:
            ValueError: no bundle there, or its parts do not belong together.
        """
        folder = _find_bundle(path)
        record = read_bundle(folder)
        tokenizers = Tokenizers.load(folder / "tokenizers")
        stages = {name: load_stage(folder / "stages" / name, device) for name in STAGES}
        check_bundle(folder, tokenizers, {name: stage for name, (stage, _) in stages.items()})
        settings = build(Settings, record["settings"], f"settings of {folder}")
        return cls(tokenizers, stages, read_voices(folder), settings)

    def voices(self) -> dict[str, str]:
        """Named voices, and what each says in its prompt."""
        return {name: voice.text or "" for name, voice in self._voices.items()}

    def speak(
        self,
        text: str,
        *,
        voice: str | Path | None = None,
        voice_text: str | None = None,
        settings: Settings | None = None,
    ) -> Utterance:
        """Speaks `text`.

        Args:
            voice: a named voice or a recording of 0.5 to 30 s; None: the first named voice.
            voice_text: what is said in that recording; it prompts the semantic stage too, where that was trained so.
        Raises:
            ValueError: a text that is empty, too long or cannot be spoken; a voice that cannot be heard.
        """
        job = _Job(self, settings)
        pieces = self._text_pieces(text)
        spoken_by = self._voice(voice, voice_text, job)
        semantic = np.concatenate([job.semantic(piece, spoken_by) for piece in pieces])
        return job.utter(semantic, spoken_by, text=text)

    def continue_(self, prompt: Path, *, seconds: float = 5.0, settings: Settings | None = None) -> Utterance:
        """Goes on for `seconds` where a recording ends; the result begins with the recording.

        Raises:
            ValueError: a recording that cannot be heard, or `seconds` not between a beat and 60.
        """
        job = _Job(self, settings)
        if not float(self.grid.beat) <= seconds <= 60:
            raise ValueError(f"seconds={seconds}: give {float(self.grid.beat)} to 60")
        heard = self._hear(prompt, job)
        new = job.freely(heard.semantic, self.grid.beats(seconds))
        given = _cut(heard, self.grid.beats(TAIL_SECONDS + job.settings.prompt_seconds), self.grid, end=True)
        beats = len(given.semantic) // self.grid.semantic_per_beat
        tail = _cut(given, min(self.grid.beats(TAIL_SECONDS), beats // 2), self.grid, end=True)
        voice = _cut(given, beats - len(tail.semantic) // self.grid.semantic_per_beat, self.grid)
        return job.utter(np.concatenate([tail.semantic, new]), voice, before=heard, made=tail.codes)

    def convert(self, source: Path, *, voice: str | Path, settings: Settings | None = None) -> Utterance:
        """What `source` says, as it says it, in another voice. The semantic stage has no part in it.

        Raises:
            ValueError: a recording that cannot be heard.
        """
        job = _Job(self, settings)
        said = self._hear(source, job)
        return job.utter(said.semantic, self._voice(voice, None, job))

    def resynthesise(
        self, source: Path, *, level: str, voice: str | Path | None = None, settings: Settings | None = None
    ) -> Utterance:
        """`source` with all below `level` made anew: "codes" (codec alone), "coarse" (fine stage), "semantic" (both).

        Args:
            voice: the prompt; None: the first seconds of the source itself.
        Raises:
            ValueError: a recording that cannot be heard, or no such level.
        """
        job = _Job(self, settings)
        said = self._hear(source, job)
        prompt = said if voice is None else self._voice(voice, None, job)
        if level == "semantic":
            return job.utter(said.semantic, prompt)
        if level == "coarse":
            return job.utter(said.semantic, prompt, coarse=said.codes)
        if level == "codes":
            return job.decode(said.semantic, said.codes)
        raise ValueError(f"level '{level}': choose codes, coarse or semantic")

    def _text_pieces(self, text: str) -> list[NDArray[np.uint16]]:
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

    def _voice(self, voice: str | Path | None, text: str | None, job: "_Job") -> Voice:
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

    def _hear(self, path: Path, job: "_Job") -> Voice:
        with job.clock("tokenizers"):
            tokens = self.tokenizers.tokens(self.tokenizers.prepare_file(path))
            return Voice(tokens.semantic, tokens.codes, None)


def _find_bundle(path: Path | str | None) -> Path:
    if path is None:
        starter = Path(str(files("triptych") / "starter"))
        if not (starter / "bundle.json").exists():
            raise ValueError("this installation carries no starter cascade: name a bundle with --bundle")
        return starter
    if Path(path).is_dir():
        return Path(path)
    if str(path).count("/") != 1 or str(path).startswith((".", "/")):
        raise ValueError(f"{path}: no such folder, and no hub id of the form owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{path}: no such folder, and the hub did not give it: {str(error).splitlines()[0]}") from None


def _cut(voice: Voice, beats: int, grid: TimeGrid, *, end: bool = False) -> Voice:
    """The first (or last) `beats` beats of a clip."""
    s, a = beats * grid.semantic_per_beat, beats * grid.acoustic_per_beat
    if end:
        return Voice(
            voice.semantic[max(0, len(voice.semantic) - s) :], voice.codes[:, max(0, voice.codes.shape[1] - a) :], None
        )
    return Voice(voice.semantic[:s], voice.codes[:, :a], None)


class _Job:
    """One request: its random streams, its clock, its notes."""

    def __init__(self, cascade: Cascade, settings: Settings | None) -> None:
        self.cascade, self.settings = cascade, settings or cascade.settings
        self.streams = {
            name: torch.Generator().manual_seed(self.settings.seed * 3 + place) for place, name in enumerate(STAGES)
        }
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    def clock(self, name: str) -> "_Clock":
        return _Clock(self.seconds, name)

    def semantic(self, text: NDArray[np.uint16], voice: Voice) -> NDArray[np.uint16]:
        """Semantic tokens of one piece of text, whole beats."""
        stage, model = self.cascade.stages["semantic"]
        expected = stage.expected_frames(len(text))
        longest = max(1, round(expected * self.settings.longest + float(self.cascade.grid.semantic_rate)))
        prompt_text, prompt = self._semantic_prompt(stage, voice)
        with self.clock("semantic"):
            tokens = generate_semantic(
                stage,
                model,
                text=text,
                prompt_text=prompt_text,
                prompt=prompt,
                min_frames=max(1, round(expected * self.settings.shortest)),
                max_frames=longest,
                sampling=self.settings.semantic,
                generator=self.streams["semantic"],
            )
        if len(tokens) == longest:
            self.notes.append("the semantic stage reached its longest length: the end may be cut off")
        return self._whole_beats(tokens)

    def _semantic_prompt(self, stage: Any, voice: Voice) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """A voice with its text also prompts the semantic stage, where that was trained with prompts so long."""
        front_end = self.cascade.tokenizers.text
        seconds = len(voice.semantic) / float(self.cascade.grid.semantic_rate)
        if not (voice.text and front_end and stage.config.prompt_share) or seconds > stage.config.prompt_seconds:
            return NOTHING, NOTHING
        return front_end.encode(voice.text), voice.semantic

    def freely(self, prompt: NDArray[np.uint16], beats: int) -> NDArray[np.uint16]:
        """`beats` beats of semantic tokens after `prompt`, in windows as long as training rows."""
        stage, model = self.cascade.stages["semantic"]
        s = self.cascade.grid.semantic_per_beat
        longest = self.cascade.grid.beats(stage.config.max_seconds) * s
        made, wanted = prompt, len(prompt) + beats * s
        with self.clock("semantic"):
            while len(made) < wanted:
                given = made[-longest // 2 :]
                new = min(wanted - len(made), longest - len(given))
                tokens = generate_semantic(
                    stage,
                    model,
                    prompt=given,
                    min_frames=new,
                    max_frames=new,
                    sampling=self.settings.semantic,
                    generator=self.streams["semantic"],
                )
                made = np.concatenate([made, tokens])
        return made[len(prompt) :]

    def utter(
        self,
        semantic: NDArray[np.uint16],
        voice: Voice,
        *,
        text: str | None = None,
        coarse: NDArray[np.uint16] | None = None,
        before: Voice | None = None,
        made: NDArray[np.uint16] | None = None,
    ) -> Utterance:
        """Coarse, fine and codec.

        Args:
            coarse: true codes; the coarse stage is left out then.
            before, made: a recording that is continued, and the codes of its end with which `semantic` begins.
        """
        coarse_stage, coarse_model = self.cascade.stages["coarse"]
        fine_stage, fine_model = self.cascade.stages["fine"]
        if coarse is None:
            with self.clock("coarse"):
                span = self._span(voice, coarse_stage.config.prompt)
                sampling, stream = self.settings.coarse, self.streams["coarse"]
                coarse = generate_coarse(coarse_stage, coarse_model, semantic, span, sampling, stream, made)
        with self.clock("fine"):
            span = self._span(voice, fine_stage.config.prompt)
            sampling, stream = self.settings.fine, self.streams["fine"]
            coarse = coarse[: fine_stage.config.coarse_levels]
            codes = generate_fine(fine_stage, fine_model, coarse, span, sampling, stream, made)
        if before is not None and made is not None:
            grid = self.cascade.grid
            new = made.shape[1] // grid.acoustic_per_beat * grid.semantic_per_beat
            semantic = np.concatenate([before.semantic, semantic[new:]])
            codes = np.concatenate([before.codes, codes[:, made.shape[1] :]], axis=1)
        return self.decode(semantic, codes, text)

    def decode(self, semantic: NDArray[np.uint16], codes: NDArray[np.uint16], text: str | None = None) -> Utterance:
        with self.clock("codec"):
            waveform = self.cascade.tokenizers.acoustic.decode(codes)
        rate = self.cascade.sample_rate
        return Utterance(waveform, rate, semantic, codes, text, dict(self.seconds), tuple(self.notes))

    def _span(self, voice: Voice, config: PromptConfig) -> Span:
        """As much of the voice as settings and training allow."""
        allowed = min(self.settings.prompt_seconds, config.seconds[1])
        cut = _cut(voice, self.cascade.grid.beats(allowed), self.cascade.grid)
        return Span(cut.semantic, cut.codes, cut.codes.shape[1])

    def _whole_beats(self, tokens: NDArray[np.uint16]) -> NDArray[np.uint16]:
        missing = -len(tokens) % self.cascade.grid.semantic_per_beat
        return np.concatenate([tokens, np.repeat(tokens[-1:], missing)])


class _Clock:
    """Adds the seconds of a `with` block to a stage."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.began
