"""How many bits a level of a codec really needs. Knows ids, not sound.

    codes [Q, T'] of a clip
        level q-1   a  b  c  d                the ids that a coder knows when it comes to level q of frame t:
                          │                       above    level q-1 of the same frame
        level q     e  f ─?                       before   level q of the frame before
                                              q of level 0 has nothing above it, a first frame nothing before it

An adaptive coder learns counts from some clips, then codes others, learning on after each id: the bits that it spends
are those of a code that could be decoded, so they are an upper bound on what an ideal coder needs, never an
underestimate. (A plug-in estimate of a conditional entropy over 1,000 × 1,000 pairs would be one.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRENGTHS = (2.0, 16.0, 128.0)
"""ids' worth of trust in the plain frequencies where a context is rare; the coder finds out which is best"""
FAMILIES = {
    "alone": ("plain", "alone"),
    "above": ("plain", "alone", "above"),
    "before": ("plain", "alone", "before"),
    "both": ("plain", "alone", "above", "before", "both"),
}
"""what a coder may look at -> the predictions that it mixes; `plain` is 1 / size, so that none costs more than that"""


@dataclass(frozen=True)
class Spent:
    """Bits that a coder spent on one level of the counted clips."""

    bits: dict[str, list[float]]
    """name in FAMILIES -> bits a frame, a clip each"""
    frames: list[int]
    """of each clip"""


def entropy(ids: NDArray[np.integer], size: int) -> float:
    """Bits an id, of ids drawn alone; Miller and Madow's correction for what few draws miss; at most log2(size)."""
    counts = np.bincount(ids.astype(np.intp), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    plain = -float((shares * np.log2(shares)).sum())
    missed = (len(shares) - 1) / (2 * counts.sum() * np.log(2))
    return float(min(plain + missed, np.log2(size)))


def usage(ids: NDArray[np.integer], size: int) -> float:
    """Share of the entries that occur at all."""
    return len(np.unique(ids)) / size


def spent_bits(learn: Sequence[NDArray[np.integer]], counted: Sequence[NDArray[np.integer]], size: int) -> list[Spent]:
    """What each level of the clips `counted` costs a coder that has seen the clips `learn`.

    Args:
        learn, counted: codes [Q, T'] of clips, each T' ≥ 1.
    Returns:
        One record a level.
    """
    return [_Coder(size, level > 0).spend(learn, counted, level) for level in range(len(counted[0]))]


class _Coder:
    """The counts of one level, and how well each prediction has done so far."""

    def __init__(self, size: int, has_above: bool) -> None:
        self.size = size
        self.alone = np.zeros(size)
        self.before = np.zeros((size + 1, size), np.float32)  # row `size`: there is no frame before
        self.above = np.zeros((size, size), np.float32) if has_above else None
        contexts = ("before", "above", "both") if has_above else ("before",)
        sources = ["plain", "alone", *(part for part in contexts for _ in STRENGTHS)]
        self.merits = np.zeros(len(sources))
        """log2 likelihood of all ids so far, by prediction"""
        self.members = {name: np.flatnonzero([s in parts for s in sources]) for name, parts in FAMILIES.items()}

    def spend(self, learn: Sequence[NDArray[np.integer]], counted: Sequence[NDArray[np.integer]], level: int) -> Spent:
        """Learns, then codes the counted clips id by id."""
        for codes in learn:
            self.learn(*self.contexts(codes, level))
        bits: dict[str, list[float]] = {name: [] for name in FAMILIES}
        for codes in counted:
            contexts = (part.tolist() for part in self.contexts(codes, level))
            paid = [self.pay(*one) for one in zip(*contexts, strict=True)]
            for name, mean in zip(FAMILIES, np.mean(paid, axis=0), strict=True):
                bits[name].append(float(mean))
        return Spent(bits, [codes.shape[1] for codes in counted])

    def contexts(self, codes: NDArray[np.integer], level: int) -> tuple[NDArray[np.intp], ...]:
        """The ids [T'] of a level, those above them, and those before them."""
        ids = codes[level].astype(np.intp)
        return ids, codes[max(0, level - 1)].astype(np.intp), np.concatenate([[self.size], ids[:-1]])

    def learn(self, ids: NDArray[np.intp], above: NDArray[np.intp], before: NDArray[np.intp]) -> None:
        np.add.at(self.alone, ids, 1)
        np.add.at(self.before, (before, ids), 1)
        if self.above is not None:
            np.add.at(self.above, (above, ids), 1)

    def pay(self, one: int, above: int, before: int) -> list[float]:
        """Bits for one id, by family; then the id is known."""
        chances = self.chances(one, above, before)
        bits = []
        for members in self.members.values():
            weights = np.exp2(self.merits[members] - self.merits[members].max())
            bits.append(-math.log2(float(weights @ chances[members]) / float(weights.sum())))
        self.merits += np.log2(chances)
        self.alone[one] += 1
        self.before[before, one] += 1
        if self.above is not None:
            self.above[above, one] += 1
        return bits

    def chances(self, one: int, above: int, before: int) -> NDArray[np.float64]:
        """What each prediction gave to the id that came."""
        alone = (self.alone + 0.5) / (self.alone.sum() + 0.5 * self.size)
        free = [1 / self.size, alone[one]]
        earlier = _backed(self.before[before], alone)
        if self.above is None:
            return np.concatenate([free, earlier[:, one]])
        upper = _backed(self.above[above], alone)
        joint = earlier * upper / alone  # exact where the two contexts say independent things of the id
        return np.concatenate([free, earlier[:, one], upper[:, one], joint[:, one] / joint.sum(axis=1)])


def _backed(counts: NDArray[np.float32], alone: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances [strengths, size] in a context: its counts, and the plain frequencies (MacKay and Peto 1995)."""
    trust = np.array(STRENGTHS)[:, None]
    return np.asarray((counts + trust * alone) / (float(counts.sum()) + trust))
