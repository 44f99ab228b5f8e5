"""One request to a cascade: how it is sampled, its random streams, its clock, its notes, and what it makes.

    semantic tokens ──coarse──▶ codes [coarse levels, T'] ──fine──▶ codes [Q, T'] ──codec──▶ Utterance

Knows no bundle and no file.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.lm.sampling import Sampling
from triptych.stages.bundle import Voice
from triptych.stages.coarse.generate import generate_coarse
from triptych.stages.fine.generate import generate_fine
from triptych.stages.semantic.generate import generate_semantic
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.span import PromptConfig, Span
from triptych.stages.three import STAGES
from triptych.tokenizers.spec import TimeGrid
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import STRICT

if TYPE_CHECKING:
    from triptych.stages.cascade import Cascade

REACHED_LONGEST = "the semantic stage reached its longest length: the end may be cut off"
"""a note"""


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
    levels: int = 0
    """codec levels that are made and heard, the coarse ones at least; 0: all. Fewer are faster, and clearer where the
    fine stage has learned little"""
    prompt_seconds: float = 3.0
    """seconds of a voice prompt that the coarse and fine stages hear"""
    shortest: float = 0.5
    """share of the length that the text should take: speech is no shorter"""
    longest: float = 2.0
    """share likewise: speech is no longer, but for a second"""


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


def cut(voice: Voice, beats: int, grid: TimeGrid, *, end: bool = False) -> Voice:
    """The first (or last) `beats` beats of a clip."""
    s, a = beats * grid.semantic_per_beat, beats * grid.acoustic_per_beat
    if end:
        return Voice(
            voice.semantic[max(0, len(voice.semantic) - s) :], voice.codes[:, max(0, voice.codes.shape[1] - a) :], None
        )
    return Voice(voice.semantic[:s], voice.codes[:, :a], None)


class Request:
    """One request: its random streams, its clock, its notes."""

    def __init__(self, cascade: "Cascade", settings: Settings | None) -> None:
        self.cascade, self.settings = cascade, settings or cascade.settings
        self.streams = {
            name: torch.Generator().manual_seed(self.settings.seed * 3 + place) for place, name in enumerate(STAGES)
        }
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.levels = self._levels()

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
            self.notes.append(REACHED_LONGEST)
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
            codes = generate_fine(fine_stage, fine_model, coarse, span, sampling, stream, made, self.levels)
        if before is not None and made is not None:
            grid = self.cascade.grid
            new = made.shape[1] // grid.acoustic_per_beat * grid.semantic_per_beat
            semantic = np.concatenate([before.semantic, semantic[new:]])
            codes = np.concatenate([before.codes[: len(codes)], codes[:, made.shape[1] :]], axis=1)
        return self.decode(semantic, codes, text)

    def decode(self, semantic: NDArray[np.uint16], codes: NDArray[np.uint16], text: str | None = None) -> Utterance:
        with self.clock("codec"):
            waveform = self.cascade.tokenizers.acoustic.decode(codes)
        rate = self.cascade.sample_rate
        return Utterance(waveform, rate, semantic, codes, text, dict(self.seconds), tuple(self.notes))

    def _levels(self) -> int:
        """Known before any stage has worked for nothing."""
        coarse = self.cascade.stages["fine"][0].config.coarse_levels
        most, asked = self.cascade.tokenizers.acoustic.num_levels, self.settings.levels
        if asked and not coarse <= asked <= most:
            raise ValueError(f"levels={asked}: this cascade makes {coarse} to {most} codec levels; 0 means all")
        return asked or most

    def _span(self, voice: Voice, config: PromptConfig) -> Span:
        """As much of the voice as settings and training allow."""
        allowed = min(self.settings.prompt_seconds, config.seconds[1])
        heard = cut(voice, self.cascade.grid.beats(allowed), self.cascade.grid)
        return Span(heard.semantic, heard.codes, heard.codes.shape[1])

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
