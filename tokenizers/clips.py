"""What a fit needs to know of recordings: prepared waveforms, one by one, and what was said by whom.

    clips.waveform(3)  ->  [N] float32 at clips.sample_rate, whole, prepared as voice prompts will be

The fits of the tokenizers ask for nothing else, and know no manifest and no file.
"""

import math
import sys
from collections.abc import Callable
from typing import Protocol

from triptych.tokenizers.waveform import Waveform
from triptych.training.distributed import rank


class Clips(Protocol):
    """Recordings, numbered from 0. Any number of calls in any order gives the same waveforms."""

    sample_rate: int
    """Hz, of every waveform"""

    def __len__(self) -> int: ...

    def seconds(self, i: int) -> float:
        """Length as the manifest has it; trimming may shorten the waveform."""

    def waveform(self, i: int) -> Waveform:
        """The whole clip [N], prepared; the caller may crop it, and must not write to it."""

    def text(self, i: int) -> str | None: ...

    def speaker(self, i: int) -> str | None: ...

    def name(self, i: int) -> str:
        """The id of the recording, for messages."""


class Counted:
    """Clips, and a call for each that is read. Satisfies `Clips`."""

    def __init__(self, clips: Clips, read: Callable[[], None]) -> None:
        self.clips, self.read, self.sample_rate = clips, read, clips.sample_rate

    def __len__(self) -> int:
        return len(self.clips)

    def seconds(self, i: int) -> float:
        return self.clips.seconds(i)

    def waveform(self, i: int) -> Waveform:
        waveform = self.clips.waveform(i)
        self.read()
        return waveform

    def text(self, i: int) -> str | None:
        return self.clips.text(i)

    def speaker(self, i: int) -> str | None:
        return self.clips.speaker(i)

    def name(self, i: int) -> str:
        return self.clips.name(i)


class Refused:
    """Clips that cannot be used: each is named once, on stderr, and too many of them end a fit."""

    def __init__(self, clips: int, most: float) -> None:
        """`most`: share of the `clips` that may be refused."""
        self.clips, self.most = clips, most
        self.reasons: dict[str, ValueError] = {}
        """by the name of the clip"""

    def add(self, name: str, reason: ValueError) -> None:
        """
        Raises:
            ValueError: it is one too many.
        """
        if name in self.reasons:
            return
        self.reasons[name] = reason
        count = len(self.reasons)
        if count > self.most * self.clips:
            raise ValueError(
                f"{count} of {self.clips} clips cannot be used, more than max_rejected={self.most:g} of them; the last "
                f"is {name}: {reason}: mend them ('triptych prepare --strict' finds them all), or say "
                f"max_rejected={math.ceil(100 * count / self.clips) / 100:g}"
            )
        if rank() == 0:
            print(f"{name} is left out: {reason}", file=sys.stderr, flush=True)
