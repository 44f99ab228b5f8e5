"""What else a recording with its text can teach the semantic stage, beside speaking. Switched on in the config.

    speak        [bos] x x x x [sep] s s s s s s [eos]                text to speech: sequence.py
    recognise    [bos] s s s s s s [sep] x x x x [eos]                speech to text, as in AudioPaLM; loss on x, [eos]
    interleave   [bos] x x [turn] s s s [turn] x [turn] s s [eos]     each goes on where the other left off, as in
                 [bos] s s s [turn] x x [eos]                         SpiritLM; loss on all after the first span

    positions in time: a frame takes 1, a text symbol frames_per_symbol, [sep] and [turn] lie at 0

[turn] has an id of its own, since after [sep] the same text is said again and after [turn] it is gone on with. Where a
text is cut, the speech is cut at the same share of its length: there is no aligner, and a cut may miss by half a word.
Knows no model.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.training.config import STRICT

if TYPE_CHECKING:
    from triptych.stages.semantic.sequence import Layout

MOST_CUTS = 3

Parts = tuple[NDArray[np.int64], NDArray[np.float32], int]
"""ids, positions, index of the first that is learned: the fields of `sequence.Row`"""


@config_dataclass(frozen=True, config=STRICT)
class TaskConfig:
    """How the rows of recordings with text are dealt among the tasks; numbers that are weighed against each other."""

    speak: float = 1.0
    """text to speech"""
    recognise: float = 0.0
    """speech to text"""
    interleave: float = 0.0
    """text and speech in turn"""

    def __post_init__(self) -> None:
        if min(self.speak, self.recognise, self.interleave) < 0 or self.speak + self.recognise + self.interleave <= 0:
            raise ValueError("tasks: weights are 0 or more, and one of them is more than 0")

    @property
    def also(self) -> tuple[str, ...]:
        """The tasks beside speaking."""
        return tuple(name for name in ("recognise", "interleave") if getattr(self, name) > 0)

    def draw(self, rng: np.random.Generator) -> str:
        """A task at random, by weight."""
        if not self.also:
            return "speak"
        names = ("speak", *self.also)
        weights = np.array([getattr(self, name) for name in names])
        return str(rng.choice(names, p=weights / weights.sum()))


def recognition(layout: "Layout", text: NDArray[Any], semantic: NDArray[Any]) -> Parts:
    """[bos] s … [sep] x … [eos]; without `text` [L] what is given alone."""
    v, pace = layout.vocabulary, layout.frames_per_symbol or 1.0
    heard, said = _ids(layout, "semantic", semantic), _ids(layout, "text", text)
    ends = [v.id("eos")] if len(text) else []
    ids = np.concatenate([[v.id("bos")], heard, [v.id("sep")], said, ends]).astype(np.int64)
    after = np.arange(len(said) + len(ends)) * pace
    return ids, _positions(layout, [[0], np.arange(len(heard)), [0], after]), len(heard) + 2


def interleaved(layout: "Layout", text: NDArray[Any], semantic: NDArray[Any], rng: np.random.Generator) -> Parts:
    """Spans of text and of speech in turn, cut at random; the first is of either kind."""
    v, pace, frames = layout.vocabulary, layout.frames_per_symbol or 1.0, len(semantic) / len(text)
    most = min(MOST_CUTS, len(text) - 1)
    cuts = rng.choice(np.arange(1, len(text)), int(rng.integers(1, most + 1)), replace=False) if most else np.zeros(0)
    edges, written = [0, *sorted(int(cut) for cut in cuts), len(text)], bool(rng.integers(2))
    ids: list[Any] = [[v.id("bos")]]
    places: list[Any] = [[0]]
    now, first = 0.0, 0
    for start, stop in pairwise(edges):
        if start:
            ids.append([v.id("turn")])
            places.append([0])
        heard = semantic[round(start * frames) : round(stop * frames)]
        ids.append(_ids(layout, "text", text[start:stop]) if written else _ids(layout, "semantic", heard))
        step = pace if written else 1.0
        places.append(now + np.arange(len(ids[-1])) * step)
        now += len(ids[-1]) * step
        first, written = first or 1 + len(ids[-1]), not written
    ids.append([v.id("eos")])
    return np.concatenate(ids).astype(np.int64), _positions(layout, [*places, [now]]), first


def _positions(layout: "Layout", places: list[Any]) -> NDArray[np.float32]:
    """In time as they are, or counted."""
    flat = np.concatenate(places).astype(np.float32)
    return flat if layout.frames_per_symbol is not None else np.arange(len(flat), dtype=np.float32)


def _ids(layout: "Layout", block: str, tokens: NDArray[Any]) -> NDArray[np.int64]:
    ids: NDArray[np.int64] = layout.vocabulary.ids(block, tokens.astype(np.int64))
    return ids


def mixed(paired: list[int], alone: list[int], frames: dict[int, int], share: float) -> list[int]:
    """Clips with text and clips without, repeated so that those without make up `share` of the frames.

    None is left out but at a share of 0 or 1; the scarcer kind is repeated, evenly.

    Args:
        frames: length of each clip.
    """
    total = {True: sum(frames[i] for i in alone), False: sum(frames[i] for i in paired)}
    if not total[True] or not total[False] or share in (0.0, 1.0):
        return sorted({0.0: paired, 1.0: alone}.get(share) or [*paired, *alone])
    ratio = share * total[False] / ((1 - share) * total[True])
    return sorted([*repeated(alone, max(1.0, ratio)), *repeated(paired, max(1.0, 1 / ratio))])


def repeated(items: list[int], times: float) -> list[int]:
    """Each item `times` times on average: the whole number for all, once more for evenly chosen ones."""
    bounds = np.floor(np.arange(len(items) + 1) * times).astype(int)
    return [item for item, start, stop in zip(items, bounds[:-1], bounds[1:], strict=True) for _ in range(start, stop)]
