"""The waveform door, explored: any length, rate and channel count comes in as one waveform, or is refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers import waveform as door
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.waveform import k_weighted, load_prepared, prepare, read_audio, resample, resampled

RATES = st.one_of(
    st.sampled_from([8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000, 192000]), st.integers(1, 200_000)
)
SOUNDS = st.sampled_from(["noise", "quiet", "silence", "click", "full scale", "nan", "offset"])


def sound(kind: str, samples: int, channels: int) -> np.ndarray:
    noise = np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)
    if kind in ("silence", "click"):
        noise[:] = 0
    if kind == "click":
        noise[samples // 2 : samples // 2 + 1] = 0.8
    if kind == "nan":
        noise[samples // 3 : samples // 3 + 1] = np.nan
    return {"quiet": noise * 1e-3, "full scale": np.sign(noise), "offset": noise * 0.1 + 0.9}.get(kind, noise)


@pytest.mark.parametrize("examples", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_any_length_rate_and_channel_count(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "a.wav"
    kept = []

    @settings(max_examples=examples, deadline=None)
    @given(
        st.floats(0, 0.7), RATES, st.integers(1, 8), SOUNDS, st.sampled_from(["PCM_16", "FLOAT"]),
        st.sampled_from([None, -23.0]), st.sampled_from([None, 40.0]),
    )  # fmt: skip
    def explore(
        seconds: float, rate: int, channels: int, kind: str, subtype: str, loudness: float | None, trim: float | None
    ) -> None:
        samples = round(seconds * rate)
        soundfile.write(path, sound(kind, samples, channels), rate, subtype=subtype)
        spec = WaveformSpec(24_000, loudness, trim)
        try:
            waveform = load_prepared(path, spec)
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            return
        kept.append(samples)
        assert waveform.dtype == np.float32 and waveform.ndim == 1 and np.isfinite(waveform).all()
        whole = round(samples * 24_000 / rate)
        assert abs(len(waveform) - whole) <= 1 if trim is None else 0 < len(waveform) <= whole + 1
        if loudness is not None:
            assert np.abs(waveform).max() <= 0.991
        np.testing.assert_array_equal(waveform, prepare(*read_audio(path), spec))

    explore()
    assert len(kept) > examples // 10


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_a_file_read_in_pieces_is_the_file_read_whole(
    tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(3.7 * rate), 2))
    soundfile.write(path, noise, rate)
    spec = WaveformSpec(24_000, -23.0, None)
    whole = [read_audio(path)[0], read_audio(path, 0.5, 2.3, 1)[0], load_prepared(path, spec)]
    monkeypatch.setattr(door, "PIECE_SECONDS", 1)
    pieces = [read_audio(path)[0], read_audio(path, 0.5, 2.3, 1)[0], load_prepared(path, spec)]
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=5), st.sampled_from([8000, 22050, 24000, 44100]))
def test_resampled_in_pieces(lengths: list[int], rate: int) -> None:
    parts = [np.random.default_rng(n).uniform(-0.5, 0.5, n).astype(np.float32) for n in lengths]
    whole = resample(np.concatenate(parts), rate, 24_000)
    for expected in (0, len(whole), 10**12):  # a header may say anything
        np.testing.assert_array_equal(door.joined(resampled(parts, rate, 24_000), expected), whole)


def test_loudness_is_that_of_pyloudnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyloudnorm

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 100_000).astype(np.float32) * np.linspace(0, 1, 100_000)
    noise = noise.astype(np.float32)
    theirs = pyloudnorm.Meter(24_000).integrated_loudness(noise)
    for seconds in (60, 1):
        monkeypatch.setattr(door, "PIECE_SECONDS", seconds)
        weighted: Any = k_weighted(noise, 24_000)
        assert pyloudnorm.Meter(24_000, filter_class="custom").integrated_loudness(weighted) == theirs
