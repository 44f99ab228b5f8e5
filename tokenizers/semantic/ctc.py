"""CTC's classes, what it says, and how far that is from what was said. Knows arrays, no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
    def of(cls, text: "TextTokenizer", skip: Sequence[str], stress: bool) -> "TextClasses":
        spelled = [text.decode(np.array([i], dtype=np.uint16)).strip() for i in range(text.spec.size)]
        if not stress:
            spelled = [name.lstrip(STRESS_MARKS) for name in spelled]
        names = list(dict.fromkeys(name for name in spelled if name not in skip))
        places = {name: place for place, name in enumerate(names)}
        return cls(tuple(places.get(name, -1) for name in spelled), tuple(names))

    def encode(self, text: "TextTokenizer", words: str) -> NDArray[np.int64]:
        classes = np.asarray(self.class_of, dtype=np.int64)[text.encode(words).astype(np.int64)]
        return np.asarray(classes[classes >= 0], dtype=np.int64)


def greedy(best: NDArray[np.int64], blank: int) -> list[int]:
    """The best class of each step [T] -> classes without repeats and blanks."""
    changed = np.concatenate([[True], best[1:] != best[:-1]])
    return [int(item) for item in best[changed] if item != blank]


def edit_distance(said: Sequence[int], meant: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that turn one into the other (Levenshtein)."""
    row = list(range(len(meant) + 1))
    for i, item in enumerate(said, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(meant, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (item != other))
    return row[-1]


def ctc_fits(text: NDArray[np.int64], steps: int) -> bool:
    """Whether CTC can align `text` to `steps`: one step a class, and a blank between equal neighbours."""
    return len(text) > 0 and len(text) + int((text[1:] == text[:-1]).sum()) <= steps
