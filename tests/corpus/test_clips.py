"""Clips for the fits: the same waveform on every call, kept in memory or not."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.corpus.clips import ManifestClips
from triptych.corpus.manifest import Recording, write_manifest
from triptych.tokenizers.clips import Clips
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.waveform import load_prepared

SPEC = WaveformSpec(24000, -23.0, None)


@pytest.fixture
def manifest(tmp_path: Path, write_tone: Any) -> Path:
    rows = [
        Recording(f"r{i}", write_tone(f"{i}.wav", seconds=0.3 + 0.1 * i, hertz=150 + 50 * i), 0.3 + 0.1 * i, "hi", "s")
        for i in range(4)
    ]
    rows += [Recording("part", rows[3].path, 0.2, start=0.1), Recording("dev", rows[0].path, 0.3, split="dev")]
    write_manifest(tmp_path / "m.jsonl", rows)
    return tmp_path / "m.jsonl"


@pytest.mark.parametrize("cache_bytes", [0, 40_000, 1 << 30])
def test_every_call_gives_the_same(manifest: Path, cache_bytes: int) -> None:
    clips: Clips = ManifestClips(manifest, SPEC, cache_bytes=cache_bytes)
    assert len(clips) == 5
    first = [clips.waveform(i) for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        for i, again in enumerate(pool.map(clips.waveform, list(range(5)) * 4)):
            np.testing.assert_array_equal(again, first[i % 5])
    path = manifest.parent / "2.wav"
    np.testing.assert_allclose(first[2], load_prepared(path, SPEC), atol=1 / 32767)
    assert (clips.name(2), clips.text(2), clips.speaker(2), clips.seconds(2)) == ("r2", "hi", "s", pytest.approx(0.5))
    assert clips.waveform(4).shape == (4800,)


def test_a_kept_clip_needs_its_file_no_more(manifest: Path) -> None:
    clips = ManifestClips(manifest, SPEC)
    before = clips.waveform(1)
    (manifest.parent / "1.wav").unlink()
    np.testing.assert_array_equal(clips.waveform(1), before)
    (manifest.parent / "0.wav").unlink()
    with pytest.raises(ValueError, match=r"0\.wav: no such file"):
        clips.waveform(0)


def test_splits(manifest: Path) -> None:
    assert [ManifestClips(manifest, SPEC, split="dev").name(0)] == ["dev"]
    assert len(ManifestClips(manifest, SPEC, split=None)) == 6
    with pytest.raises(ValueError, match="no recordings of the split 'test'"):
        ManifestClips(manifest, SPEC, split="test")
