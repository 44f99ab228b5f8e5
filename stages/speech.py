"""The clips that rows are drawn from: token shards, and who speaks in each.

Invariant: what is drawn depends on the shards and on the generator that is passed in, on nothing else.
Knows tokens and beats; knows no sequence and no model.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.corpus.manifest import Split
from triptych.corpus.shards import ShardSet
from triptych.tokenizers.spec import TimeGrid

Tokens = NDArray[np.uint16]
NOBODY: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Clip:
    """A span of one recording, whole beats long."""

    semantic: Tokens
    """[T] semantic tokens"""
    codes: Tokens
    """[Q, T'] codes of the same span"""
    text: Tokens
    """[L] text tokens of the whole recording; empty where there is none"""
    whole: bool
    """whether the span is the whole recording, so that text and sound belong together and the end is a real end"""


class Speech:
    """The clips of one split."""

    def __init__(self, shards: ShardSet, split: Split) -> None:
        self.shards = shards
        self.grid: TimeGrid = shards.grid
        self.indices = shards.indices(split)

    @cached_property
    def by_speaker(self) -> dict[int, NDArray[np.int64]]:
        """Number of a speaker to the rows that are theirs, ascending; those without a speaker, or without a frame, are
        left out."""
        rows = self.indices[self._beats[self.indices] > 0]
        of = self.shards.speaker_of[rows]
        order = np.argsort(of, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(of[order])) + 1)
        found = {int(of[group[0]]): rows[group] for group in groups if len(group)}
        return {speaker: theirs for speaker, theirs in found.items() if speaker >= 0}

    @cached_property
    def _beats(self) -> NDArray[np.int64]:
        return self.shards.lengths("semantic") // self.grid.semantic_per_beat

    def beats(self, index: int) -> int:
        return len(self.shards.semantic(index)) // self.grid.semantic_per_beat

    def text_length(self, index: int) -> int:
        return len(self.shards.text(index))

    def clip(self, index: int, start: int = 0, beats: int | None = None) -> Clip:
        """Clip `index` from beat `start`, at most `beats` long."""
        total = self.beats(index)
        stop = total if beats is None else min(total, start + beats)
        s, a = self.grid.semantic_per_beat, self.grid.acoustic_per_beat
        return Clip(
            semantic=np.asarray(self.shards.semantic(index)[start * s : stop * s]),
            codes=np.asarray(self.shards.codes(index)[:, start * a : stop * a]),
            text=np.asarray(self.shards.text(index)),
            whole=start == 0 and stop == total,
        )

    def crop(self, index: int, longest: int, rng: np.random.Generator) -> Clip:
        """The whole clip, or `longest` beats of it from a random beat."""
        spare = self.beats(index) - longest
        return self.clip(index, int(rng.integers(0, spare + 1)) if spare > 0 else 0, longest)

    @cached_property
    def _short(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        return {}

    def other(self, index: int, rng: np.random.Generator, longest: int | None = None) -> int | None:
        """Another recording of the same speaker, at random; None where there is none.

        longest: beats; and it must have a text. Speakers may have millions of recordings: no list is made a row.
        """
        speaker = int(self.shards.speaker_of[index])
        theirs = self.by_speaker.get(speaker, NOBODY)
        if longest is not None:
            if (speaker, longest) not in self._short:
                spoken = self.shards.lengths("text")[theirs] > 0
                self._short[speaker, longest] = theirs[spoken & (self._beats[theirs] <= longest)]
            theirs = self._short[speaker, longest]
        at = int(np.searchsorted(theirs, index))
        among = at < len(theirs) and theirs[at] == index
        if len(theirs) == among:
            return None
        found = int(theirs[int(rng.integers(len(theirs) - among))])
        return found if found != index else int(theirs[-1])

    def stranger(self, index: int) -> int:
        """A recording of another speaker where there is one, else any other; always the same one for `index`."""
        rng, of = np.random.default_rng(index), self.shards.speaker_of
        for other in self.indices[rng.integers(0, len(self.indices), 50)]:
            if other != index and (of[index] < 0 or of[other] != of[index]):
                return int(other)
        return next((int(other) for other in self.indices if other != index), index)

    def voice_prompt(
        self, index: int, rng: np.random.Generator, beats: tuple[int, int], *, swap: bool = False
    ) -> list[Clip]:
        """One or two spans of the speaker's other recordings, `beats[0]` to `beats[1]` long in all; [] without any.

        swap: another speaker's, of the same length.
        """
        wanted = int(rng.integers(beats[0], beats[1] + 1))
        voice = self.stranger(index) if swap else index
        parts = [wanted] if wanted < 2 * beats[0] or rng.random() < 0.7 else [wanted // 2, wanted - wanted // 2]
        clips = [(self.other(voice, rng), part) for part in parts]
        return [self.crop(clip, part, rng) for clip, part in clips if clip is not None]


def join(clips: list[Clip], levels: int) -> tuple[Tokens, Tokens]:
    """Semantic tokens [T] and the first `levels` levels of codes [levels, T'] of clips in a row."""
    if not clips:
        return np.zeros(0, np.uint16), np.zeros((levels, 0), np.uint16)
    return (
        np.concatenate([clip.semantic for clip in clips]),
        np.concatenate([clip.codes[:levels] for clip in clips], axis=1),
    )


def fit_length(tokens: NDArray[Any], frames: int) -> NDArray[Any]:
    """Tokens [..., n] repeated or cut to [..., frames]; for swapping a condition by one of another length."""
    repeats = -(-frames // max(1, tokens.shape[-1]))
    return np.concatenate([tokens] * repeats, axis=-1)[..., :frames]
