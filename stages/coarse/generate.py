"""Coarse codes from semantic tokens, in the voice of a prompt; many requests at once. Knows no audio."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.lm.blocks import Precision
from triptych.lm.cache import Cache
from triptych.lm.decode import run
from triptych.lm.engine import Engine, make_engine
from triptych.lm.rows import BROKEN, LanguageRule, Row, draw
from triptych.lm.sampling import Sampling
from triptych.stages.coarse.model import AlignedModel, FlattenedModel
from triptych.stages.coarse.sequence import CoarseStage, delay, undelay
from triptych.stages.span import Span
from triptych.stages.speech import Tokens
from triptych.stages.windows import Schedule, Window

if TYPE_CHECKING:
    from triptych.tokenizers.acoustic.codec import AcousticTokenizer

TAIL_SECONDS = 2.0
"""of what is made already, heard again by the next window"""
Entries = Mapping[int, Tensor]
"""Level to what each of its entries [size, D] adds to the codec's latent"""
NONE: Entries = MappingProxyType({})


def expected_entries(stage: CoarseStage, codec: "AcousticTokenizer", count: int, heard: int) -> Entries:
    """Of the last `count` of the `heard` levels.

    Raises:
        ValueError: there are not so many, the stage's layout draws all levels, or the codec's entries are not known.
    """
    if count > heard:
        raise ValueError(f"expected_levels={count}: the coarse stage makes {heard} that are heard")
    if count and stage.config.layout == "flattened":
        raise ValueError("expected_levels: a coarse stage of the flattened layout draws all levels; leave it at 0")
    return {level: codec.entries(level) for level in range(heard - count, heard)}


def check_guidance(layout: str, sampling: Sampling) -> None:
    """
    Raises:
        ValueError: a layout of which nothing is guided.
    """
    if layout == "flattened" and sampling.guidance != 1:
        raise ValueError("coarse.guidance: a coarse stage of the flattened layout has none; leave it at 1")


def coarse_rule(
    model: AlignedModel | FlattenedModel, precision: Precision | None = None, steps: int = 0
) -> "CoarseRule":
    """How codes are decoded; None: with the weights that the model has at the moment, as in training."""
    inner = model.transformer if isinstance(model, AlignedModel) else model.language_model.transformer
    engine = make_engine(inner, precision, steps) if precision else Engine(inner)
    return AlignedRule(model, engine) if isinstance(model, AlignedModel) else FlattenedRule(model, engine)


@dataclass
class CoarseWork:
    """Codes in the making: of a request, window by window."""

    stage: CoarseStage
    prompt: Span
    """the voice: its semantic tokens and codes; may be empty"""
    sampling: Sampling
    generator: torch.Generator
    made: Tokens
    """[levels, n] so far"""
    first_seconds: float = 0.0
    """of the first window; 0: the longest"""
    semantic: Tokens = field(default_factory=lambda: np.zeros(0, np.uint16))
    """[T] so far"""
    ended: bool = False
    """`semantic` is all there is"""
    number: int = 0
    """windows made"""
    expected: Entries = field(default_factory=lambda: NONE)
    """of the levels that are heard as the mean of their entries, as likely as the stage finds each"""
    shift: NDArray[np.float32] | None = None
    """[D, n] from the entries that were drawn to those means, summed over `expected`; None where that is empty"""

    def job(self, rule: "CoarseRule", windows: int | None = None) -> Generator[Any, Any, None]:
        """Makes what can be made of the semantic tokens so far, window after window, `windows` of them at most; see
        `lm.decode`."""
        grid, levels = self.stage.specs.grid, self.stage.config.levels
        s, a = grid.semantic_per_beat, grid.acoustic_per_beat
        last = None if windows is None else self.number + windows
        while self.number != last and (window := self._window()) is not None:
            tail = self.made[:, window.context * a : window.start * a]
            known = np.concatenate([self.prompt.codes[:levels], tail], axis=1)
            heard = np.concatenate([self.prompt.semantic, self.semantic[window.context * s : window.stop * s]])
            span = Span(heard, known, self.prompt.codes.shape[1])
            new = (window.stop - window.start) * a
            row = yield rule.row(span, new, self.sampling, self.generator, self.expected)
            if self.expected:
                shift = rule.shift(row)
                before = np.zeros((len(shift), self.made.shape[1]), np.float32) if self.shift is None else self.shift
                self.shift = np.concatenate([before, shift], axis=1)
            self.made = np.concatenate([self.made, rule.codes(row)], axis=1)
            self.number += 1

    @property
    def done(self) -> bool:
        """Whether all is made."""
        return self.ended and self._window() is None

    def _window(self) -> Window | None:
        """The next one that can be made."""
        grid = self.stage.specs.grid
        s, a = grid.semantic_per_beat, grid.acoustic_per_beat
        longest = grid.beats(self.stage.config.prompt.max_seconds) - len(self.prompt.semantic) // s
        schedule = Schedule.of(grid, longest, TAIL_SECONDS, self.first_seconds)
        return schedule.next(self.number, self.made.shape[1] // a, len(self.semantic) // s, self.ended)


def generate_coarse(
    stage: CoarseStage,
    model: AlignedModel | FlattenedModel,
    semantic: Tokens,
    prompt: Span,
    sampling: Sampling,
    generator: torch.Generator,
    made: Tokens | None = None,
) -> Tokens:
    """Codes [levels, T'] of semantic tokens [T], T whole beats; windows where they are longer than a training row.

    Args:
        prompt: the voice: its semantic tokens and codes; may be empty.
        made: codes [Q, n] of the first frames, where these exist already; the result begins with them.
    """
    levels = stage.config.levels
    before = np.zeros((levels, 0), np.uint16) if made is None else made[:levels]
    work = CoarseWork(stage, prompt, sampling, generator, before, semantic=semantic, ended=True)
    rule = coarse_rule(model)
    for _ in run(rule, [work.job(rule)]):
        pass
    return work.made


@dataclass
class AlignedRow:
    """`new` frames after those of `span`, whose semantic tokens cover both."""

    span: Span
    new: int
    sampling: Sampling
    generator: torch.Generator
    expected: Entries
    frames: list[Tensor] = field(default_factory=list)
    """int64 [levels] of each new step, which is a frame where levels are not delayed"""
    caches: list[Cache] = field(default_factory=list)
    conditions: list[Tensor] = field(default_factory=list)
    """[new steps, D], with their flag added; with guidance a second one, without what that acts on"""
    first: list[int] = field(default_factory=list)
    """likewise, the position of the first new step"""
    given: list[Tensor] = field(default_factory=list)
    """likewise, int64 [levels, new steps]: what delays put there of the frames before; -1 elsewhere"""
    shifts: dict[int, list[Tensor]] = field(default_factory=dict)
    """of each level of `expected`, [D] of each new frame: its mean entry, less the one that was drawn"""

    def went_in(self, place: int) -> Tensor:
        """int64 [levels]: what the next step of a place is given."""
        given = self.given[place][:, len(self.frames) - 1]
        return torch.where(given < 0, self.frames[-1], given)


class AlignedRule:
    """One step a frame, level by level within it, or with its levels delayed."""

    def __init__(self, model: AlignedModel, engine: Engine) -> None:
        self.model, self.engine = model, engine
        packed = engine.tier != "plain"
        self._heads, self._chosen = (
            [engine.product(part.weight) if packed else part for part in parts]  # type: ignore[arg-type]
            for parts in (model.heads, model.chosen)
        )
        self._legal = torch.ones(model.size, dtype=torch.bool, device=model.start.device)

    def row(
        self, span: Span, new: int, sampling: Sampling, generator: torch.Generator, expected: Entries = NONE
    ) -> AlignedRow:
        entries = {q: each.to(self.engine.device, torch.float32) for q, each in expected.items()}
        return AlignedRow(span, new, sampling, generator, entries, shifts={q: [] for q in entries})

    def codes(self, row: AlignedRow) -> Tokens:
        """[levels, new] of a row that is done."""
        return undelay(torch.stack(row.frames, 1).cpu().numpy(), self.model.delay)

    def shift(self, row: AlignedRow) -> NDArray[np.float32]:
        """[D, new] of a row that is done, whose `expected` is not empty."""
        levels = torch.stack([torch.stack(level, 1) for level in row.shifts.values()])
        return np.asarray(levels.sum(0).cpu().numpy())

    def begin(self, row: AlignedRow) -> tuple[list[tuple[Tensor, Tensor]], int]:
        spans = [row.span]
        if row.sampling.guidance != 1.0 and self.model.semantic_drop:
            spans.append(replace(row.span, deaf=True))
        elif row.sampling.guidance != 1.0 and row.span.prompt:
            heard = row.span.prompt * self.model.semantic_per_beat // self.model.acoustic_per_beat
            spans.append(Span(row.span.semantic[heard:], row.span.codes[:, row.span.prompt :], 0))
        return [self._prompt(row, span) for span in spans], row.new + self.model.tail

    def _prompt(self, row: AlignedRow, span: Span) -> tuple[Tensor, Tensor]:
        """Embeddings and positions of all steps up to the first new one."""
        model, device, known = self.model, self.engine.device, span.codes.shape[1]
        condition = model.encode(torch.from_numpy(span.semantic.astype(np.int64))[None].to(device), span.deaf)[0]
        condition = condition + model.flag((torch.arange(len(condition), device=device) < span.prompt).long())
        row.conditions.append(condition[known:])
        row.first.append(known)
        to_come = np.full((model.levels, row.new), -1)
        codes = delay(np.concatenate([span.codes.astype(np.int64), to_come], 1), model.delay, model.size)
        steps = torch.from_numpy(codes).to(device)
        row.given.append(steps[:, known:])
        before = torch.cat([model.start.expand(1, -1), model.embed(steps[None, :, :known])[0]])
        return before + condition[: known + 1], torch.arange(known + 1, device=device).float()

    def note(self, rows: Sequence[AlignedRow], hidden: Tensor) -> list[bool]:
        model = self.model
        frame = torch.zeros(len(rows), model.levels, dtype=torch.long, device=hidden.device)
        of_place = [r for r, row in enumerate(rows) for _ in row.caches]
        for q in range(model.levels):
            if q and self._chosen:
                below: nn.Module = model.code_embedding[q - 1]
                hidden = hidden + self._chosen[q - 1](below(frame[of_place, q - 1]))
            logits = self._heads[q](model.head_norm[q](hidden))
            if not q and any(not row.frames for row in rows) and bool(logits.isnan().any()):
                raise ValueError(BROKEN)
            new = [r for r, row in enumerate(rows) if 0 <= len(row.frames) - q * model.delay < row.new]
            for r in set(range(len(rows))).difference(new):  # known, or no frame at all
                frame[r, q] = rows[r].given[0][q, len(rows[r].frames)]
            if len(new) < len(rows):
                logits = logits[[place for place, r in enumerate(of_place) if r in new]]
            if new:
                ids, scores = draw([rows[r] for r in new], logits, self._legal)
                frame[new, q] = ids.to(frame.device)
            if any(q in rows[r].expected for r in new):
                for r, likely in zip(new, torch.nan_to_num(scores.float(), nan=-1e30).softmax(-1), strict=True):
                    if q in rows[r].expected:
                        entries = rows[r].expected[q]
                        rows[r].shifts[q].append(likely @ entries - entries[frame[r, q]])
        for row, chosen in zip(rows, frame, strict=True):
            row.frames.append(chosen)
        return [len(row.frames) < row.new + model.tail for row in rows]

    def follow(self, rows: Sequence[AlignedRow]) -> tuple[Tensor, Tensor]:
        codes = torch.stack([row.went_in(place) for row in rows for place in range(len(row.caches))])
        before = self.model.embed(codes[:, :, None])[:, 0]
        condition = torch.stack([condition[len(row.frames)] for row in rows for condition in row.conditions])
        places = [float(first + len(row.frames)) for row in rows for first in row.first]
        return before + condition, torch.tensor(places, device=before.device)


class FlattenedRule(LanguageRule):
    """One step a code."""

    def __init__(self, model: FlattenedModel, engine: Engine) -> None:
        super().__init__(model.language_model, engine)
        self.flattening = model.flattening
        self._legal = list(model.flattening.legal().to(engine.device))

    def row(
        self, span: Span, new: int, sampling: Sampling, generator: torch.Generator, expected: Entries = NONE
    ) -> Row:
        assert not expected, "see expected_entries"
        check_guidance("flattened", sampling)
        flat = self.flattening
        given, positions = flat.prefix(span.semantic)
        known = flat.flatten(span.codes)
        after = np.array([flat.position_of(j) for j in range(len(known))], dtype=np.float32)
        return Row(
            torch.from_numpy(np.concatenate([given, known])),
            torch.from_numpy(np.concatenate([positions, after])),
            self._legal,
            new * flat.levels,
            sampling,
            generator,
            position_of=lambda i: flat.position_of(len(known) + i),
        )

    def codes(self, row: Row) -> Tokens:
        return self.flattening.unflatten(np.array(row.new, dtype=np.int64))

    def shift(self, row: Row) -> NDArray[np.float32]:
        raise AssertionError("no level of its is expected")


CoarseRule = AlignedRule | FlattenedRule
