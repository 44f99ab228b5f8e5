"""How fast a cascade is on this machine: stage by stage, alone and in a batch, and as a stream.

Figures are of one run of a few seconds, for a first impression; benchmarks/generate.py measures with medians. Knows no
terminal.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from triptych.stages.cascade import Cascade

SENTENCE = "The old bridge was closed because of the heavy rain, and nobody knew when it would be open again."


@dataclass(frozen=True)
class StageSpeed:
    """One stage, for one request alone or for each of several at once."""

    stage: str
    requests: int
    tokens: int
    """made, of all requests"""
    work: float
    """seconds"""
    sound: float
    """seconds that came of it"""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.work if self.work else 0.0

    @property
    def work_per_sound(self) -> float:
        """Seconds of work a second of sound."""
        return self.work / self.sound if self.sound else 0.0


@dataclass(frozen=True)
class StreamSpeed:
    """A text that sounds while the rest is being made."""

    sound: float
    """seconds"""
    first: float
    """seconds until the first sound"""
    longest_gap: float
    """seconds without a new piece, at most"""
    stalled: float
    """seconds that a listener waited after the first sound, in all"""
    work: float
    """seconds of the whole"""

    def line(self) -> str:
        return (
            f"{self.sound:6.1f} s of speech: first sound after {self.first:.2f} s, "
            f"longest gap {self.longest_gap:.2f} s, stalled for {self.stalled:.2f} s, "
            f"{self.work / self.sound:.2f} s of work a second"
        )


def measure_stages(cascade: Cascade, requests: int) -> list[StageSpeed]:
    """Each stage for `requests` at once, after a warm-up."""
    settings = replace(cascade.settings, levels=0)
    next(cascade.speak_all(["Yes."], settings=settings))
    said = list(cascade.speak_all([SENTENCE] * requests, settings=settings, slots=requests))
    sound = sum(one.seconds for one in said)
    coarse, levels = cascade.stages["fine"][0].config.coarse_levels, said[0].codes.shape[0]
    frames = sum(one.codes.shape[1] for one in said)
    tokens = {
        "semantic": sum(len(one.semantic) for one in said),
        "coarse": frames * coarse,
        "fine": frames * (levels - coarse),
        "codec": frames * levels,
    }
    if settings.takes > 1:
        tokens["ear"] = tokens["semantic"] * settings.takes
    spent: dict[str, float] = {name: sum(one.seconds_by_stage.get(name, 0.0) for one in said) for name in tokens}
    return [StageSpeed(name, requests, count, spent[name], sound) for name, count in tokens.items()]


def measure_stream(cascade: Cascade, seconds: float, first_seconds: float) -> StreamSpeed:
    """A text that takes about so long, as a stream."""
    stage, front_end = cascade.stages["semantic"][0], cascade.tokenizers.text
    assert front_end is not None, "a cascade without text does not speak"
    each = stage.expected_frames(len(front_end.encode(SENTENCE))) / float(cascade.grid.semantic_rate)
    text = " ".join([SENTENCE] * max(1, round(seconds / each)))
    settings = replace(cascade.settings, first_seconds=first_seconds)
    return timed(cascade.stream(text, settings=settings), cascade.sample_rate)


def timed(pieces: Iterator[Any], rate: int) -> StreamSpeed:
    """Listens to a stream with a clock in hand."""
    began = before = time.perf_counter()
    sound = first = longest = stalled = 0.0
    for piece in pieces:
        now = time.perf_counter()
        if not sound:
            first = now - began
        else:
            longest = max(longest, now - before)
            stalled += max(0.0, now - began - first - stalled - sound)
        before, sound = now, sound + len(piece) / rate
    return StreamSpeed(sound, first, longest, stalled, time.perf_counter() - began)
