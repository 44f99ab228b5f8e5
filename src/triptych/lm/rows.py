"""Rows of ids, through a language model: what is legal, what ends them, and how the next id is drawn.

    prompt ─ id ─ id ─ id ─ end        with guidance the same new ids after a second prompt, without the condition

Knows nothing of tokenization: the caller says which ids are legal, which one ends, and at which positions they lie.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from triptych.lm.cache import Cache
from triptych.lm.decode import Decoded, R, run
from triptych.lm.engine import Engine, Product
from triptych.lm.sampling import RepetitionGuard, Sampling, choose, guide
from triptych.lm.transformer import LanguageModel

BROKEN = "the model's logits are not numbers: its checkpoint is broken, go back to an earlier one"


class Sampled(Decoded, Protocol):
    """What a row has that draws one id at a time."""

    sampling: Sampling
    generator: torch.Generator


def draw(rows: Sequence[Sampled], logits: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
    """The next ids [R] of rows, and the scores [R, V] that they are drawn from: logits [places, V], guided where a row
    has two places.

    Args:
        legal: bool [V] or [R, V].
    """
    sampling, places = rows[0].sampling, len(rows[0].caches)
    if all(row.sampling == sampling and len(row.caches) == places for row in rows):
        own = logits.view(len(rows), places, -1)
        scores = guide(own[:, 0], own[:, 1], sampling.guidance) if places == 2 else own[:, 0]
        return choose(scores, legal, sampling, [row.generator for row in rows]), scores
    each = logits.split([len(row.caches) for row in rows])
    drawn = [
        draw([row], own, legal if legal.dim() == 1 else legal[r])
        for r, (row, own) in enumerate(zip(rows, each, strict=True))
    ]
    return torch.cat([ids for ids, _ in drawn]), torch.cat([scores for _, scores in drawn])


@dataclass
class Row:
    """Ids to be decoded after a prompt."""

    prompt: Tensor
    """int64 [S], S at least 1"""
    positions: Tensor
    """float [S]"""
    legal: Sequence[Tensor]
    """bool [V] each: number i mod P holds for new id i"""
    max_new: int
    sampling: Sampling
    generator: torch.Generator
    eos_id: int | None = None
    """ends the sequence; allowed from new id number `min_new` on. None: exactly `max_new` ids"""
    min_new: int = 0
    unconditional: tuple[Tensor, Tensor] | None = None
    """the prompt without its condition, and its positions; with guidance"""
    position_of: Callable[[int], float] | None = None
    """of new id i; None: consecutive, after the prompt's last"""
    new: list[int] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.prompt.dim() == 1 and len(self.prompt), "a prompt is int [S] with at least one id"
        if self.sampling.guidance != 1.0 and self.unconditional is None:
            said = f"guidance {self.sampling.guidance} needs an unconditional prompt"
            raise ValueError(f"{said}: give one, or set guidance=1")
        self.guard = RepetitionGuard(self.sampling)
        bodies = [legal.clone() for legal in self.legal]
        if self.eos_id is not None:
            for body in bodies:
                body[self.eos_id] = False
        self._bodies, self._endings = bodies, [legal.clone() for legal in bodies]
        if self.eos_id is not None:
            for ending in self._endings:
                ending[self.eos_id] = True
        allowed = self._endings if self.min_new == 0 else self._bodies
        assert all(bool(rows.any()) for rows in allowed), "no id is legal"

    def allowed(self) -> Tensor:
        """bool [V], of the id that comes next."""
        i = len(self.new)
        legal = (self._bodies if i < self.min_new else self._endings)[i % len(self._bodies)]
        return self.guard.narrow(legal) if self.guard.active else legal

    def place(self) -> float:
        """Position of the id chosen last."""
        i = len(self.new) - 1
        return self.position_of(i) if self.position_of else float(self.positions[-1]) + 1 + i

    def take(self, id: int) -> bool:
        """Takes note of an id; whether another one may follow."""
        if id == self.eos_id:
            return False
        self.new.append(id)
        self.guard.show(id)
        return len(self.new) < self.max_new


class LanguageRule:
    """Rows of ids, through a language model."""

    def __init__(self, model: LanguageModel, engine: Engine) -> None:
        assert not model.training, "decode with a model in eval mode"
        self.model, self.engine = model, engine
        packed = engine.tier != "plain"
        self.head: Product = engine.product((model.head or model.embedding).weight) if packed else model.logits

    def begin(self, row: Row) -> tuple[list[tuple[Tensor, Tensor]], int]:
        guided = row.unconditional is not None and row.sampling.guidance != 1.0
        prompts = [(row.prompt, row.positions), *([row.unconditional] if guided and row.unconditional else [])]
        device = self.engine.device
        read = [(self.model.embedding(ids.to(device)), places.float().to(device)) for ids, places in prompts]
        return read, row.max_new

    def note(self, rows: Sequence[Row], hidden: Tensor) -> list[bool]:
        logits = self.head(hidden)
        if any(not row.new for row in rows) and bool(logits.isnan().any()):
            raise ValueError(BROKEN)
        ids, _ = draw(rows, logits, torch.stack([row.allowed() for row in rows]))
        return [row.take(id) for row, id in zip(rows, ids.tolist(), strict=True)]

    def follow(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        device = self.engine.device
        ids = [[row.new[-1]] * len(row.caches) for row in rows]
        places = [[row.place()] * len(row.caches) for row in rows]
        x: Tensor = self.model.embedding(torch.tensor(list(chain(*ids)), device=device))
        return x, torch.tensor(list(chain(*places)), device=device)


def one(row: R) -> Generator[R, R, None]:
    """The job of a single row."""
    yield row


def generate(
    model: LanguageModel,
    prompt_ids: Tensor,
    *,
    legal: Tensor,
    eos_id: int | None,
    max_new: int,
    sampling: Sampling,
    generator: torch.Generator,
    min_new: int = 0,
    unconditional_ids: Tensor | None = None,
    positions: Tensor | None = None,
    unconditional_positions: Tensor | None = None,
    position_of: Callable[[int], float] | None = None,
    engine: Engine | None = None,
) -> list[int]:
    """Continues a prompt; returns the new ids, without the one that ended them.

    Args:
        prompt_ids: int [S], S at least 1.
        legal: bool [V], or [P, V]: row i mod P holds for new id i. `eos_id` need not be in it.
        eos_id: ends the sequence; allowed from new id number `min_new` on. None: exactly `max_new` ids.
        unconditional_ids: int [S'], the prompt without its condition; needed where guidance is not 1.
        positions: [S] of the prompt; default 0..S-1.
        unconditional_positions: [S'] likewise; default: consecutive, up to the prompt's last position.
        position_of: position of new id i; default: consecutive, after the prompt's last position.
        engine: of the model's transformer; default: the module as it is.
    Raises:
        ValueError: guidance without an unconditional prompt, or a model whose logits are not numbers.
    """
    device = model.embedding.weight.device
    positions = torch.arange(len(prompt_ids)).float() if positions is None else positions.float()
    bare = None
    if unconditional_ids is not None:
        if unconditional_positions is None:
            unconditional_positions = positions[-1].cpu() - torch.arange(len(unconditional_ids)).flip(0)
        bare = unconditional_ids.long(), unconditional_positions.float()
    rows = list(legal.reshape(-1, legal.shape[-1]).to(device))
    row = Row(
        prompt_ids.long(), positions, rows, max_new, sampling, generator, eos_id, min_new, bare, position_of
    )  # fmt: skip
    if max_new:
        for _ in run(LanguageRule(model, engine or Engine(model.transformer)), [one(row)]):
            pass
    return row.new
