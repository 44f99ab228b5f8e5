"""Opus, the outside reference: what a codec without a network makes of a waveform. Debian's opus-tools do the work.

[N] ─▶ a.wav ─opusenc─▶ a.opus ─opusdec─▶ b.wav ─▶ [N], and the bit rate of the packets (Ogg's own bytes left out)
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from triptych.tokenizers.waveform import Waveform, read_audio, write_wav

TOOLS = ("opusenc", "opusdec")
LOWEST_KBPS = 6.0
"""opusenc refuses less for one channel"""
HEADER_PACKETS = 2
"""OpusHead and OpusTags (RFC 7845, section 3)"""


def absence() -> str | None:
    """What to do where the tools are missing; None where they are there."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"no {' and '.join(missing)} here: apt install opus-tools" if missing else None


def through_opus(waveform: Waveform, sample_rate: int, kbps: float) -> tuple[Waveform, float]:
    """A waveform [N] coded as speech at about `kbps` (variable rate, opusenc's default) and decoded again.

    Returns:
        [N] at the same rate, and the kbit/s that its packets really took.
    Raises:
        ValueError: the tools are missing, or refuse.
    """
    gone = absence()
    if gone:
        raise ValueError(f"Opus: {gone}")
    with tempfile.TemporaryDirectory() as folder:
        given, coded, made = (Path(folder) / name for name in ("given.wav", "coded.opus", "made.wav"))
        write_wav(given, waveform, sample_rate)
        _call("opusenc", "--quiet", "--speech", "--bitrate", f"{kbps:g}", str(given), str(coded))
        _call("opusdec", "--quiet", "--rate", str(sample_rate), str(coded), str(made))
        heard, rate = read_audio(made)
        bits = 8 * packet_bytes(coded.read_bytes())
    assert rate == sample_rate
    kept = np.zeros(len(waveform), np.float32)
    kept[: len(heard)] = heard[: len(waveform)]
    return kept, bits / 1000 / (len(waveform) / sample_rate)


def packet_bytes(ogg: bytes) -> int:
    """Bytes of the sound packets in an Ogg stream of one Opus track (RFC 3533, section 6)."""
    sizes, size, place = [], 0, 0
    while place < len(ogg):
        assert ogg[place : place + 4] == b"OggS"
        lacing = ogg[place + 27 : place + 27 + ogg[place + 26]]
        for length in lacing:
            size += length
            if length < 255:  # a packet ends
                sizes.append(size)
                size = 0
        place += 27 + len(lacing) + sum(lacing)
    return sum(sizes[HEADER_PACKETS:])


def _call(*line: str) -> None:
    done = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"{line[0]} refused: {said[-1]}")
