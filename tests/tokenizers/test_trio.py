"""The three tokenizers together: padded once, on one grid, whatever the length."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.trio import Tokenizers


class Counting:
    """Frames as the real ones count them: a floor for the encoder, a ceiling for the codec. Ids are 0."""

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec
        self.heard: list[int] = []

    def encode(self, waveform: Any, sample_rate: int) -> Any:
        if self.spec.kind == "semantic":
            assert isinstance(waveform, Sequence)
            return [self.one(w, sample_rate) for w in waveform]
        return np.tile(self.one(waveform, sample_rate), (self.spec.levels, 1))

    def encode_batch(self, waveforms: Sequence[Any], sample_rate: int) -> list[Any]:
        return [self.encode(waveform, sample_rate) for waveform in waveforms]

    def check_length(self, seconds: float, name: str) -> None:
        """Any length is welcome."""

    def one(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        self.heard.append(len(waveform))
        samples = round(len(waveform) * self.spec.sample_rate / sample_rate)
        frames = samples / self.spec.hop
        return np.zeros(math.floor(frames) if self.spec.kind == "semantic" else math.ceil(frames), np.uint16)


def trio(semantic_hop: int, acoustic_hop: int, rate: int = 24000, spec: WaveformSpec | None = None) -> Tokenizers:
    semantic: Any = Counting(TokenizerSpec("semantic", "s", 8, 16000, semantic_hop, fingerprint="s"))
    acoustic: Any = Counting(TokenizerSpec("acoustic", "a", 8, rate, acoustic_hop, levels=2, fingerprint="a"))
    return Tokenizers(None, semantic, acoustic, spec or WaveformSpec(rate, None, None))


@settings(max_examples=60, deadline=None)
@given(st.integers(2400, 60_000), st.sampled_from([(320, 320), (640, 480), (640, 320)]))
def test_both_grids_cover_the_same_beats(samples: int, hops: tuple[int, int]) -> None:
    tokenizers = trio(*hops)
    tokens = tokenizers.tokens(tokenizers.prepare(np.full(samples, 0.1, np.float32), 24000))
    grid = tokenizers.grid
    beats = -(-samples // int(grid.beat * 24000))
    assert tokens.semantic.shape == (beats * grid.semantic_per_beat,)
    assert tokens.codes.shape == (2, beats * grid.acoustic_per_beat)
    assert tokens.samples == samples
    assert tokenizers.semantic.heard == tokenizers.acoustic.heard  # type: ignore[attr-defined]


def test_a_file_and_its_samples_give_the_same(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 20_000).astype(np.float32)
    path = tmp_path / "take[/b] 1.wav"
    path.parent.mkdir()
    soundfile.write(path, noise, 44100, subtype="FLOAT")
    tokenizers = trio(320, 320, spec=WaveformSpec(24000, -23.0, None))
    from_file = tokenizers.prepare_file(path)
    np.testing.assert_array_equal(from_file.waveform, tokenizers.prepare(noise, 44100).waveform)
    assert from_file.name == str(path)


def test_shorter_than_a_beat_is_refused() -> None:
    tokenizers = trio(2400, 3600)  # a beat of 150 ms
    with pytest.raises(ValueError, match=r"0\.120 s is too short; give at least a beat \(0\.15 s\)"):
        tokenizers.tokens(tokenizers.prepare(np.full(2880, 0.1, np.float32), 24000))


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="prepared at 16000 Hz, but the codec takes 24000 Hz"):
        trio(320, 320, spec=WaveformSpec(16000))
    with pytest.raises(ValueError, match=r"longer than 0\.16 s"):
        trio(320, 4800)


@settings(max_examples=60, deadline=None)
@given(st.integers(7000, 400_000))
def test_rates_that_hardly_meet_cover_the_same_beats(samples: int) -> None:
    """50 Hz beside 44,100 / 512 Hz: seven semantic tokens to twelve codec frames, whatever floor the encoder gives."""
    tokenizers = trio(320, 512, rate=44100)
    tokens = tokenizers.tokens(tokenizers.prepare(np.full(samples, 0.1, np.float32), 44100))
    beats = -(-samples // (12 * 512))
    assert (tokens.semantic.shape, tokens.codes.shape) == ((7 * beats,), (2, 12 * beats))


def test_specs_by_kind() -> None:
    tokenizers = trio(320, 320)
    assert set(tokenizers.specs) == {"semantic", "acoustic"}
    with_text = dataclasses.replace(tokenizers, text=Counting(TokenizerSpec("text", "t", 3)))
    assert set(with_text.specs) == {"text", "semantic", "acoustic"}


def test_folders_with_a_part_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder of tokenizers"):
        Tokenizers.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="no semantic tokenizer"):
        Tokenizers.load(tmp_path)
    (tmp_path / "semantic").mkdir()
    with pytest.raises(ValueError, match="no acoustic tokenizer"):
        Tokenizers.load(tmp_path)
