"""What an inspection of a codec found, and how scores of clips become its rows. Knows no codec, only its codes.

Scores of every clip ──Tally──▶ Row    a way of making the clips anew: levels kept, Opus at a rate, the recordings
codes [Q, T'] of every clip ──▶ Level  what the ids of one level cost
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation import code_length
from triptych.evaluation.estimate import Estimate, estimate
from triptych.evaluation.judge import MEASURES, Scores
from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.waveform import Waveform

RECORDING = "recording"
"""name of the row of the clips themselves"""


@dataclass(frozen=True)
class Row:
    """One way of making the clips anew, judged."""

    name: str
    """'1 level', 'opus 12', 'recording'"""
    kind: Literal["codec", "opus", "recording"]
    levels: int | None
    """kept; None where it is not the codec"""
    kbps: float | None
    """kbit/s: of the codec log2(codebook_size) bits an id; of Opus what its packets took; None: the recording"""
    ideal_kbps: float | None
    """kbit/s that the adaptive coder spends on these levels"""
    scores: dict[str, Estimate]
    """measure -> mean over clips; one that could not be taken is not in it"""


@dataclass(frozen=True)
class Level:
    """The bits of one quantizer level, an id."""

    level: int
    """from 0"""
    capacity: float
    """log2(codebook_size)"""
    usage: float
    """share of the entries that occur"""
    entropy: float
    """of ids drawn alone (Miller and Madow's estimate), over all clips"""
    alone: Estimate
    """spent by the adaptive coder that looks at nothing else"""
    above: Estimate | None
    """… at the level above, in the same frame; None for level 0"""
    before: Estimate
    """… at the frame before, on the same level"""
    ideal: Estimate
    """… at both: the least of what was tried, and an upper bound on what an ideal coder needs"""


@dataclass(frozen=True)
class Example:
    """One clip, made in every way that was judged."""

    name: str
    sample_rate: int
    made: dict[str, Waveform]
    """name of a row -> [N]"""


@dataclass(frozen=True)
class Report:
    """What `inspect_codec` found."""

    codec: dict[str, Any]
    """its TokenizerSpec"""
    config: dict[str, Any]
    clips: tuple[str, ...]
    """names of the clips judged"""
    frames: dict[str, int]
    """learned from, and counted by the adaptive coder"""
    rows: tuple[Row, ...]
    levels: tuple[Level, ...]
    absent: dict[str, str]
    """measure, or opus -> why there is none of it"""
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)
    """measure -> reason -> clips (of all rows) that have no number"""
    other_voices: float | None = None
    """mean cosine of clips of different speakers among those judged: what 'voice' falls to when it is lost"""
    left_out: dict[str, str] = field(default_factory=dict)
    """name of a clip that cannot be heard -> why"""


def level_name(levels: int) -> str:
    """Name of the row in which the first `levels` are kept."""
    return f"{levels} level{'s' if levels > 1 else ''}"


class Tally:
    """Gathers scores by row."""

    def __init__(self, resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        self.scores: dict[str, list[tuple[Scores, float | None]]] = {}
        self.skipped: dict[str, Counter[str]] = {}
        self.done = 0

    def add(self, way: str, scores: Scores, kbps: float | None) -> None:
        """One clip, made in one way; `kbps` where it differs from clip to clip."""
        self.done += 1
        self.scores.setdefault(way, []).append((scores, kbps))
        for name, reason in scores.reasons.items():
            self.skipped.setdefault(name, Counter())[reason] += 1

    def rows(self, kept: Sequence[int], levels: Sequence[Level], spec: TokenizerSpec) -> Iterator[Row]:
        """In the order in which they were first heard of."""
        counts = {level_name(count): count for count in kept}
        rate = float(spec.frame_rate) / 1000
        for way, judged in self.scores.items():
            means = self.means([scores for scores, _ in judged])
            took = [kbps for _, kbps in judged if kbps is not None]
            if way in counts:
                ideal = sum(level.ideal.mean for level in levels[: counts[way]])
                yield Row(way, "codec", counts[way], counts[way] * math.log2(spec.size) * rate, ideal * rate, means)
            elif took:
                yield Row(way, "opus", None, sum(took) / len(took), None, means)
            else:
                yield Row(way, "recording", None, None, None, means)

    def means(self, scores: Sequence[Scores]) -> dict[str, Estimate]:
        """Measure -> its mean over the clips that have a number; the same clips are drawn for every row."""
        found = {}
        for name in MEASURES:
            numbers = [one.numbers[name] for one in scores if name in one.numbers]
            generator = np.random.default_rng(self.seed)
            mean = estimate([v for v, _ in numbers], [w for _, w in numbers], self.resamples, generator)
            if mean is not None:
                found[name] = mean
        return found


def level_bits(
    learned: Sequence[NDArray[np.uint16]], counted: Sequence[NDArray[np.uint16]], size: int, resamples: int, seed: int
) -> tuple[Level, ...]:
    """Usage, entropy and the bits that a coder spends, for each level of codes [Q, T'] of clips."""
    everything = np.concatenate([*learned, *counted], axis=1)
    found = []
    for level, spent in enumerate(code_length.spent_bits(learned, counted, size)):
        means: dict[str, Any] = {
            name: estimate(bits, spent.frames, resamples, np.random.default_rng(seed))
            for name, bits in spent.bits.items()
        }
        ids = everything[level]
        found.append(
            Level(
                level=level,
                capacity=math.log2(size),
                usage=code_length.usage(ids, size),
                entropy=code_length.entropy(ids, size),
                alone=means["alone"],
                above=means["above"] if level else None,
                before=means["before"],
                ideal=means["both"],
            )
        )
    return tuple(found)
