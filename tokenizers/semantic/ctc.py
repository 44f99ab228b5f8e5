"""CTC's classes, what it says, and how far that is from what was said. Knows arrays, no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer

STRESS_MARKS = "ˈˌ"


@dataclass(frozen=True)
class TextClasses:
    """Text token ids as CTC counts them: `class_of[id]`, -1 for those left out."""

    class_of: tuple[int, ...]
    names: tuple[str, ...]
    """of each class"""

    @classmethod
    def named(cls, text: "TextTokenizer", names: Sequence[str]) -> "TextClasses":
        """The classes that a CTC head has, whatever its order; tokens that it does not know are left out."""
        spelled = spellings(text)
        places = {name: place for place, name in enumerate(names)}
        found = [places.get(name, places.get(name.lstrip(STRESS_MARKS), -1)) for name in spelled]
        return cls(tuple(found), tuple(names))

    @classmethod
    def of(cls, text: "TextTokenizer", skip: Sequence[str], stress: bool) -> "TextClasses":
        spelled = spellings(text)
        if not stress:
            spelled = [name.lstrip(STRESS_MARKS) for name in spelled]
        names = list(dict.fromkeys(name for name in spelled if name not in skip))
        places = {name: place for place, name in enumerate(names)}
        return cls(tuple(places.get(name, -1) for name in spelled), tuple(names))

    def encode(self, text: "TextTokenizer", words: str) -> NDArray[np.int64]:
        return self.of_tokens(text.encode(words))

    def of_tokens(self, tokens: NDArray[Any]) -> NDArray[np.int64]:
        """Of text tokens [L], those that have a class."""
        classes = np.asarray(self.class_of, dtype=np.int64)[tokens.astype(np.int64)]
        return np.asarray(classes[classes >= 0], dtype=np.int64)


def spellings(text: "TextTokenizer") -> list[str]:
    """Each token of a front end as it spells it."""
    return [text.decode(np.array([i])).strip() for i in range(text.spec.size)]


def collapse(ids: NDArray[Any]) -> NDArray[Any]:
    """[T] without repeats."""
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if len(ids) else ids


def greedy(best: NDArray[np.int64], blank: int) -> list[int]:
    """The best class of each step [T] -> classes without repeats and blanks."""
    return [int(item) for item in collapse(best) if item != blank]


def edit_distance(said: Sequence[int], meant: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that turn one into the other (Levenshtein)."""
    places = np.arange(len(meant) + 1)
    other, row = np.asarray(meant), places
    for i, item in enumerate(said, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != item))
        # an insertion costs 1 a place: the least of all that come from the left, in one sweep
        row = np.minimum.accumulate(np.concatenate([[i], best]) - places) + places
    return int(row[-1])


def edits_a_run(heard: NDArray[Any], meant: NDArray[Any]) -> float:
    """Edits between the tokens [T] that are heard and those that were meant, a run of equal ones that was meant: how
    long a sound is held is not counted."""
    wanted = collapse(meant).tolist()
    return edit_distance(collapse(heard).tolist(), wanted) / max(1, len(wanted))


def nats_a_class(log_probabilities: Tensor, text: NDArray[np.int64]) -> float:
    """-log p(text | log_probabilities [T, classes + 1]) over the classes of `text`; infinite where it does not fit."""
    steps, length = torch.tensor([len(log_probabilities)]), torch.tensor([len(text)])
    blank, meant = log_probabilities.shape[1] - 1, torch.from_numpy(text)[None]
    loss = F.ctc_loss(log_probabilities[:, None], meant, steps, length, blank, reduction="sum")
    return float(loss) / max(1, len(text))


def ctc_fits(text: NDArray[np.int64], steps: int) -> bool:
    """Whether CTC can align `text` to `steps`: one step a class, and a blank between equal neighbours."""
    return len(text) > 0 and len(text) + int((text[1:] == text[:-1]).sum()) <= steps


def align(log_probabilities: NDArray[np.float32], text: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """The likeliest way in which CTC says `text`: [T], the place in `text` that each step says, -1 for a blank.

    Viterbi over the text with blanks between (Graves et al. 2006, section 4.1).

    Args:
        log_probabilities: [T, classes + 1]
    Raises:
        ValueError: `text` is empty, or does not fit the steps.
    """
    if not ctc_fits(text, len(log_probabilities)):
        raise ValueError(f"{len(text)} classes cannot be aligned to {len(log_probabilities)} steps")
    states = np.full(2 * len(text) + 1, blank, dtype=np.int64)
    states[1::2] = text
    heard = log_probabilities[:, states].astype(np.float64)
    may_skip = np.zeros(len(states), dtype=bool)
    may_skip[3::2] = text[1:] != text[:-1]
    came = np.zeros(heard.shape, dtype=np.int8)
    score = np.full(len(states), -np.inf)
    score[:2] = heard[0, :2]
    for step in range(1, len(heard)):
        ways = np.full((3, len(states)), -np.inf)
        ways[0] = score
        ways[1, 1:] = score[:-1]
        ways[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        came[step] = ways.argmax(axis=0)
        score = ways.max(axis=0) + heard[step]
    state = len(states) - (1 if score[-1] >= score[-2] else 2)
    said = np.zeros(len(heard), dtype=np.int64)
    for step in range(len(heard) - 1, -1, -1):
        said[step] = (state - 1) // 2 if state % 2 else -1
        state -= int(came[step, state])
    return said


def spread(said: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """As `align` gives it, with each blank given to the nearest step that says something, if within `reach` steps."""
    spoken = np.flatnonzero(said >= 0)
    places = np.arange(len(said))
    after = np.minimum(np.searchsorted(spoken, places), len(spoken) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.where(np.abs(spoken[before] - places) <= np.abs(spoken[after] - places), spoken[before], spoken[after])
    return np.where(np.abs(nearer - places) <= reach, said[nearer], -1)
