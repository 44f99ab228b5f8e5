"""The waveform door: whatever file a person has becomes one mono float32 waveform, prepared in one recorded way.

    talk.mp3 ──decode──▶ [C, N] any rate ──mean──▶ [N] ──soxr──▶ [N'] ──trim──▶ ──loudness──▶ prepared
               └────────── a minute at a time ──────────┘

Training data and voice prompts pass through the same steps, and a file that is read piece by piece gives the very
samples of one that is read whole. Knows no tokenizer.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
MOST_EXPECTED = 1 << 27
"""samples that are set aside on a header's word"""
PIECE_SECONDS = 60
"""of a file, or of a filter's work, in memory at one time"""


class Part(NamedTuple):
    """What of a file is heard, and how fast."""

    start: float = 0.0
    """seconds into the file"""
    seconds: float | None = None
    """of the file; None: to its end"""
    channel: int | None = None
    """from 0; None: the mean of all"""
    speed: float = 1.0
    """1.1 is a tenth faster, and as much higher"""


WHOLE = Part()


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
    with open_audio(path) as file:
        pieces = pieces_of(file, start, seconds, channel)
        return joined(pieces, promised(file, start, seconds)), int(file.samplerate)


@contextmanager
def open_audio(path: Path) -> Iterator[Any]:
    """A `soundfile.SoundFile`; what goes wrong within the block is said in one line.

    Raises:
        ValueError: missing, cut short, or not audio.
    """
    check_whole(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .") or "damaged or cut short"
        raise ValueError(f"{path}: not an audio file that can be read ({reason})") from None


def pieces_of(file: Any, start: float, seconds: float | None, channel: int | None) -> Iterator[Waveform]:
    """What `read_audio` returns, a minute at a time; raises as it does."""
    path, rate = file.name, file.samplerate
    if channel is not None and channel >= file.channels:
        raise ValueError(f"{path}: has {file.channels} channels, not a channel {channel} (from 0)")
    if start:
        file.seek(min(round(start * rate), file.frames))
    wanted = math.inf if seconds is None else round(seconds * rate)
    count = 0
    while count < wanted:
        channels = file.read(int(min(PIECE_SECONDS * rate, wanted - count)), dtype="float32", always_2d=True)
        if len(channels) == 0:
            break
        count += len(channels)
        piece = channels.mean(axis=1, dtype=np.float32) if channel is None else channels[:, channel]
        if not np.isfinite(piece).all():
            raise ValueError(f"{path}: holds samples that are not numbers")
        yield piece
    if count == 0:
        raise ValueError(f"{path}: holds no samples" + (f" after {start:.2f} s" if start else ""))
    if not start and seconds is None and count < SHORTEST_SHARE * file.frames:
        raise ValueError(f"{path}: cut short, it has {count} of {file.frames} samples; copy or record it again")


def promised(file: Any, start: float, seconds: float | None) -> int:
    """Samples that the file's header lets one expect."""
    left = max(0, file.frames - round(start * file.samplerate))
    return int(left if seconds is None else min(left, round(seconds * file.samplerate)))


def joined(pieces: Iterable[Waveform], expected: int) -> Waveform:
    """[N] of pieces in order; about `expected` samples, which are set aside at once: a growing list would lie twice."""
    whole = np.empty(min(expected, MOST_EXPECTED) + 1, dtype=np.float32)
    end = 0
    for piece in pieces:
        if end + len(piece) > len(whole):
            whole = np.concatenate([whole[:end], np.empty(end // 2 + len(piece), dtype=np.float32)])
        whole[end : end + len(piece)] = piece
        end += len(piece)
    return whole[:end]


def resample(waveform: Waveform, source_rate: float, target_rate: int) -> Waveform:
    """soxr, high quality; the length is rounded to the nearest sample."""
    if source_rate == target_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, source_rate, target_rate), dtype=np.float32)


def resampled(pieces: Iterable[Waveform], source_rate: float, target_rate: int) -> Iterator[Waveform]:
    """`resample`, piece by piece: joined, the very same samples."""
    if source_rate == target_rate:
        yield from pieces
        return
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32")
    for piece in pieces:
        yield stream.resample_chunk(np.ascontiguousarray(piece))
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def prepare(waveform: Waveform, sample_rate: float, spec: WaveformSpec, name: str = "the recording") -> Waveform:
    """Resamples, trims and brings to loudness, as `spec` says.

    Raises:
        ValueError: too short, or silence throughout; the message begins with `name`.
    """
    check_length(len(waveform), sample_rate, name)
    return trimmed_and_levelled(resample(waveform, sample_rate, spec.sample_rate), spec, name)


def load_prepared(path: Path, spec: WaveformSpec, part: Part = WHOLE) -> Waveform:
    """`read_audio`, then `prepare`, without ever holding the samples at the file's own rate; errors name the file."""
    start, seconds, channel, speed = part
    samples = 0

    def counted(pieces: Iterable[Waveform]) -> Iterator[Waveform]:
        nonlocal samples
        for piece in pieces:
            samples += len(piece)
            yield piece

    with open_audio(path) as file:
        rate = int(file.samplerate) * speed
        pieces = resampled(counted(pieces_of(file, start, seconds, channel)), rate, spec.sample_rate)
        waveform = joined(pieces, int(promised(file, start, seconds) * spec.sample_rate / rate))
    check_length(samples, rate, str(path))
    return trimmed_and_levelled(waveform, spec, str(path))


def check_length(samples: int, sample_rate: float, name: str) -> None:
    """Raises ValueError where `samples` are too few to be speech."""
    if samples < SHORTEST_SECONDS * sample_rate:
        raise ValueError(f"{name}: {samples / sample_rate:.3f} s is too short; give at least {SHORTEST_SECONDS} s")


def trimmed_and_levelled(waveform: Waveform, spec: WaveformSpec, name: str) -> Waveform:
    """The last two steps of `prepare`, at the rate of `spec`.

    Raises:
        ValueError: silence throughout.
    """
    peak = peak_of(waveform)
    if peak < 1e-4:
        raise ValueError(f"{name}: silence throughout")
    if spec.trim_db is not None:
        floor = peak * 10 ** (-spec.trim_db / 20)
        loud = (waveform > floor) | (waveform < -floor)
        first, last = int(loud.argmax()), len(loud) - 1 - int(loud[::-1].argmax())
        keep = int(KEPT_SILENCE_SECONDS * spec.sample_rate)
        waveform = waveform[max(0, first - keep) : last + keep]
    if spec.loudness is not None:
        waveform = waveform * loudness_gain(waveform, spec.sample_rate, spec.loudness)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def peak_of(waveform: Waveform) -> float:
    """The largest magnitude, without an array of magnitudes."""
    return float(max(waveform.max(), -waveform.min()))


def loudness_gain(waveform: Waveform, sample_rate: int, target: float) -> np.float32:
    """The factor that brings `waveform` to `target` LUFS without a peak above 0.99."""
    import pyloudnorm

    seconds = len(waveform) / sample_rate
    meter = pyloudnorm.Meter(sample_rate, filter_class="custom", block_size=min(0.4, 0.99 * seconds))
    now = float(meter.integrated_loudness(k_weighted(waveform, sample_rate)))
    if not math.isfinite(now):  # every block lies under the gate of -70 LUFS
        now = 20 * math.log10(float(np.sqrt(np.mean(np.square(waveform)))) + 1e-9)
    gain = 10 ** ((target - now) / 20)
    return np.float32(min(gain, LOUDEST_PEAK / peak_of(waveform)))


def k_weighted(waveform: Waveform, sample_rate: int) -> Waveform:
    """[N] through the two filters of BS.1770, as pyloudnorm's own meter does it, a minute at a time."""
    from pyloudnorm import IIRfilter
    from scipy.signal import lfilter

    shelf = IIRfilter(4.0, 1 / np.sqrt(2), 1500.0, sample_rate, "high_shelf")
    high_pass = IIRfilter(0.0, 0.5, 38.0, sample_rate, "high_pass")
    heard = np.empty_like(waveform)
    source = waveform
    for stage in (shelf, high_pass):
        b, a, state = stage.b, stage.a, np.zeros(2)
        for begin in range(0, len(waveform), PIECE_SECONDS * sample_rate):
            part = slice(begin, begin + PIECE_SECONDS * sample_rate)
            out, state = lfilter(b, a, source[part], zi=state)
            heard[part] = stage.passband_gain * out
        source = heard
    return heard


def write_wav(path: Path | str, waveform: Waveform, sample_rate: int) -> None:
    """A 16-bit mono WAV, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from triptych.training.files import atomic_file

    with atomic_file(Path(path)) as beside:
        try:
            soundfile.write(str(beside), np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise OSError(f"{path} cannot be written ({error.error_string}): is the disk full?") from None
