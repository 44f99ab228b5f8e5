"""What a fit needs to know of recordings: prepared waveforms, one by one, and what was said by whom.

    clips.waveform(3)  ->  [N] float32 at clips.sample_rate, whole, prepared as voice prompts will be

The fits of the tokenizers ask for nothing else, and know no manifest and no file.
"""

from collections.abc import Callable
from typing import Protocol

from triptych.tokenizers.waveform import Waveform


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
