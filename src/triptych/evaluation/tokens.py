"""What can be said of tokens by counting: how the alphabet is used, how pure it is, how much a disturbance changes.

    ids [T] of many clips ─▶ use       share of ids that occur, entropy, tokens a second without repeats, bits a second
    ids, phones [F]       ─▶ purity    PNMI, phone purity, cluster purity (HuBERT, Hsu et al. 2021, section IV.C)
    ids before, after     ─▶ change    edits a token, with and without repeats; share of the frames that changed

Pure functions; knows no tokenizer and no waveform.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.semantic.augment import clean_frames
from triptych.tokenizers.semantic.ctc import collapse, edit_distance

Ids = NDArray[np.int64]
"""[T]"""


@dataclass(frozen=True)
class Use:
    """How an alphabet is used."""

    frames: int
    usage: float
    """share of the ids that occur"""
    entropy: float
    """bits an id, each for itself"""
    per_second: float
    """tokens, repeats collapsed"""
    bits_per_second: float
    """frames a second times entropy: what they would cost if no id told of the next"""


def use(ids: Sequence[Ids], size: int, frame_rate: float) -> Use:
    """Over all clips; `frame_rate` in Hz, before collapsing."""
    counts = np.bincount(np.concatenate([*ids, np.zeros(0, np.int64)]), minlength=size)
    frames = int(counts.sum())
    share = counts[counts > 0] / max(1, frames)
    entropy = float(-(share * np.log2(share)).sum())
    runs = sum(len(collapse(clip)) for clip in ids)
    return Use(frames, float((counts > 0).mean()), entropy, runs * frame_rate / max(1, frames), entropy * frame_rate)


@dataclass(frozen=True)
class Purity:
    """How much ids tell of phones."""

    pnmi: float
    """mutual information of ids and phones over the entropy of phones: the share of a phone that its id tells"""
    by_chance: float
    """the same with the phones dealt anew; what a small sample gives away for nothing"""
    phone: float
    """share of frames whose phone is the most frequent one of their id"""
    cluster: float
    """share of frames whose id is the most frequent one of their phone"""
    frames: int


def purity(ids: Ids, phones: Ids, generator: np.random.Generator) -> Purity | None:
    """Of frames [F]; those with phone -1, where none is known, are left out. None where no frame is left."""
    known = phones >= 0
    ids, phones = ids[known], phones[known]
    if len(np.unique(phones)) < 2:
        return None
    joint = _joint(ids, phones)
    chance = _joint(ids, generator.permutation(phones))
    return Purity(_pnmi(joint), _pnmi(chance), float(joint.max(axis=1).sum()), float(joint.max(axis=0).sum()), len(ids))


def _joint(ids: Ids, phones: Ids) -> NDArray[np.float64]:
    counts = np.zeros((int(ids.max()) + 1, int(phones.max()) + 1))
    np.add.at(counts, (ids, phones), 1)
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _pnmi(joint: NDArray[np.float64]) -> float:
    of_id, of_phone = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    some = joint > 0
    mutual = (joint[some] * np.log(joint[some] / (of_id @ of_phone)[some])).sum()
    share = of_phone[of_phone > 0]
    return float(mutual / -(share * np.log(share)).sum())


@dataclass(frozen=True)
class Change:
    """What a disturbance did to the tokens of one clip."""

    edits: float
    """fewest insertions, deletions and substitutions, a token of the clean clip"""
    collapsed: float
    """the same without repeats"""
    frames: float
    """share of the frames with another id"""
    tokens: int
    """of the clean clip; the weight of `edits` and `frames` in a mean over clips"""
    runs: int
    """of the clean clip; the weight of `collapsed`"""


def change(clean: Ids, other: Ids, speed: float = 1.0) -> Change | None:
    """Of ids [T] and [about T / speed]: the clean ones are first read at the times of the other's frames.

    None where there is no frame.
    """
    if not len(clean) or not len(other):
        return None
    aligned = clean[clean_frames(len(other), len(clean), speed)]
    before, after = collapse(aligned), collapse(other)
    return Change(
        edits=edit_distance(other.tolist(), aligned.tolist()) / len(aligned),
        collapsed=edit_distance(after.tolist(), before.tolist()) / len(before),
        frames=float((other != aligned).mean()),
        tokens=len(aligned),
        runs=len(before),
    )
