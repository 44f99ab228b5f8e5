"""Changes that a listener would forgive, made to waveforms, so that it can be seen whether tokens stay the same.

    gain, white noise, equaliser, speed      here; and "half a frame later", the same sound cut into frames elsewhere:
                                             what a change of speed costs a tokenizer in any case
    Opus at 32 kbit/s                        opus-tools
    pitch, formants                          the WORLD vocoder (Morise et al. 2016), package pyworld; "vocoder" is the
                                             same without a change, the share of the next rows that is the vocoder's own

All chance comes from the generator that is passed in. Knows no tokens.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr

from triptych.evaluation.opus import absence, through_opus
from triptych.tokenizers.waveform import Waveform

OPUS_KBPS = 32.0
EQUALISER_DB = 6.0
"""standard deviation of the equaliser's curve at its knots, which lie an octave apart"""
LOWEST_HZ = 62.5
WORLD = "pip install 'triptych[world]'"


@dataclass(frozen=True)
class Disturbance:
    """One change."""

    name: str
    change: Callable[[Waveform, int, np.random.Generator], Waveform]
    """of a waveform [N] at a rate in Hz; [N / speed]"""
    speed: float = 1.0
    """how many times faster it becomes"""


def disturbances(frame_seconds: float) -> tuple[list[Disturbance], dict[str, str]]:
    """The changes that can be made here; and why the others cannot, by name. `frame_seconds`: of the tokens."""
    made = [
        Disturbance("gain -12 dB", partial(gain, decibel=-12.0)),
        Disturbance("half a frame later", partial(later, seconds=frame_seconds / 2)),
        Disturbance("noise 20 dB", partial(noise, snr_db=20.0)),
        Disturbance("noise 10 dB", partial(noise, snr_db=10.0)),
        Disturbance("equaliser", equalise),
        Disturbance("speed +5 %", partial(faster, speed=1.05), speed=1.05),
        Disturbance("speed -5 %", partial(faster, speed=0.95), speed=0.95),
    ]
    missing = {}
    if gone := absence():
        missing["Opus"] = gone
    else:
        made.append(Disturbance(f"Opus {OPUS_KBPS:g} kbit/s", opus))
    if gone := world_absence():
        missing["pitch and formants"] = gone
    else:
        made += [Disturbance(name, partial(world, pitch=p, formants=f)) for name, p, f in VOICES]
    return made, missing


VOICES = (
    ("vocoder", 0.0, 1.0),
    ("pitch +2 semitones", 2.0, 1.0),
    ("pitch -2 semitones", -2.0, 1.0),
    ("formants +10 %", 0.0, 1.1),
    ("formants -10 %", 0.0, 0.9),
)
"""name, semitones, factor of the formants"""


def gain(waveform: Waveform, sample_rate: int, generator: np.random.Generator, *, decibel: float) -> Waveform:
    return waveform * np.float32(10 ** (decibel / 20))


def later(waveform: Waveform, sample_rate: int, generator: np.random.Generator, *, seconds: float) -> Waveform:
    """[N], with `seconds` of silence in front and as much cut off at the end."""
    count = min(len(waveform), round(seconds * sample_rate))
    return np.pad(waveform, (count, 0))[: len(waveform)]


def noise(waveform: Waveform, sample_rate: int, generator: np.random.Generator, *, snr_db: float) -> Waveform:
    """White noise; the ratio is that of the mean powers."""
    level = np.float32(np.sqrt(np.mean(np.square(waveform))) * 10 ** (-snr_db / 20))
    return waveform + level * generator.standard_normal(len(waveform), dtype=np.float32)


def equalise(waveform: Waveform, sample_rate: int, generator: np.random.Generator) -> Waveform:
    """Another gain an octave, smooth between: another microphone."""
    octaves = int(np.ceil(np.log2(sample_rate / 2 / LOWEST_HZ))) + 1
    gains = EQUALISER_DB * generator.standard_normal(octaves)
    hertz = np.maximum(np.fft.rfftfreq(len(waveform), 1 / sample_rate), LOWEST_HZ)
    curve = np.interp(np.log2(hertz / LOWEST_HZ), np.arange(octaves), gains)
    return np.fft.irfft(np.fft.rfft(waveform) * 10 ** (curve / 20), len(waveform)).astype(np.float32)


def faster(waveform: Waveform, sample_rate: int, generator: np.random.Generator, *, speed: float) -> Waveform:
    """As a tape that runs faster: pitch and formants move with it."""
    return np.asarray(soxr.resample(waveform, sample_rate * speed, sample_rate), dtype=np.float32)


def opus(waveform: Waveform, sample_rate: int, generator: np.random.Generator) -> Waveform:
    return through_opus(waveform, sample_rate, OPUS_KBPS)[0]


def world_absence() -> str | None:
    """What to do where the vocoder is missing; None where it is there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pyworld 0.3 asks for pkg_resources, which says it will go
            import pyworld  # noqa: F401
    except ModuleNotFoundError as error:  # or it has gone: newer setuptools lack it
        return f"no package {error.name}: {WORLD}"
    return None


def world(
    waveform: Waveform, sample_rate: int, generator: np.random.Generator, *, pitch: float, formants: float
) -> Waveform:
    """Analysed, moved by `pitch` semitones, its envelope stretched by `formants`, and synthesised again."""
    import pyworld

    sound = waveform.astype(np.float64)
    rough, times = pyworld.dio(sound, sample_rate)
    hertz = pyworld.stonemask(sound, rough, times, sample_rate)
    envelope = pyworld.cheaptrick(sound, hertz, times, sample_rate)
    breath = pyworld.d4c(sound, hertz, times, sample_rate)
    if formants != 1.0:
        last = envelope.shape[1] - 1
        places = np.minimum(np.arange(last + 1) / formants, last)
        low = np.minimum(places.astype(np.intp), last - 1)
        share = places - low
        logs = np.log(envelope)
        envelope = np.ascontiguousarray(np.exp(logs[:, low] * (1 - share) + logs[:, low + 1] * share))
    made = pyworld.synthesize(hertz * 2 ** (pitch / 12), envelope, breath, sample_rate)[: len(waveform)]
    return np.pad(made, (0, len(waveform) - len(made))).astype(np.float32)
