"""How a long recording is heard: in overlapping windows, of which each gives the frames that lie well inside it.

    frames      0 . . . . . . . . . . . . . . . . . . . . . . T
    window 0    [=========|= =]                                   [ ] heard   = kept
    window 1           [= =|=========|= =]                        neighbours are cut in the middle of what they share
    window 2                    [= =|= = = = = = = = = = = =]     the last one ends with the recording, and is as long

Invariant: the kept frames are each frame of the recording once, in order. Knows no samples.
"""

from dataclasses import dataclass
from itertools import pairwise

SHORTEST_SECONDS = 1.0


@dataclass(frozen=True)
class Windows:
    """Up to `seconds` a recording is heard whole. Part of a tokenizer's fingerprint where it is not this default.

    Raises:
        ValueError: windows shorter than a second, or an overlap that leaves nothing.
    """

    seconds: float = 60.0
    """length of a window"""
    overlap: float = 4.0
    """seconds that neighbouring windows share"""

    def __post_init__(self) -> None:
        if self.seconds < SHORTEST_SECONDS:
            raise ValueError(f"window_seconds = {self.seconds}: give at least {SHORTEST_SECONDS}")
        if not 0 <= self.overlap <= self.seconds / 2:
            raise ValueError(f"overlap_seconds = {self.overlap}: give 0 to half of window_seconds = {self.seconds}")


@dataclass(frozen=True)
class Span:
    """One window, in frames of the recording."""

    begin: int
    """first frame that is heard"""
    end: int
    """and the frame after the last one"""
    first: int
    """first frame that is kept"""
    last: int
    """and the frame after the last one"""


def spans(frames: int, window: int, overlap: int) -> list[Span]:
    """The windows of `frames` frames, `window` long, `overlap` shared; one where it fits whole."""
    if frames <= window:
        return [Span(0, frames, 0, frames)]
    begins = [*range(0, frames - window, window - overlap), frames - window]
    cuts = [0, *((later + earlier + window) // 2 for earlier, later in pairwise(begins)), frames]
    return [Span(b, b + window, cuts[i], cuts[i + 1]) for i, b in enumerate(begins)]
