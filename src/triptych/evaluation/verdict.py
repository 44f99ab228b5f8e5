"""Which part of a cascade loses most: the arithmetic of the cascade doctor.

    measure (word error, voice, …) ─▶ loss of a part = its rung's value against the next rung's, utterance by utterance
    share of a part = weighted mean over measures of   loss / what can be lost

What can be lost in a measure is what lies between the best rung and another recording put in its place (other words,
another voice): so that words, cosines and decibels can be added. Knows no sound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.estimate import FEWEST, INSIDE, Estimate
from triptych.evaluation.report import Values

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """What each part loses of one measure, utterance by utterance."""

    parts: dict[str, Values]
    """part -> utterance -> loss (above 0: something is lost), weight"""
    range: float
    """what can be lost"""
    weight: float = 1.0
    """of this measure among the others"""


def losses(
    rungs: Sequence[Values],
    parts: Sequence[str],
    floor: float | None,
    *,
    rising: bool,
    least: float,
    weight: float = 1.0,
) -> Losses | None:
    """Of one measure. None where nothing can be lost: the best rung was not measured, or the floor is hardly worse.

    Args:
        rungs: values on each rung, one more than `parts`; the last is the best.
        floor: mean of what is put in the place of the best.
        rising: whether more is better.
        least: by which the floor must be worse, or shares of so little would be large.
    """
    sign, best = 1.0 if rising else -1.0, mean(rungs[-1])
    if best is None or floor is None or sign * (best - floor) < least:
        return None
    found: dict[str, Values] = {}
    for part, made, better in zip(parts, rungs[:-1], rungs[1:], strict=True):
        found[part] = {u: (sign * (better[u][0] - made[u][0]), w) for u, (_, w) in made.items() if u in better}
    return Losses(found, sign * (best - floor), weight)


def mean(values: Values) -> float | None:
    """By weight."""
    total = sum(w for _, w in values.values())
    return sum(v * w for v, w in values.values()) / total if total else None


@dataclass(frozen=True)
class Verdict:
    """Which part to work on first."""

    part: str | None
    """None: no part loses more than chance may, or there are too few utterances to say"""
    sure: float
    """share of the resamples in which this part loses most"""
    shares: dict[str, Estimate]
    """part -> share of what can be lost, over all measures; a part that nothing was measured of is missing"""


def verdict(found: Mapping[str, Losses], parts: Sequence[str], resamples: int, seed: int) -> Verdict:
    """From the losses of all measures; paired bootstrap: an utterance is drawn with all of its rungs and measures."""
    utterances = sorted({u for one in found.values() for values in one.parts.values() for u in values})
    known = [part for part in parts if any(one.parts.get(part) for one in found.values())]
    if not utterances or not known:
        return Verdict(None, 0.0, {})
    place = {u: number for number, u in enumerate(utterances)}
    drawn = np.random.default_rng(seed).integers(0, len(place), (resamples, len(place)))
    counts = np.stack([np.bincount(row, minlength=len(place)) for row in drawn]).astype(np.float64)
    whole = np.ones((1, len(place)))
    point = np.stack([share_of(found, part, place, whole) for part in known], axis=1)[0]
    spread = np.stack([share_of(found, part, place, counts) for part in known], axis=1)
    lows, highs = np.percentile(spread, INSIDE, axis=0)
    single = len(place) == 1
    shares = {
        part: Estimate(float(p), None if single else float(low), None if single else float(high), len(place))
        for part, p, low, high in zip(known, point, lows, highs, strict=True)
    }
    worst = int(point.argmax())
    sure = float((spread.argmax(axis=1) == worst).mean())
    beyond_chance = len(place) >= FEWEST and lows[worst] > 0
    return Verdict(known[worst] if beyond_chance else None, sure, shares)


def share_of(found: Mapping[str, Losses], part: str, place: Mapping[str, int], counts: Numbers) -> Numbers:
    """[R]: mean over measures of the loss's share, where utterances are taken as often as `counts` [R, U] says."""
    lost, of = np.zeros(len(counts)), 0.0
    for one in found.values():
        if not one.parts.get(part):
            continue
        weights, products = np.zeros(len(place)), np.zeros(len(place))
        for utterance, (value, weight) in one.parts[part].items():
            weights[place[utterance]], products[place[utterance]] = weight, value * weight
        total = counts @ weights
        means = np.divide(counts @ products, total, out=np.zeros(len(counts)), where=total > 0)
        lost, of = lost + one.weight * means / one.range, of + one.weight
    return lost / of
