"""The recordings of one split as prepared waveforms, for the fits.

    first call   file ──decode──▶ ──prepare──▶ int16, kept in memory while it fits
    later calls  int16 ──▶ float32

A clip sounds the same on every call, kept or not: it is rounded to 16 bit each time. Knows no tokenizer.
"""

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triptych.corpus.manifest import Recording, Split, read_manifest
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.waveform import Part, Waveform, load_prepared

FULL_SCALE = 32767


class ManifestClips:
    """Satisfies `tokenizers.clips.Clips`; may be read from several threads.

    Raises:
        ValueError: the manifest cannot be read, or the split is empty; when reading, a file that cannot be used.
    """

    def __init__(
        self, manifest: Path, spec: WaveformSpec, split: Split | None = "train", cache_bytes: int = 4 << 30
    ) -> None:
        self.spec = spec
        self.sample_rate = spec.sample_rate
        self.recordings: list[Recording] = [r for r in read_manifest(manifest) if split in (None, r.split)]
        """of the split; of all splits where it is None"""
        if not self.recordings:
            raise ValueError(f"{manifest} has no recordings of the split '{split}'")
        self._kept: dict[int, NDArray[np.int16]] = {}
        self._free = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.recordings)

    def seconds(self, i: int) -> float:
        """Before preparation; trimming may shorten the waveform."""
        return self.recordings[i].seconds

    def waveform(self, i: int) -> Waveform:
        """The whole clip [N], prepared.

        Raises:
            ValueError: the file cannot be decoded or is silent; names it.
        """
        small = self._kept.get(i)
        if small is None:
            recording = self.recordings[i]
            loaded = load_prepared(recording.path, self.spec, part_of(recording))
            small = np.round(np.clip(loaded, -1.0, 1.0) * FULL_SCALE).astype(np.int16)
            with self._lock:
                if i not in self._kept and small.nbytes <= self._free:
                    self._kept[i] = small
                    self._free -= small.nbytes
        return small.astype(np.float32) / np.float32(FULL_SCALE)

    def why_unheard(self, i: int) -> str:
        """Why a clip has no waveform; empty where it has one."""
        try:
            self.waveform(i)
        except ValueError as error:
            return reason_of(error, self.recordings[i])
        return ""

    def text(self, i: int) -> str | None:
        return self.recordings[i].text

    def speaker(self, i: int) -> str | None:
        return self.recordings[i].speaker

    def name(self, i: int) -> str:
        return self.recordings[i].id


def part_of(recording: Recording) -> Part:
    """What of its file a recording is; all of it where nothing says otherwise."""
    header, speed = recording.header, recording.speed
    to_end = not recording.start if header is None else abs(recording.stop - header.seconds / speed) < 1e-3
    seconds = None if to_end else recording.seconds * speed
    return Part(recording.start * speed, seconds, recording.channel, speed)


def reason_of(error: ValueError, recording: Recording) -> str:
    """What an error says of a recording, without the path of its file."""
    return str(error).removeprefix(f"{recording.path}: ")
