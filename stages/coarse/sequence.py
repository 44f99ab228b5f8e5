"""The sequence of the coarse stage, in its three layouts.

Aligned (default): one causal step a codec frame. Here 1 : 2 rates, two coarse levels.

    semantic       s0      s1      s2      s3          a small bidirectional encoder reads them,
                   │ ╲     │ ╲     │ ╲     │ ╲         one state a codec frame
    frame f        0   1   2   3   4   5   6   7
    goes in      start a0  a1  a2  a3  a4  a5  a6      codes of the frame before, levels summed
    comes out      a0  a1  a2  a3  a4  a5  a6  a7      level 0; then level 1, which sees the id just chosen for level 0
    voice prompt  |v   v   v|  .   .   .   .   .       the first frames are given, and flagged; no loss on them

Delayed (MusicGen, Copet et al. 2023, section 2.2): likewise, but level q comes q steps later, and all levels of a step
at once: each sees what lies under it in what went in. Places without a frame hold an id of their own.

    step           0   1   2   3   4   5   6   7   8
    comes out      a0  a1  a2  a3  a4  a5  a6  a7  –   level 0
                   –   b0  b1  b2  b3  b4  b5  b6  b7  level 1

Flattened (AudioLM's): [bos] s s s s [sep] a00 a01 a10 a11 …, t-major, level-minor (a frame's levels side by side), with
positions counted in time: semantic frame t and the codes that sound with it lie at a constant distance.
Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import nn

from triptych.lm.packing import Packed
from triptych.lm.transformer import TransformerConfig
from triptych.lm.vocabulary import Block, Vocabulary
from triptych.stages.span import PromptConfig, Span, draw_span
from triptych.stages.speech import Speech, Tokens
from triptych.stages.stage import Batch, Specs, learned_positions
from triptych.training.config import STRICT


@config_dataclass(frozen=True, config=STRICT)
class CoarseConfig:
    """The coarse stage: its model, and how its rows are drawn."""

    layout: Literal["aligned", "flattened", "delayed"] = "aligned"
    """one step a frame; or one a code; or one a frame, with level q q steps late"""
    levels: int = 2
    """levels that this stage makes; the fine stage makes the rest"""
    transformer: TransformerConfig = TransformerConfig(dim=768, layers=12, heads=12)
    """the causal transformer over codes"""
    encoder_layers: int = 2
    """layers of the bidirectional encoder of semantic tokens; not in the flattened layout"""
    prompt: PromptConfig = PromptConfig()
    """the voice prompt, and the length of a row"""
    code_noise: float = 0.05
    """share of past codes that training replaces by random ones, against drift"""
    own_past: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of past frames that training replaces by what the model itself takes them for, against drift: a stage that
    speaks hears itself, not the truth (parallel scheduled sampling, Duckworth et al. 2019). Costs a forward pass more;
    aligned layout alone"""

    semantic_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of rows that training does not tell their semantic tokens, from which `coarse.guidance` knows what these
    add; 0: guidance acts on the voice prompt. Not in the flattened layout"""

    def __post_init__(self) -> None:
        if self.own_past and self.layout != "aligned":
            raise ValueError(f"own_past is for layout=aligned, not {self.layout}: leave it out")
        if self.semantic_drop and self.layout == "flattened":
            raise ValueError("semantic_drop is not for layout=flattened: leave it out")

    @property
    def delay(self) -> int:
        """Steps by which each level comes later than the one under it."""
        return int(self.layout == "delayed")


def delay(codes: NDArray[Any], steps: int, empty: int) -> NDArray[np.int64]:
    """codes [levels, T'] to [levels, T' + steps · (levels - 1)]: level q comes q · steps later; `empty` elsewhere."""
    levels, frames = codes.shape
    late = np.full((levels, frames + steps * (levels - 1)), empty, dtype=np.int64)
    for q in range(levels):
        late[q, q * steps : q * steps + frames] = codes[q]
    return late


def undelay(late: NDArray[np.int64], steps: int) -> Tokens:
    """Undoes `delay`."""
    levels, width = late.shape
    frames = width - steps * (levels - 1)
    return np.stack([late[q, q * steps : q * steps + frames] for q in range(levels)]).astype(np.uint16)


@dataclass(frozen=True)
class Flattening:
    """The flattened layout: where each code lies, and back."""

    levels: int
    vocabulary: Vocabulary
    semantic_per_beat: int
    acoustic_per_beat: int

    @classmethod
    def of(cls, config: CoarseConfig, specs: Specs) -> "Flattening":
        blocks = [Block("bos", 1), Block("sep", 1), Block("semantic", specs.semantic.size)]
        blocks += [Block(f"level{q}", specs.acoustic.size) for q in range(config.levels)]
        grid = specs.grid
        return cls(config.levels, Vocabulary(tuple(blocks)), grid.semantic_per_beat, grid.acoustic_per_beat)

    def flatten(self, codes: Tokens) -> NDArray[np.int64]:
        """codes [levels, T'] to ids [T' · levels], t-major, level-minor."""
        rows = [self.vocabulary.ids(f"level{q}", codes[q].astype(np.int64)) for q in range(self.levels)]
        return np.stack(rows, axis=1).reshape(-1) if rows[0].size else np.zeros(0, np.int64)

    def unflatten(self, ids: NDArray[np.int64]) -> Tokens:
        """Undoes `flatten`; a frame that is not whole is dropped."""
        frames = ids[: len(ids) // self.levels * self.levels].reshape(-1, self.levels)
        return np.stack([self.vocabulary.tokens(f"level{q}", frames[:, q]) for q in range(self.levels)]).astype(
            np.uint16
        )

    def legal(self) -> torch.Tensor:
        """bool [levels, V]: row i mod levels holds for new id i."""
        return torch.stack([self.vocabulary.legal(f"level{q}") for q in range(self.levels)])

    def prefix(self, semantic: Tokens) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """[bos] s s s … [sep] and their positions; time counts codec steps of `levels` ids."""
        v = self.vocabulary
        ids = np.concatenate([[v.id("bos")], v.ids("semantic", semantic.astype(np.int64)), [v.id("sep")]])
        stretch = self.levels * self.acoustic_per_beat / self.semantic_per_beat
        return ids, np.concatenate([[0], 1 + np.arange(len(semantic)) * stretch, [0]]).astype(np.float32)

    def position_of(self, i: int) -> float:
        """Of id i after [sep]."""
        return 1.0 + i


@dataclass(frozen=True)
class CoarseStage:
    """Semantic tokens to the first codec levels."""

    name: ClassVar[str] = "coarse"
    conditions: ClassVar[tuple[str, ...]] = ("semantic", "prompt")
    config: CoarseConfig
    specs: Specs

    def __post_init__(self) -> None:
        if not 0 < self.config.levels <= self.specs.acoustic.levels:
            raise ValueError(f"levels={self.config.levels}: the codec has {self.specs.acoustic.levels}, 1 at least")
        if not self.config.transformer.causal:
            raise ValueError("the coarse stage does not see what comes: leave stage.transformer.causal=true")

    def measured(self, speech: Speech) -> "CoarseStage":
        return self

    def model(self) -> nn.Module:
        from triptych.stages.coarse.model import AlignedModel, FlattenedModel

        kind = FlattenedModel if self.config.layout == "flattened" else AlignedModel
        return kind(self.config, self.specs)

    def semantic_rows(self) -> dict[str, int]:
        if self.config.layout != "flattened":
            return {"semantic_embedding.weight": 0}
        vocabulary = Flattening.of(self.config, self.specs).vocabulary
        return {"language_model.embedding.weight": vocabulary.start("semantic")}

    def usable(self, speech: Speech) -> list[int]:
        return [index for index in speech.indices if speech.beats(index)]

    def length(self, speech: Speech, index: int) -> int:
        beats = self.config.prompt.expected_beats(speech, index)
        if self.config.layout != "flattened":
            return beats * speech.grid.acoustic_per_beat + self.config.delay * (self.config.levels - 1)
        return beats * (speech.grid.semantic_per_beat + self.config.levels * speech.grid.acoustic_per_beat) + 2

    def row(self, speech: Speech, index: int, rng: np.random.Generator, given: str | None = None) -> Span:
        """See `Stage.row`."""
        span = draw_span(speech, index, rng, self.config.levels, self.config.prompt, given)
        deaf = given is None and self.config.semantic_drop > 0 and rng.random() < self.config.semantic_drop
        return replace(span, deaf=True) if deaf else span

    def collate(self, rows: Sequence[Any]) -> Batch:
        return self._flattened(rows) if self.config.layout == "flattened" else self._aligned(rows)

    def _aligned(self, rows: Sequence[Span]) -> Batch:
        """Of all rows: semantic int64 [T], codes int64 [levels, S]; of each step: beside int64 [S], the semantic frame
        that sounds with it, prompted int64 [S], and heard float [S], 0 where semantic tokens are not told; learned
        int64 [M]: frames after the prompts. S is T' plus delays; level q of a frame lies q · delay steps after it."""
        grid, late = self.specs.grid, self.config.delay
        codes = [delay(row.codes, late, self.specs.acoustic.size) for row in rows]
        frames = Packed.of([row.shape[1] for row in codes])
        semantic = Packed.of([len(row.semantic) for row in rows])
        lengths = torch.tensor(frames.lengths)
        begins, prompts, ends, deaf = (
            torch.as_tensor(of).repeat_interleave(lengths)
            for of in (
                semantic.edges[:-1].long(),
                [row.prompt for row in rows],
                [row.codes.shape[1] for row in rows],
                [row.deaf for row in rows],
            )
        )
        learned = (frames.steps >= prompts) & (frames.steps < ends)
        sounding = torch.minimum(frames.steps, ends - 1)
        return Batch(
            {
                "semantic": torch.from_numpy(np.concatenate([row.semantic for row in rows]).astype(np.int64)),
                "codes": torch.from_numpy(np.concatenate(codes, axis=1)),
                "beside": begins + sounding * grid.semantic_per_beat // grid.acoustic_per_beat,
                "prompted": (frames.steps < prompts).long(),
                "heard": (~deaf).float(),
                "learned": learned.nonzero()[:, 0],
            },
            {"frames": frames, "semantic": semantic},
        )

    def _flattened(self, rows: Sequence[Span]) -> Batch:
        """Of all rows: tokens int64 [S], positions float [S]; and where the loss lies: learned, targets, level [M]."""
        flat = Flattening.of(self.config, self.specs)
        ids, positions, first = [], [], []
        for row in rows:
            given, before = flat.prefix(row.semantic)
            codes = flat.flatten(row.codes)
            ids.append(np.concatenate([given, codes]))
            positions.append(np.concatenate([before, 1 + np.arange(len(codes), dtype=np.float32)])[:-1])
            first.append(len(given) + row.prompt * flat.levels)
        packed = Packed.of([len(row) - 1 for row in ids])
        targets = [row[start:] for row, start in zip(ids, first, strict=True)]
        return Batch(
            {
                "tokens": torch.from_numpy(np.concatenate([row[:-1] for row in ids])),
                "positions": torch.from_numpy(np.concatenate(positions)),
                "learned": learned_positions(packed, [start - 1 for start in first]),
                "targets": torch.from_numpy(np.concatenate(targets)),
                "level": torch.cat([torch.arange(len(row)) % flat.levels for row in targets]),
            },
            {"rows": packed},
        )
