"""One request to a cascade: how it is sampled, its random streams, its clock, its notes, and what it makes.

    semantic tokens ──coarse──▶ codes [coarse levels, T'] ──fine──▶ codes [Q, T'] ──codec──▶ Utterance

What it makes depends on itself alone: a batch steps many requests together, a stream asks for their windows one by one,
and both leave the work to the same jobs. Knows no bundle and no file.
"""

import math
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.lm.rows import Row
from triptych.stages.bundle import Voice
from triptych.stages.coarse.generate import NONE, CoarseWork, Entries, check_guidance, expected_entries
from triptych.stages.fine.generate import FineWork
from triptych.stages.notice import loops, overlong, silences
from triptych.stages.semantic.generate import log_gain, semantic_row, tokens_of
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.span import PromptConfig, Span
from triptych.stages.takes import SURE, streams
from triptych.stages.three import STAGES
from triptych.stages.together import Draft, say_all, utter_all
from triptych.stages.utterance import Clock, Settings, Utterance
from triptych.tokenizers.spec import TimeGrid

__all__ = ["Request", "Settings", "Utterance", "cut"]

if TYPE_CHECKING:
    from triptych.stages.cascade import Cascade

TAIL_SECONDS = 2.0
"""of a recording that is continued: heard as what was just said, not as a prompt"""
REACHED_LONGEST = "the semantic stage reached its longest length: the end may be cut off"
"""a note"""


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
        self.takes: dict[str, list[torch.Generator]] = {}
        """of a stage, one for each take, once they are asked for"""
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.pieces: list[NDArray[np.uint16]] = []
        self.saying: Row | None = None
        self.levels = self._levels()
        self.expected = self._expected()
        check_guidance(cascade.stages["coarse"][0].config.layout, self.settings.coarse)

    def clock(self, name: str) -> Clock:
        """Times what is done within, for a stage."""
        return Clock(self.seconds, name)

    def say(self, pieces: Sequence[NDArray[np.uint16]], voice: Voice) -> Generator[Row | list[Row], Any, None]:
        """The job of the semantic stage: pieces of text, one after another; see `said`.

        Raises:
            ValueError: several takes of tokens in which no text can be read.
        """
        stage, _ = self.cascade.stages["semantic"]
        prompts = self.semantic_prompt(stage, voice)
        for number, text in enumerate(pieces, start=1):
            tokens = yield from self._say_piece(stage, text, *prompts)
            if len(tokens) == self.longest_frames(len(text)):
                told = [REACHED_LONGEST]
            else:
                told = self._overlong(len(tokens), stage.expected_frames(len(text)), stage, voice)
            where = f"in piece {number} of {len(pieces)}: " if len(pieces) > 1 else ""
            self.notes += [where + note for note in told]
            self.pieces.append(self._whole_beats(tokens))

    def _say_piece(
        self, stage: Any, text: NDArray[np.uint16], prompt_text: NDArray[np.uint16], prompt: NDArray[np.uint16]
    ) -> Generator[Row | list[Row], Any, NDArray[np.uint16]]:
        """One take, and where the text is not surely read in it the others, side by side: the best of all."""
        greedy = self.settings.semantic.greedy  # all takes are one
        rows = [
            semantic_row(
                stage,
                text=text,
                prompt_text=prompt_text,
                prompt=prompt,
                min_frames=max(1, round(stage.expected_frames(len(text)) * self.settings.shortest)),
                max_frames=self.longest_frames(len(text)),
                sampling=self.settings.semantic,
                generator=generator,
            )
            for generator in streams(self, "semantic", 1 if greedy else self.settings.semantic_takes)
        ]
        misread = self.cascade.proofreader if len(rows) > 1 else None
        self.saying = None if misread else rows[0]
        yield rows[0]
        self.saying, tokens = None, tokens_of(stage, rows[0])
        if misread is None or (cost := misread(text, tokens)) < SURE:
            return tokens
        yield rows[1:]
        others = [tokens_of(stage, row) for row in rows[1:]]
        costs = [cost, *(misread(text, other) for other in others)]
        return [tokens, *others][costs.index(min(costs))]

    def semantic(self, pieces: Sequence[NDArray[np.uint16]], voice: Voice) -> NDArray[np.uint16]:
        """Semantic tokens [T] of pieces of text, of this request alone."""
        return say_all([self], [pieces], [voice], 1)[0]

    def explained(self, pieces: Sequence[NDArray[np.uint16]], voice: Voice) -> float:
        """Nats a second of log p(s | text) - log p(s): by how much the text explains what was said."""
        stage, model = self.cascade.stages["semantic"]
        prompts = self.semantic_prompt(stage, voice)
        total = sum(
            log_gain(stage, model, text, *prompts, said) for text, said in zip(pieces, self.pieces, strict=True)
        )
        return total / (sum(map(len, self.pieces)) / float(self.cascade.grid.semantic_rate))

    def longest_frames(self, text_length: int) -> int:
        """Semantic frames of a text, at most."""
        expected = self.cascade.stages["semantic"][0].expected_frames(text_length)
        frames: float = expected * self.settings.longest + float(self.cascade.grid.semantic_rate)
        return max(1, round(frames))

    def said(self, *, ended: bool = True) -> NDArray[np.uint16]:
        """Semantic tokens so far, at the asked speed; whole beats, once all have `ended`."""
        parts = [
            *self.pieces,
            *([] if self.saying is None else [tokens_of(self.cascade.stages["semantic"][0], self.saying)]),
        ]
        tokens = np.concatenate(parts) if parts else NOTHING
        if self.settings.rate == 1.0:
            return tokens
        frames = math.ceil(len(tokens) / self.settings.rate)
        kept = np.minimum((np.arange(frames) * self.settings.rate).astype(np.int64), len(tokens) - 1)
        return self._whole_beats(tokens[kept]) if ended else tokens[kept]

    def semantic_prompt(self, stage: Any, voice: Voice) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Text tokens and semantic tokens: a voice with its text also prompts the semantic stage, where that was
        trained with prompts so long."""
        front_end = self.cascade.tokenizers.text
        seconds = len(voice.semantic) / float(self.cascade.grid.semantic_rate)
        if not (voice.text and front_end and stage.config.prompt_share) or seconds > stage.config.prompt_seconds:
            return NOTHING, NOTHING
        return front_end.encode(voice.text), voice.semantic

    def _overlong(self, frames: int, expected: int, stage: Any, voice: Voice) -> list[str]:
        """Whether a text took too long, even for this voice; the voice's own text is read only where it may matter."""
        rate, front_end = float(self.cascade.grid.semantic_rate), self.cascade.tokenizers.text
        told = overlong(frames, expected, rate)
        if not (told and voice.text and front_end):
            return told
        pace = len(voice.semantic) / max(1, stage.expected_frames(len(front_end.encode(voice.text))))
        return overlong(frames, expected * max(1.0, pace), rate)

    def go_on(self, prompt: NDArray[np.uint16], beats: int) -> Generator[Row, Row, None]:
        """The job of the semantic stage without a text: `beats` beats after `prompt`, in windows as long as training
        rows; they become `pieces`."""
        stage, _ = self.cascade.stages["semantic"]
        s = self.cascade.grid.semantic_per_beat
        longest = self.cascade.grid.beats(stage.config.max_seconds) * s
        made, wanted = prompt, len(prompt) + beats * s
        while len(made) < wanted:
            given = made[-longest // 2 :]
            new = min(wanted - len(made), longest - len(given))
            row = yield semantic_row(
                stage,
                prompt=given,
                min_frames=new,
                max_frames=new,
                sampling=self.settings.semantic,
                generator=self.streams["semantic"],
            )
            self.pieces.append(tokens_of(stage, row))
            made = np.concatenate([made, self.pieces[-1]])

    def after(self, heard: Voice, new: NDArray[np.uint16]) -> Draft:
        """`new` semantic tokens after those of a recording."""
        grid = self.cascade.grid
        given = cut(heard, grid.beats(TAIL_SECONDS + self.settings.prompt_seconds), grid, end=True)
        beats = len(given.semantic) // grid.semantic_per_beat
        tail = cut(given, min(grid.beats(TAIL_SECONDS), beats // 2), grid, end=True)
        voice = cut(given, beats - len(tail.semantic) // grid.semantic_per_beat, grid)
        return Draft(self, np.concatenate([tail.semantic, new]), voice, before=heard, made=tail.codes)

    def coarse_work(self, voice: Voice, made: NDArray[np.uint16] | None = None) -> CoarseWork:
        """Of the coarse stage; its result begins with the codes `made`."""
        stage, _ = self.cascade.stages["coarse"]
        before = np.zeros((stage.config.levels, 0), np.uint16) if made is None else made[: stage.config.levels]
        span, settings = self._span(voice, stage.config.prompt), self.settings
        stream, first = self.streams["coarse"], settings.first_seconds
        return CoarseWork(stage, span, settings.coarse, stream, before, first, expected=self.expected)

    def fine_work(self, voice: Voice, made: NDArray[np.uint16] | None = None) -> FineWork:
        """Likewise, of the fine stage."""
        stage, model = self.cascade.stages["fine"][0], self.cascade.rules.fine_model
        before = np.zeros((stage.specs.acoustic.levels, 0), np.uint16) if made is None else made
        span, settings, stream = self._span(voice, stage.config.prompt), self.settings, self.streams["fine"]
        return FineWork(stage, model, span, settings.fine, stream, before, self.levels, settings.first_seconds)

    def utter(
        self,
        semantic: NDArray[np.uint16],
        voice: Voice,
        *,
        text: str | None = None,
        coarse: NDArray[np.uint16] | None = None,
    ) -> Utterance:
        """Coarse, fine and codec, of this request alone; see `Draft`."""
        return next(utter_all([Draft(self, semantic, voice, text, coarse)], 1))

    def fill(
        self, coarse: NDArray[np.uint16], voice: Voice, made: NDArray[np.uint16] | None = None
    ) -> NDArray[np.uint16]:
        """All levels that are asked for, of whole coarse codes."""
        work = self.fine_work(voice, made)
        with self.clock("fine"):
            work.go_on(coarse[: work.stage.config.coarse_levels], ended=True)
        return work.made[: self.levels]

    def decode(
        self,
        semantic: NDArray[np.uint16],
        codes: NDArray[np.uint16],
        text: str | None = None,
        shift: NDArray[np.float32] | None = None,
    ) -> Utterance:
        """The codec; `shift` as in `CoarseWork`, of the same frames as the codes."""
        with self.clock("codec"):
            waveform = self.cascade.tokenizers.acoustic.decode(codes, shift)
        rate = self.cascade.sample_rate
        self.notes += loops(semantic, float(self.cascade.grid.semantic_rate)) + silences(waveform, rate)
        return Utterance(waveform, rate, semantic, codes, text, dict(self.seconds), tuple(self.notes), shift)

    def _levels(self) -> int:
        """Known before any stage has worked for nothing."""
        coarse = self.cascade.stages["fine"][0].config.coarse_levels
        most, asked = self.cascade.tokenizers.acoustic.num_levels, self.settings.levels
        if asked and not coarse <= asked <= most:
            raise ValueError(f"levels={asked}: this cascade makes {coarse} to {most} codec levels; 0 means all")
        return asked or most

    def _expected(self) -> Entries:
        """Of the levels that are heard as their mean; none where a level of the fine stage is heard."""
        heard, count = self.cascade.stages["fine"][0].config.coarse_levels, self.settings.expected_levels
        if not count or self.levels != heard:
            return NONE
        return expected_entries(self.cascade.stages["coarse"][0], self.cascade.tokenizers.acoustic, count, heard)

    def _span(self, voice: Voice, config: PromptConfig) -> Span:
        """As much of the voice as settings and training allow."""
        allowed = min(self.settings.prompt_seconds, config.seconds[1])
        heard = cut(voice, self.cascade.grid.beats(allowed), self.cascade.grid)
        return Span(heard.semantic, heard.codes, heard.codes.shape[1])

    def _whole_beats(self, tokens: NDArray[np.uint16]) -> NDArray[np.uint16]:
        missing = -len(tokens) % self.cascade.grid.semantic_per_beat
        return np.concatenate([tokens, np.repeat(tokens[-1:], missing)])
