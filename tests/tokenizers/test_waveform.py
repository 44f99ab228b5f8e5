"""The waveform door: every common file comes in as one mono waveform, and every bad one is refused in one line."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.waveform import load_prepared, prepare, read_audio, write_wav

SPEC = WaveformSpec(24000, -23.0, None)


def sine(seconds: float, rate: int, hertz: float = 220.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * math.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000])
def test_any_rate_keeps_its_length_and_pitch(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(0.8, rate), rate)
    waveform = load_prepared(path, SPEC)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 0.8 * 24000) <= 1
    spectrum = np.abs(np.fft.rfft(waveform))
    assert abs(spectrum.argmax() * 24000 / len(waveform) - 220) < 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_U8"}),
        ("a.wav", {"subtype": "PCM_16"}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "PCM_32"}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.wav", {"subtype": "DOUBLE"}),
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
        ("a.aiff", {}),
        ("take[/b] 1.wav", {}),
    ],
)
def test_any_format_and_any_name(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, sine(0.8, 24000), 24000, **options)
    waveform, rate = read_audio(path)
    assert rate == 24000
    assert abs(len(waveform) / rate - 0.8) < 0.06
    assert abs(float(np.sqrt(np.mean(np.square(waveform)))) - 0.3 / math.sqrt(2)) < 0.02


def test_channels_are_averaged_or_chosen(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = sine(0.5, 16000), sine(0.5, 16000, hertz=500)
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path)[0], (left + right) / 2, atol=1e-6)
    np.testing.assert_allclose(read_audio(path, channel=1)[0], right, atol=1e-6)
    with pytest.raises(ValueError, match="2 channels"):
        read_audio(path, channel=2)


def test_a_part_is_what_the_whole_has_there(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, sine(1.0, 16000), 16000)
    whole, _ = read_audio(path)
    part, _ = read_audio(path, start=0.25, seconds=0.5)
    np.testing.assert_array_equal(part, whole[4000:12000])
    with pytest.raises(ValueError, match="no samples after 5"):
        read_audio(path, start=5.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.11, 1.5), st.sampled_from([8000, 16000, 44100]), st.floats(0.001, 0.9))
def test_preparation_brings_every_recording_to_one_loudness(seconds: float, rate: int, level: float) -> None:
    import pyloudnorm

    noise = np.random.default_rng(0).uniform(-level, level, round(seconds * rate)).astype(np.float32)
    waveform = prepare(noise, rate, SPEC)
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 0.991
    block = min(0.4, 0.99 * len(waveform) / 24000)
    if np.abs(waveform).max() < 0.98:  # else the peak limits it
        assert abs(pyloudnorm.Meter(24000, block_size=block).integrated_loudness(waveform) + 23) < 0.2


def test_trimming_keeps_the_sound_and_a_little_silence() -> None:
    silence = np.zeros(12000, np.float32)
    waveform = prepare(np.concatenate([silence, sine(0.5, 24000), silence]), 24000, WaveformSpec(24000, None, 40.0))
    assert abs(len(waveform) / 24000 - 0.7) < 0.01


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(0.3, 24000), 24000)
    waveform, rate = read_audio(tmp_path / "a.wav")
    assert rate == 24000
    np.testing.assert_allclose(waveform, sine(0.3, 24000), atol=1e-4)


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match=r"a\.wav cannot be written") as caught:
            write_wav(path, sine(2.0, 24000), 24000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"] and path.read_bytes() == b"old"


def bad_files(folder: Path) -> dict[str, str]:
    """name -> what the message must say"""
    tone = sine(1.0, 16000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(16000) == 5, np.nan, tone), 16000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.where(np.arange(16000) == 5, np.inf, tone), 16000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", tone[:0], 16000)
    soundfile.write(folder / "short.wav", tone[:800], 16000)
    soundfile.write(folder / "silent.wav", 0 * tone, 16000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not audio\n" * 100)
    (folder / "folder.wav").mkdir()
    said = {"nan": "not numbers", "inf": "not numbers", "none": "no samples", "short": "too short", "silent": "silence"}
    said |= {"empty": "not an audio file", "text": "not an audio file", "folder": "a folder", "absent": "no such file"}
    return {f"{name}.wav": what for name, what in said.items()}


def test_bad_files_are_refused_by_name_in_one_line(tmp_path: Path) -> None:
    for name, what in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=what) as caught:
            load_prepared(tmp_path / name, SPEC)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.85])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.aiff", "a.mp3"])
def test_a_file_cut_short_is_never_taken_for_a_whole_one(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48000)
    soundfile.write(path, noise, 24000, **({"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}))
    whole = path.read_bytes()
    assert abs(len(read_audio(path)[0]) - 48000) < 3000
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut short|not an audio file"):
        read_audio(path)


def test_a_riff_size_that_counts_its_own_eight_bytes_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(0.5, 24000), 24000)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + len(whole).to_bytes(4, "little") + whole[8:])
    assert len(read_audio(path)[0]) == 12_000
    path.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match="cut short"):
        read_audio(path)


@pytest.mark.parametrize("options", [{}, {"format": "OGG", "subtype": "OPUS"}])
def test_a_tag_behind_an_ogg_is_no_missing_end(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, sine(0.5, 24000), 24000, **options)
    whole, tag = path.read_bytes(), b"TAG".ljust(128, b"\0")
    path.write_bytes(whole + tag)
    assert abs(len(read_audio(path)[0]) - 12_000) < 1500
    path.write_bytes(whole[:-10] + tag)
    with pytest.raises(ValueError, match="cut short"):
        read_audio(path)
