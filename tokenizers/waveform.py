"""The waveform door: whatever file a person has becomes one mono float32 waveform, prepared in one recorded way.

    talk.mp3 ──decode──▶ [C, N] any rate ──mean──▶ [N] ──soxr──▶ [N'] ──trim──▶ ──loudness──▶ prepared

Training data and voice prompts pass through the same `prepare`. Knows no tokenizer.
"""

import math
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.truncation import check_whole

Waveform = NDArray[np.float32]
"""[N] mono samples in [-1, 1]"""

SHORTEST_SECONDS = 0.1
SHORTEST_SHARE = 0.9
"""of the samples that a header promises; MP3 headers only estimate"""
LOUDEST_PEAK = 0.99
KEPT_SILENCE_SECONDS = 0.1


def read_audio(
    path: Path, start: float = 0.0, seconds: float | None = None, channel: int | None = None
) -> tuple[Waveform, int]:
    """Decodes WAV, FLAC, OGG, Opus, MP3 and what else libsndfile reads; channels are averaged, or one is taken.

    Args:
        start: seconds into the file.
        seconds: how much is read; None: to the end.
        channel: from 0; None: the mean of all.
    Returns:
        The waveform [N] and its sample rate in Hz.
    Raises:
        ValueError: missing, empty, truncated, not audio, or with samples that are not numbers.
    """
    check_whole(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate, frames = file.samplerate, file.frames
            if start:
                file.seek(min(round(start * rate), file.frames))
            channels = file.read(-1 if seconds is None else round(seconds * rate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .") or "damaged or cut short"
        raise ValueError(f"{path}: not an audio file that can be read ({reason})") from None
    if channel is not None and channel >= channels.shape[1]:
        raise ValueError(f"{path}: has {channels.shape[1]} channels, not a channel {channel} (from 0)")
    waveform = channels.mean(axis=1, dtype=np.float32) if channel is None else channels[:, channel]
    if len(waveform) == 0:
        raise ValueError(f"{path}: holds no samples" + (f" after {start:.2f} s" if start else ""))
    if not start and seconds is None and len(waveform) < SHORTEST_SHARE * frames:
        raise ValueError(f"{path}: cut short, it has {len(waveform)} of {frames} samples; copy or record it again")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{path}: holds samples that are not numbers")
    return waveform, int(rate)


def resample(waveform: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """soxr, high quality; the length is rounded to the nearest sample."""
    if source_rate == target_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, source_rate, target_rate), dtype=np.float32)


def prepare(waveform: Waveform, sample_rate: int, spec: WaveformSpec, name: str = "the recording") -> Waveform:
    """Resamples, trims and brings to loudness, as `spec` says.

    Raises:
        ValueError: too short, or silence throughout; the message begins with `name`.
    """
    if len(waveform) < SHORTEST_SECONDS * sample_rate:
        seconds = len(waveform) / sample_rate
        raise ValueError(f"{name}: {seconds:.3f} s is too short; give at least {SHORTEST_SECONDS} s")
    waveform = resample(waveform, sample_rate, spec.sample_rate)
    peak = float(np.abs(waveform).max())
    if peak < 1e-4:
        raise ValueError(f"{name}: silence throughout")
    if spec.trim_db is not None:
        loud = np.flatnonzero(np.abs(waveform) > peak * 10 ** (-spec.trim_db / 20))
        keep = int(KEPT_SILENCE_SECONDS * spec.sample_rate)
        waveform = waveform[max(0, loud[0] - keep) : loud[-1] + keep]
    if spec.loudness is not None:
        waveform = waveform * loudness_gain(waveform, spec.sample_rate, spec.loudness)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def loudness_gain(waveform: Waveform, sample_rate: int, target: float) -> np.float32:
    """The factor that brings `waveform` to `target` LUFS without a peak above 0.99."""
    import pyloudnorm

    seconds = len(waveform) / sample_rate
    meter = pyloudnorm.Meter(sample_rate, block_size=min(0.4, 0.99 * seconds))
    now = float(meter.integrated_loudness(waveform))
    if not math.isfinite(now):  # every block lies under the gate of -70 LUFS
        now = 20 * math.log10(float(np.sqrt(np.mean(np.square(waveform)))) + 1e-9)
    gain = 10 ** ((target - now) / 20)
    return np.float32(min(gain, LOUDEST_PEAK / float(np.abs(waveform).max())))


def load_prepared(
    path: Path, spec: WaveformSpec, start: float = 0.0, seconds: float | None = None, channel: int | None = None
) -> Waveform:
    """`read_audio`, then `prepare`; errors name the file."""
    waveform, rate = read_audio(path, start, seconds, channel)
    return prepare(waveform, rate, spec, name=str(path))


def write_wav(path: Path | str, waveform: Waveform, sample_rate: int) -> None:
    """A 16-bit mono WAV, whole or not at all."""
    from triptych.training.files import atomic_file

    with atomic_file(Path(path)) as beside:
        soundfile.write(str(beside), np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
