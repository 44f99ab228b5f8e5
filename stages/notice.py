"""What a listener should be told of an utterance: loops in what is said, a text that takes too long, long silences.

    collapsed tokens   … 5 9 2  5 9 2  5 9 2  5 9 2  7 …     goes round: the same few tokens, several times in a row

Knows no model.
"""

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.waveform import Waveform

ROUNDS = 4
"""of a loop; speech may say a thing twice or three times"""
PERIODS = range(2, 41)
"""collapsed tokens of a loop"""
SLOW, PAUSE = 1.4, 0.35
"""share of the usual length, and seconds on top, that a text may take: sentences take 1.43 times it at most, and a
short one begins and ends with a pause, however short it is"""
SILENT_DB = -40.0
"""below the loudest frame"""
FRAME_SECONDS = 0.02
LONG_SILENCE = 1.0
"""seconds, between the first sound and the last"""


def loops(semantic: NDArray[np.uint16], rate: float) -> list[str]:
    """Where semantic tokens [T], `rate` a second, go round; runs are collapsed first, since those are normal."""
    if len(semantic) < 2:
        return []
    starts = np.flatnonzero(np.append(True, semantic[1:] != semantic[:-1]))
    collapsed = semantic[starts].astype(np.int64)
    for period in PERIODS:
        same = np.append(collapsed[period:] == collapsed[:-period], False) if period < len(collapsed) else np.zeros(1)
        begin, length = longest_run(same.astype(bool))
        if length >= (ROUNDS - 1) * period:
            return [f"the semantic tokens go round from {starts[begin] / rate:.1f} s on: try another seed"]
    return []


def overlong(frames: int, expected: float, rate: float) -> list[str]:
    """Whether `frames` semantic tokens, `rate` a second, are too many for a text that usually takes `expected` in this
    voice: a sentence that is said twice is no loop, since the second time has other tokens."""
    if frames <= SLOW * expected + PAUSE * rate:
        return []
    times = frames / max(1.0, expected)
    return [f"it takes {times:.1f} times as long as such a text does: perhaps a part is said twice; try another seed"]


def silences(waveform: Waveform, sample_rate: int) -> list[str]:
    """Pauses of more than a second within a waveform [N]."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    power = np.square(frames).mean(1) if len(frames) else np.zeros(0)
    loud = power > power.max(initial=0.0) * 10 ** (SILENT_DB / 10)
    places = np.flatnonzero(loud)
    if not len(places):
        return ["the sound is silent throughout: try another seed"]
    begin, length = longest_run(~loud[places[0] : places[-1]])
    seconds = length * size / sample_rate
    if seconds <= LONG_SILENCE:
        return []
    return [f"{seconds:.1f} s of silence from {(begin + places[0]) * size / sample_rate:.1f} s on: try another seed"]


def longest_run(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Beginning and length of the longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    best = int(lengths.argmax())
    return int(edges[2 * best]), int(lengths[best])
