"""How far a made waveform is from the one that was given, in numbers of the field. Pure functions of two waveforms.

    made ──align──▶ ┬─ si_sdr            dB, higher is better        the waveform itself
    given ────────▶ ┼─ stoi, extended    0 to 1                      can it be understood? (pystoi)
                    ├─ pesq_wideband     1 to 4.64                   how good is it to listen to? (pesq)
                    └─ pitch_error       cents, share of frames      the melody

`None` means that there is no number, never a number that means nothing. Libraries are imported late, so their absence
is a ModuleNotFoundError of the call. Knows no codec.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.waveform import Waveform

PERFECT_DB = 100.0
"""an SI-SDR beyond this, either way, is what rounding leaves; identical waveforms have it"""
SILENT_PEAK = 1e-4
FARTHEST_SECONDS = 0.01
"""a codec's filters and resamplers may delay a waveform by so much"""
FINE_STEPS = 16
"""steps of a sample in which a lag is found"""


def align(made: Waveform, given: Waveform, sample_rate: int) -> Waveform:
    """`made` [N] moved by the lag, to a sixteenth of a sample, at which it is most like `given` [N].

    Codecs differ by fractions of a sample (their resamplers do), which no ear hears and SI-SDR does.
    """
    assert made.shape == given.shape
    most = max(1, round(FARTHEST_SECONDS * sample_rate))
    size = 1 << (len(given) + 2 * most - 1).bit_length()
    spectrum = np.fft.rfft(made.astype(np.float64), size)
    cross = spectrum * np.fft.rfft(given.astype(np.float64), size).conj()
    likeness = np.fft.irfft(cross, size)
    lags = np.arange(-most, most + 1)
    whole = int(lags[np.argmax(likeness[lags])])
    turns = 2j * np.pi * np.arange(len(cross)) / size
    near = whole + np.arange(-FINE_STEPS, FINE_STEPS + 1) / FINE_STEPS
    lag = near[np.argmax([(cross * np.exp(turns * step)).real.sum() for step in near])]
    if lag == 0:
        return made
    return np.asarray(np.fft.irfft(spectrum * np.exp(turns * lag), size)[: len(made)], dtype=np.float32)


def si_sdr(made: Waveform, given: Waveform) -> float | None:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, equation 3), means removed.

    Args:
        made, given: [N]
    Returns:
        -100 to 100; None where either is silent.
    """
    if is_silent(made) or is_silent(given):
        return None
    wanted = given.astype(np.float64) - given.mean(dtype=np.float64)
    heard = made.astype(np.float64) - made.mean(dtype=np.float64)
    target = wanted * (heard @ wanted) / max(float(wanted @ wanted), 1e-20)
    error = heard - target
    ratio = 10 * np.log10((float(target @ target) + 1e-20) / (float(error @ error) + 1e-20))
    return float(np.clip(ratio, -PERFECT_DB, PERFECT_DB))


def stoi(made: Waveform, given: Waveform, sample_rate: int, extended: bool = False) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011; extended: Jensen and Taal 2016), by pystoi.

    Returns:
        About 0 to 1; None where less than 0.4 s of `given` is sound.
    Raises:
        ModuleNotFoundError: pystoi is not installed.
    """
    from pystoi import stoi as measure

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and gives 1e-5 where it has too few frames
        try:
            return float(measure(given.astype(np.float64), made.astype(np.float64), sample_rate, extended=extended))
        except RuntimeWarning:
            return None


PESQ_RATE = 16_000
"""Hz, of the wide band"""


def pesq_wideband(made: Waveform, given: Waveform) -> float | None:
    """Perceptual evaluation of speech quality, wide band (ITU-T P.862.2), of waveforms [N] at 16 kHz, by pesq.

    Returns:
        1 to 4.64 (MOS-LQO); None where it finds no utterance.
    Raises:
        ModuleNotFoundError: pesq is not installed.
    """
    from pesq import PesqError, pesq

    if is_silent(made) or is_silent(given):
        return None
    score = pesq(PESQ_RATE, given, made, "wb", on_error=PesqError.RETURN_VALUES)
    return float(score) if score > 0 else None


@dataclass(frozen=True)
class Melody:
    """The pitch of a waveform, frame by frame."""

    hertz: NDArray[np.float64]
    """[F]; meaningless where not voiced"""
    voiced: NDArray[np.bool_]
    """[F]"""


class PitchTracker:
    """SwiftF0 (Nieradzik 2025): a network of 14,000 weights that come with its package; a frame is 16 ms.

    Raises:
        ModuleNotFoundError: swift-f0 is not installed.
    """

    sample_rate = 16_000
    """Hz, that it hears"""
    lowest, highest = 55.0, 600.0
    """Hz, of a speaking voice"""
    surest_voiced = 0.5
    """confidence from which the package calls a frame voiced"""

    def __init__(self) -> None:
        from swift_f0 import SwiftF0

        self.detector = SwiftF0(threads=1, spin=False)

    def track(self, waveform: Waveform) -> Melody:
        """The melody of a waveform [N] at `sample_rate`."""
        peak = float(np.abs(waveform).max(initial=0.0))
        loud = waveform * np.float32(0.5 / max(peak, SILENT_PEAK))  # it does not normalise, and misses what is quiet
        found = self.detector.detect(loud, self.sample_rate, fmin=self.lowest, fmax=self.highest)
        return Melody(np.asarray(found.pitch_hz), np.asarray(found.confidence) >= self.surest_voiced)


def pitch_error(made: Melody, given: Melody) -> tuple[float | None, float]:
    """How far the melody is off.

    Returns:
        Median of the absolute difference in cents over frames that are voiced in both, None where there are none; and
        the share of frames that are voiced in one alone.
    """
    frames = min(len(made.voiced), len(given.voiced))
    one, other = made.voiced[:frames], given.voiced[:frames]
    both = one & other
    cents = 1200 * np.log2(made.hertz[:frames][both] / given.hertz[:frames][both])
    return float(np.median(np.abs(cents))) if both.any() else None, float((one != other).mean())


def is_silent(waveform: Waveform) -> bool:
    return float(np.abs(waveform).max(initial=0.0)) < SILENT_PEAK
