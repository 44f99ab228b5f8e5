"""Changes a listener would forgive, made to what the encoder hears: another voice, microphone, room or pace.

    filterbanks  log-mels [T, 80] --mix in another clip--> --speed--> --move formants and pitch--> --equalise-->
                 --add noise--> (normalise) --erase bands--> [T', 80]
    samples      [N] --mix in another clip--> --speed--> --equalise--> --add noise--> [N']

On filterbanks powers add, which is right for sounds that do not know of each other, and costs a hundredth of what the
same change costs on samples. There, formants are the smooth part of a frame's spectrum and pitch is the rest; encoders
that hear samples are not given another pitch, but by speed.

The targets are made of the clean clip, so the encoder learns to hear through these changes. All chance comes from the
generator that is passed in; a change whose size is 0 draws nothing. Knows no encoder.
"""

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from scipy import fft

from triptych.tokenizers.semantic.filterbank import MELS, SAMPLE_RATE, Frames, loudness, mel_centres, white_mels
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import STRICT

ENVELOPE_CEPSTRA = 16
"""of the 80 a frame's spectrum has: these are its formants, the rest its harmonics"""
NOISE_SLOPE_DB = (-6.0, 0.0)
"""an octave: noise from brown to white"""
DECIBEL = np.float32(np.log(10) / 10)
"""in the natural logarithm of power"""


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """How much the encoder's input is changed while it learns."""

    share: float = 0.8
    """of the clips that are changed at all"""
    warp: float = 0.12
    """the frequency axis is stretched by up to this share either way (vocal tract length, so formants); filterbanks"""
    pitch: float = 0.0
    """semitones by which the harmonics are moved, either way, on top of `warp`; filterbanks"""
    speed: float = 0.0
    """share by which clips are made faster or slower, either way, at most; frames and targets stay aligned"""
    equalise_db: float = 9.0
    """standard deviation of a smooth random curve over the mels"""
    noise_snr_db: tuple[float, float] = (5.0, 35.0)
    """range of the signal-to-noise ratio of added stationary noise, in the samples"""
    noise_share: float = 0.6
    """of the changed clips that get noise"""
    band_masks: int = 2
    """bands of mels that are erased (SpecAugment)"""
    band_width: int = 12
    """mels: the widest erased band; filterbanks"""
    mix_share: float = 0.0
    """of the clips into which a part of another is mixed (WavLM's utterance mixing: 0.2)"""
    mix_snr_db: tuple[float, float] = (-5.0, 5.0)
    """range of how much louder the clip is than what is mixed in"""
    mix_longest: float = 0.5
    """share of the clip that is covered at most"""


def _warp(frames: Frames, factor: float) -> Frames:
    """Reads the spectrum at `factor` times each frequency, a piecewise-linear warp with fixed ends."""
    centres = mel_centres()
    nyquist = SAMPLE_RATE / 2
    knee = 0.6 * nyquist / max(factor, 1.0)
    upper = knee * factor + (centres - knee) * (nyquist - knee * factor) / (nyquist - knee)
    source = np.interp(np.where(centres < knee, centres * factor, upper), centres, np.arange(MELS))
    low = np.minimum(source.astype(np.intp), MELS - 2)
    share = (source - low).astype(np.float32)
    return np.asarray(frames[:, low] * (1 - share) + frames[:, low + 1] * share, dtype=np.float32)


def _smooth_curve(generator: np.random.Generator, knots: int = 6) -> NDArray[np.float32]:
    """[80]: a random curve of unit standard deviation at its knots."""
    places = np.linspace(0, MELS - 1, knots)
    return np.interp(np.arange(MELS), places, generator.standard_normal(knots)).astype(np.float32)


def augment(frames: Frames, config: AugmentConfig, generator: np.random.Generator) -> Frames:
    """Log-mels [T, 80] changed as `config` says; erased bands come later, after normalisation (`erase_bands`)."""
    if generator.random() >= config.share or len(frames) == 0:
        return frames
    warp = float(np.exp(generator.uniform(-1, 1) * np.log1p(config.warp))) if config.warp else 1.0
    if config.pitch:
        semitones = generator.uniform(-config.pitch, config.pitch)
        frames = move_voice(frames, warp, warp * float(2 ** (semitones / 12)))
    elif config.warp:
        frames = _warp(frames, warp)
    frames = frames + config.equalise_db * DECIBEL * _smooth_curve(generator)
    if generator.random() < config.noise_share:
        ratio = float(generator.uniform(*config.noise_snr_db))
        slope = float(generator.uniform(*NOISE_SLOPE_DB))
        colour = slope * np.log2(mel_centres() / 1000).astype(np.float32) + 6 * _smooth_curve(generator)
        # the power of a noise band is chi-square distributed around its mean
        bands = np.log(generator.gamma(4.0, 0.25, frames.shape).astype(np.float32) + 1e-6)
        frames = np.logaddexp(frames, noise_level(frames, ratio, colour) + bands)
    return frames


def noise_level(frames: Frames, snr_db: float, colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mels [80] of noise with a spectrum of `colour` [80] dB, as it would be if added to the samples; the ratio is
    that of the powers of samples."""
    width, white = white_mels()
    speech = loudness(frames)
    density = np.exp(colour.astype(np.float64) * np.log(10) / 10)
    level = speech * 10 ** (-snr_db / 10) / np.sum(density * width)
    return np.asarray(np.log(level * density * white), dtype=np.float32)


def erase_bands(frames: Frames, config: AugmentConfig, generator: np.random.Generator) -> Frames:
    """Normalised log-mels [T, 80] with up to `band_masks` bands set to 0, their mean."""
    frames = frames.copy()
    for _ in range(int(generator.integers(0, config.band_masks + 1))):
        width = int(generator.integers(1, config.band_width + 1))
        begin = int(generator.integers(0, MELS - width + 1))
        frames[:, begin : begin + width] = 0
    return frames


def move_voice(frames: Frames, formants: float, pitch: float) -> Frames:
    """Log-mels [T, 80] with the smooth spectrum read at `formants` times each frequency, the rest at `pitch` times."""
    cepstra = fft.dct(frames, axis=1, norm="ortho")
    cepstra[:, ENVELOPE_CEPSTRA:] = 0
    smooth = np.asarray(fft.idct(cepstra, axis=1, norm="ortho"), dtype=np.float32)
    return _warp(smooth, formants) + _warp(frames - smooth, pitch)


def mix_span(
    frames: int, other: int, config: AugmentConfig, generator: np.random.Generator
) -> tuple[slice, slice, float] | None:
    """Where in the clip a part of another goes, which part, and how many dB louder the clip is (Chen et al. 2022, 3.2).

    None where nothing is mixed. Lengths in frames, or in samples.
    """
    if not config.mix_share or generator.random() >= config.mix_share:
        return None
    length = int(generator.integers(1, max(2, int(min(other, config.mix_longest * frames)) + 1)))
    if length > min(frames, other):
        return None
    into, part = int(generator.integers(0, frames - length + 1)), int(generator.integers(0, other - length + 1))
    return slice(into, into + length), slice(part, part + length), float(generator.uniform(*config.mix_snr_db))


def mix_mels(frames: Frames, other: Frames, span: tuple[slice, slice, float]) -> Frames:
    """Log-mels with a part of others added; the ratio is that of the mean powers of the two clips."""
    into, part, ratio = span
    level = np.log(np.mean(np.exp(frames), dtype=np.float64) / np.mean(np.exp(other), dtype=np.float64))
    mixed = frames.copy()
    mixed[into] = np.logaddexp(frames[into], other[part] + np.float32(level) - np.float32(ratio) * DECIBEL)
    return mixed


def mix_waves(waveform: Waveform, other: Waveform, span: tuple[slice, slice, float]) -> Waveform:
    into, part, ratio = span
    level = np.sqrt((np.mean(np.square(waveform)) + 1e-9) / (np.mean(np.square(other)) + 1e-9)) * 10 ** (-ratio / 20)
    mixed = waveform.copy()
    mixed[into] += np.float32(level) * other[part]
    return mixed


def draw_speed(config: AugmentConfig, generator: np.random.Generator) -> float:
    """1.05 is 5 % faster; 1 where nothing changes."""
    if not config.speed or generator.random() >= config.share:
        return 1.0
    return float(np.exp(generator.uniform(-1, 1) * np.log1p(config.speed)))


def faster_mels(frames: Frames, speed: float) -> Frames:
    """[T, 80] -> [round(T / speed), 80], read between frames; the spectrum stays where it is."""
    if speed == 1.0 or len(frames) < 2:
        return frames
    places = np.clip((np.arange(max(1, round(len(frames) / speed))) + 0.5) * speed - 0.5, 0, len(frames) - 1)
    low = np.minimum(places.astype(np.intp), len(frames) - 2)
    share = (places - low).astype(np.float32)[:, None]
    return np.asarray(frames[low] * (1 - share) + frames[low + 1] * share, dtype=np.float32)


def faster_waves(waveform: Waveform, speed: float) -> Waveform:
    """[N] -> about N / speed samples; the spectrum moves with the speed."""
    if speed == 1.0:
        return waveform
    return np.asarray(soxr.resample(waveform, SAMPLE_RATE * speed, SAMPLE_RATE), dtype=np.float32)


def clean_frames(count: int, clean: int, speed: float) -> NDArray[np.int64]:
    """[count]: the frame of the clean clip, of `clean` frames, that each frame of the faster one is of."""
    places: NDArray[np.int64] = np.floor((np.arange(count) + 0.5) * speed).astype(np.int64)
    return np.minimum(places, max(0, clean - 1))


def change_wave(waveform: Waveform, config: AugmentConfig, generator: np.random.Generator) -> Waveform:
    """Samples with white noise and another equaliser, as `config` says."""
    if generator.random() < config.share * config.noise_share:
        ratio = 10 ** (-generator.uniform(*config.noise_snr_db) / 20)
        level = np.float32(ratio * np.sqrt(np.mean(np.square(waveform)) + 1e-9))
        waveform = waveform + level * generator.standard_normal(len(waveform), dtype=np.float32)
    if config.equalise_db and generator.random() < config.share:
        spectrum = fft.rfft(waveform)
        gains = np.interp(fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE), mel_centres(), _smooth_curve(generator))
        waveform = fft.irfft(spectrum * 10 ** (config.equalise_db * gains / 20), len(waveform)).astype(np.float32)
    return waveform
