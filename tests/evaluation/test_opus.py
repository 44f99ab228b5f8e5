"""Opus: its packets are counted without their container; where it is missing, that is said."""

from pathlib import Path

import numpy as np
import pytest

from triptych.evaluation import opus


def page(*lacing: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(sum(lacing))


def test_packets_are_counted_and_headers_are_not() -> None:
    """A packet of 300 bytes is laced 255 + 45; one of 255 + 255 + 10 goes on in the next page."""
    ogg = page(19) + page(255, 40) + page(255, 45, 7, 255) + page(255, 10, 60)
    assert opus.packet_bytes(ogg) == 300 + 7 + 520 + 60


def test_absence_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert opus.absence() == "no opusenc and opusdec here: apt install opus-tools"
    with pytest.raises(ValueError, match="apt install opus-tools"):
        opus.through_opus(np.zeros(800, np.float32), 8000, 6)


@pytest.mark.skipif(opus.absence() is not None, reason="opus-tools are not installed")
def test_there_and_back() -> None:
    times = np.arange(24_000 + 11) / 24_000
    given = (0.3 * np.sin(2 * np.pi * 200 * times)).astype(np.float32)
    made, kbps = opus.through_opus(given, 24_000, 12)
    assert made.shape == given.shape and 4 < kbps < 20
    assert np.corrcoef(made, given)[0, 1] > 0.9
    with pytest.raises(ValueError, match="opusenc refused"):
        opus.through_opus(given, 24_000, 1e6)
