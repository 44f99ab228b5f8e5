"""Decoding, id by id, for many requests at once: each has a slot, and a finished one makes room for the next.

    slot 0   prompt ─ id ─ id ─ id ─ end │ the next prompt ─ id ─ id …
    slot 1   a longer prompt ─ id ─ id ─ id ─ id ─ id ─ id …
                              └ one step of the engine for all slots ┘

A job is what one request has decoded, one piece after another: a generator that yields rows, one or several at a
time, and gets each back when it is done. With guidance a row takes two places of the step, its prompt with and without
the condition; both get the same new ids.

Invariant: what a row becomes depends on its prompt, its settings and its generator alone, not on the rows beside it.
Knows nothing of ids: a rule says how rows begin and go on; `lm/rows.py` has that of a language model.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from triptych.lm.cache import Cache
from triptych.lm.engine import Engine


class Decoded(Protocol):
    """What a row of any rule has."""

    caches: list[Cache]


R = TypeVar("R", bound=Decoded)
R_in = TypeVar("R_in", bound=Decoded, contravariant=True)
Job = Generator[Any, Any, None]
"""yields a row, or a list of rows to be decoded side by side, is sent the same when it is done, and yields the next, or
ends"""
Read = tuple[Tensor, Tensor, Cache, Tensor]
"""a prompt: embeddings [S, D], positions [S], its cache, and the hidden state [1, D] of its end"""


class Rule(Protocol[R_in]):
    """How rows are begun, and go on."""

    engine: Engine

    def begin(self, row: R_in) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Of each place that the row takes: embeddings [S, D] and positions [S] of its prompt; and the most steps."""
        ...

    def note(self, rows: Sequence[R_in], hidden: Tensor) -> list[bool]:
        """Chooses what comes next from hidden states [places, D], and takes note of it; which rows go on."""
        ...

    def follow(self, rows: Sequence[R_in]) -> tuple[Tensor, Tensor]:
        """Embeddings [places, D] and positions [places] of what was chosen last."""
        ...


@dataclass
class Turn:
    """What a job waits for."""

    job: Job
    asked: Any
    """a row, or a list of rows"""
    left: int
    """rows that are not done yet"""


def run(rule: Rule[R], jobs: Iterable[Job], slots: int = 1) -> Iterator[None]:
    """Decodes all jobs; yields after each step, and is done when it ends. A job is begun where fewer than `slots` rows
    are being decoded; what it asks for side by side comes on top of them."""
    assert slots > 0
    waiting, active = iter(jobs), list[tuple[Turn, R]]()
    spare: list[Cache] = []
    while True:
        while len(active) < slots and (job := next(waiting, None)) is not None:
            with torch.inference_mode():
                active += _begun(rule, job, next(job, None), spare)
            yield
        if not active:
            return
        with torch.inference_mode():
            rows = [row for _, row in active]
            x, positions = rule.follow(rows)
            hidden = rule.engine.read(x, positions, [cache for row in rows for cache in row.caches])
            left: list[tuple[Turn, R]] = []
            for (turn, row), more in zip(active, rule.note(rows, hidden), strict=True):
                left += [(turn, row)] if more else _done(rule, turn, row, spare)
            active = left
        yield


def _begun(rule: Rule[R], job: Job, asked: Any, spare: list[Cache]) -> list[tuple[Turn, R]]:
    """The rows that a job asks for, and those that it asks for next where they end at once."""
    while asked is not None:
        rows: list[R] = asked if isinstance(asked, list) else [asked]
        read: list[Read] = []
        if going := [row for row in rows if _goes_on(rule, row, spare, read)]:
            turn = Turn(job, asked, len(going))
            return [(turn, row) for row in going]
        asked = _next(job, asked)
    return []


def _goes_on(rule: Rule[R], row: R, spare: list[Cache], read: list[Read]) -> bool:
    """Begins a row; whether it has a second step. A prompt that was `read` for another row of its turn, which goes
    on, is copied."""
    prompts, steps = rule.begin(row)
    row.caches, last = [], []
    for x, positions in prompts:
        cache = _room(rule.engine, len(x) + steps, spare)
        row.caches.append(cache)
        same = next((one for one in read if torch.equal(one[0], x) and torch.equal(one[1], positions)), None)
        if same is None:
            last.append(rule.engine.read(x, positions, [cache] * len(x))[-1:])
        else:
            rule.engine.copy(cache, same[2])
            last.append(same[3])
    more = rule.note([row], torch.cat(last))[0]
    if more:
        read += [(*prompt, cache, end) for prompt, cache, end in zip(prompts, row.caches, last, strict=True)]
    else:
        _free(row, spare)
    return more


def _done(rule: Rule[R], turn: Turn, row: R, spare: list[Cache]) -> list[tuple[Turn, R]]:
    """What comes after a row that is done: nothing yet, where others of its turn go on."""
    _free(row, spare)
    turn.left -= 1
    return [] if turn.left else _begun(rule, turn.job, _next(turn.job, turn.asked), spare)


def _free(row: Decoded, spare: list[Cache]) -> None:
    spare += row.caches
    row.caches = []


def _next(job: Job, done: Any) -> Any:
    try:
        return job.send(done)
    except StopIteration:
        return None


def _room(engine: Engine, capacity: int, spare: list[Cache]) -> Cache:
    """A cache that is no longer used, if one is large enough."""
    for place, cache in enumerate(spare):
        if capacity <= cache.capacity:
            cache.filled = 0
            return spare.pop(place)
    spare.clear()
    return engine.cache(capacity)
