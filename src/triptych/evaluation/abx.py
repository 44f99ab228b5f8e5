"""ABX: is a phone nearer to the same phone of another speaker than to another phone? By fastabx (Poli et al. 2025).

    features [T, D] and phones [T] ─▶ one mean vector a phone that is said ─▶ triplets (A, B, X) ─▶ share that is wrong

Phones in any context, X from another speaker where speakers are known. Knows no encoder.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.tokens import Ids

PER_CELL, SPEAKERS = 10, 5
"""A, B and X of one pair of phones at most; speakers that X is drawn from"""


def abx_absence() -> str | None:
    """What to do where fastabx is missing; None where it is there."""
    return None if find_spec("fastabx") else "no package fastabx: pip install 'triptych[abx]', Python 3.12 or newer"


def segments(phones: Ids) -> list[tuple[int, int]]:
    """[begin, end) of each stretch of one known phone in phones [T]."""
    cuts = np.flatnonzero(np.diff(phones)) + 1
    bounds = pairwise([0, *cuts.tolist(), len(phones)])
    return [(begin, end) for begin, end in bounds if begin < end and phones[begin] >= 0]


def pooled(
    features: Sequence[NDArray[np.float32]], phones: Sequence[Ids], speakers: Sequence[str | None]
) -> tuple[NDArray[np.float32], dict[str, list[str]]]:
    """Mean vectors [n, D] of every phone that is said, with the labels `phone` and `speaker`."""
    vectors: list[NDArray[np.float32]] = []
    labels: dict[str, list[str]] = {"phone": [], "speaker": []}
    for frames, said, speaker in zip(features, phones, speakers, strict=True):
        for begin, end in segments(said):
            vectors.append(frames[begin:end].mean(axis=0))
            labels["phone"].append(str(said[begin]))
            labels["speaker"].append(speaker or "?")
    return np.array(vectors, dtype=np.float32), labels


def abx_error(
    features: Sequence[NDArray[np.float32]], phones: Sequence[Ids], speakers: Sequence[str | None], seed: int
) -> float:
    """0 is perfect, 0.5 is chance.

    Raises:
        ModuleNotFoundError: fastabx is not installed.
    """
    from fastabx import Dataset, Score, Subsampler, Task

    vectors, labels = pooled(features, phones, speakers)
    across = len(set(labels["speaker"])) > 1
    drawn = Subsampler(max_size_group=PER_CELL, max_x_across=SPEAKERS if across else None, seed=seed)
    dataset = Dataset.from_numpy(vectors, labels)
    task = Task(dataset, on="phone", across=["speaker"] if across else [], subsampler=drawn)
    return float(Score(task, "angular", progress=False).collapse(weighted=True))
