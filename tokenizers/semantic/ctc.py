"""What CTC says, and how far it is from what was said. Knows arrays of classes, no model and no text front end."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
