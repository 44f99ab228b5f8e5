"""The sequence of the semantic stage.

    text given      [bos] x x x x [sep] s s s s s s [eos]         loss on s and [eos]
    prompted        [bos] p p x x [sep] v v v s s s [eos]         p, v: text and tokens of the prompt; loss on s, [eos]
    speech only     [bos]         [sep] s s s s s s [eos]         continuation, and the unconditional branch of guidance

    positions, plain        0 1 2 3 4 …
    positions, in time      text symbol j of a clip that begins at frame f lies at f + j · frames_per_symbol, its frame
                            t at f + t: so a frame finds its symbol near distance 0, whatever the length of the text

[eos] only where a recording really ends. Rows lie side by side; `tokens[learned[i]]` is followed by `targets[i]`. Other
tasks: tasks.py. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as config_dataclass
from torch import nn

from triptych.lm.packing import Packed
from triptych.lm.transformer import TransformerConfig
from triptych.lm.vocabulary import Block, Vocabulary
from triptych.stages.semantic.tasks import TaskConfig, interleaved, mixed, recognition
from triptych.stages.speech import Clip, Speech, Tokens
from triptych.stages.stage import Batch, Specs, learned_positions
from triptych.training.config import STRICT

NOTHING: Tokens = np.zeros(0, np.uint16)


@config_dataclass(frozen=True, config=STRICT)
class SemanticConfig:
    """The semantic stage: its model, and how its rows are drawn."""

    transformer: TransformerConfig = TransformerConfig(dim=768, layers=12, heads=12)
    """the language model"""
    tie_embeddings: bool = True
    """one matrix for the ids that come in and the ids that go out"""
    text_first: bool = False
    """text ids come before all others, as a text model numbers them; init=MODEL says so"""
    positions: Literal["plain", "time"] = "plain"
    """counted one by one, or in time: a text symbol lies about where it will sound"""
    frames_per_symbol: float | None = None
    """frames a text symbol, for positions in time and the length expected; left out: measured on the clips"""
    tasks: TaskConfig = TaskConfig()
    """what recordings with text teach: speaking alone, or recognising and interleaving too"""
    speech_only_share: float | None = None
    """share of an epoch's frames that are of recordings without text, in (0, 1); left out: as the shards have them"""
    text_drop: float = 0.1
    """share of rows whose text is left out: for guidance and speech-only continuation"""
    prompt_share: float = 0.5
    """share of rows that begin with another recording of the same speaker, with its text"""
    prompt_seconds: float = 6.0
    """seconds of the longest prompt"""
    max_seconds: float = 16.0
    """seconds of the longest row; a longer recording is cropped and loses its text"""
    label_smoothing: float = 0.05
    """of the cross-entropy in training"""

    def __post_init__(self) -> None:
        if self.speech_only_share is not None and not 0 <= self.speech_only_share <= 1:
            raise ValueError(f"speech_only_share={self.speech_only_share}: it is a share, 0 to 1")


@dataclass(frozen=True)
class Row:
    """One sequence of ids, with what training needs to know of it."""

    ids: NDArray[np.int64]
    """[S + 1]"""
    positions: NDArray[np.float32]
    """[S + 1]"""
    first_target: int
    """ids[first_target:] are learned"""


@dataclass(frozen=True)
class Layout:
    """Where everything lies: the vocabulary and the positions."""

    vocabulary: Vocabulary
    frames_per_symbol: float | None
    """None: positions are plain"""

    @classmethod
    def of(cls, config: SemanticConfig, specs: Specs) -> "Layout":
        text = specs.text.size if specs.text else 1
        pace = config.frames_per_symbol if config.positions == "time" else None
        texts: tuple[Block, ...] = (Block("text", text),)
        specials: tuple[Block, ...] = (Block("bos", 1), Block("sep", 1), Block("eos", 1))
        specials += (Block("turn", 1),) if config.tasks.interleave > 0 else ()
        given = (*texts, *specials) if config.text_first else (*specials, *texts)
        return cls(Vocabulary((*given, Block("semantic", specs.semantic.size))), pace)

    def prefix(
        self, text: Tokens, prompt_text: Tokens, prompt: Tokens
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        """All that is given: ids, positions, and the position of the first frame to come."""
        v = self.vocabulary
        ids = np.concatenate(
            [
                [v.id("bos")],
                v.ids("text", prompt_text.astype(np.int64)),
                v.ids("text", text.astype(np.int64)),
                [v.id("sep")],
                v.ids("semantic", prompt.astype(np.int64)),
            ]
        )
        if self.frames_per_symbol is None:
            return ids, np.arange(len(ids), dtype=np.float32), len(ids)
        of_prompt = np.linspace(0, len(prompt), len(prompt_text), endpoint=False)
        of_text = len(prompt) + np.arange(len(text)) * self.frames_per_symbol
        positions = np.concatenate([[0], of_prompt, of_text, [0], np.arange(len(prompt))])
        return ids, positions.astype(np.float32), len(prompt)

    def row(self, text: Tokens, prompt_text: Tokens, prompt: Tokens, target: Tokens, *, ends: bool) -> Row:
        """The whole sequence; `ends` adds [eos]."""
        given, positions, start = self.prefix(text, prompt_text, prompt)
        learned = self.vocabulary.ids("semantic", target.astype(np.int64))
        if ends:
            learned = np.append(learned, self.vocabulary.id("eos"))
        after = start + np.arange(len(learned), dtype=np.float32)
        return Row(np.concatenate([given, learned]), np.concatenate([positions, after]), len(given))


@dataclass(frozen=True)
class SemanticStage:
    """Text to semantic tokens."""

    name: ClassVar[str] = "semantic"
    conditions: ClassVar[tuple[str, ...]] = ("text",)
    config: SemanticConfig
    specs: Specs

    def __post_init__(self) -> None:
        if not self.config.transformer.causal:
            raise ValueError("the semantic stage does not see what comes: leave stage.transformer.causal=true")

    @property
    def also(self) -> tuple[str, ...]:
        """Tasks beside speaking, as names for `row`'s `given`; validation judges each apart."""
        return self.config.tasks.also

    @property
    def layout(self) -> Layout:
        return Layout.of(self.config, self.specs)

    def measured(self, speech: Speech) -> "SemanticStage":
        if self.config.frames_per_symbol is not None:
            return self
        spoken = [index for index in speech.indices if speech.text_length(index)]
        frames = sum(speech.beats(index) for index in spoken) * speech.grid.semantic_per_beat
        symbols = sum(speech.text_length(index) for index in spoken)
        pace = round(frames / symbols, 3) if symbols else 1.0
        return replace(self, config=replace(self.config, frames_per_symbol=pace))

    def expected_frames(self, text_length: int) -> int:
        """Semantic frames that a text of so many tokens takes, about."""
        assert self.config.frames_per_symbol is not None, "measured before training"
        return round(text_length * self.config.frames_per_symbol)

    def model(self) -> nn.Module:
        from triptych.stages.semantic.model import SemanticModel

        return SemanticModel(self.config, self.layout.vocabulary)

    def semantic_rows(self) -> dict[str, int]:
        parts = ("embedding",) if self.config.tie_embeddings else ("embedding", "head")
        return {f"language_model.{part}.weight": self.layout.vocabulary.start("semantic") for part in parts}

    def usable(self, speech: Speech) -> list[int]:
        usable = [index for index in speech.indices if speech.beats(index)]
        share = self.config.speech_only_share
        if share is None:
            return usable
        frames = {index: self._beats(speech, index) for index in usable}
        alone = [i for i in usable if not speech.text_length(i) or speech.beats(i) > self._longest(speech)]
        return mixed(sorted({*usable} - {*alone}), alone, frames, share)

    def length(self, speech: Speech, index: int) -> int:
        beats, text = self._beats(speech, index), 0
        if speech.beats(index) <= self._longest(speech):  # longer ones are cropped, and have neither text nor prompt
            text = speech.text_length(index)
        if speech.by_speaker and text:  # of the prompts that may be, about two thirds in length
            beats += speech.grid.beats(self.config.prompt_share * self.config.prompt_seconds * 2 / 3)
        return beats * speech.grid.semantic_per_beat + text + 3

    def _beats(self, speech: Speech, index: int) -> int:
        """Of what a row says: without a text, other clips of the speaker follow, see `_speech_only`."""
        longest = self._longest(speech)
        beats = min(speech.beats(index), longest)
        if speech.text_length(index) or len(speech.by_speaker.get(int(speech.shards.speaker_of[index]), ())) < 2:
            return beats
        return max(beats, longest // 2)

    def row(self, speech: Speech, index: int, rng: np.random.Generator, given: str | None = None) -> Row:
        """A prompted, plain or speech-only row of clip `index`; see `Stage.row`."""
        clip = speech.crop(index, self._longest(speech), rng)
        spoken = len(clip.text) > 0 and clip.whole
        if not spoken or (given is None and rng.random() < self.config.text_drop):
            return self._speech_only(speech, index, clip, rng)
        task = self.config.tasks.draw(rng) if given is None else given
        if task == "recognise" or task == "recognise_other":
            heard = clip if task == "recognise" else speech.crop(speech.stranger(index), self._longest(speech), rng)
            return Row(*recognition(self.layout, clip.text, heard.semantic))
        if task == "interleave":
            return Row(*interleaved(self.layout, clip.text, clip.semantic, rng))
        prompt = self._prompt(speech, index, rng) if given is None else None
        text = speech.clip(speech.stranger(index)).text if given == "text" else clip.text
        before = (prompt.text, prompt.semantic) if prompt else (NOTHING, NOTHING)
        return self.layout.row(text, *before, clip.semantic, ends=True)

    def _longest(self, speech: Speech) -> int:
        return speech.grid.beats(self.config.max_seconds)

    def _prompt(self, speech: Speech, index: int, rng: np.random.Generator) -> Clip | None:
        if rng.random() >= self.config.prompt_share:
            return None
        other = speech.other(index, rng, longest=speech.grid.beats(self.config.prompt_seconds))
        return None if other is None else speech.clip(other)

    def _speech_only(self, speech: Speech, index: int, clip: Clip, rng: np.random.Generator) -> Row:
        """Clips of one speaker in a row, so that going on does not stop after a breath."""
        target, left = [clip], self._longest(speech) // 2 - speech.beats(index)
        while left > 0 and target[-1].whole and (other := speech.other(index, rng)) is not None:
            target.append(speech.clip(other, 0, left))
            left -= len(target[-1].semantic) // speech.grid.semantic_per_beat
        tokens = np.concatenate([part.semantic for part in target])
        return self.layout.row(NOTHING, NOTHING, NOTHING, tokens, ends=target[-1].whole)

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Of all rows: tokens int64 [S], positions float [S]; where the loss lies: learned, targets int64 [M]."""
        packed = Packed.of([len(row.ids) - 1 for row in rows])
        return Batch(
            {
                "tokens": torch.from_numpy(np.concatenate([row.ids[:-1] for row in rows])),
                "positions": torch.from_numpy(np.concatenate([row.positions[:-1] for row in rows])),
                "learned": learned_positions(packed, [row.first_target - 1 for row in rows]),
                "targets": torch.from_numpy(np.concatenate([row.ids[row.first_target :] for row in rows])),
            },
            {"rows": packed},
        )
