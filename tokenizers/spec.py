"""What a tokenizer promises, and the time grid. Each fact is written once, here or in a config; the rest derives.

    semantic     |---|---|---|---|       frames of sample_rate / hop, a floor of the length
    acoustic     |-|-|-|-|-|-|-|-|       likewise; codecs count a ceiling
    beat         |-------|-------|       the shortest span that is whole in both; 40 ms for 50 and 75 Hz

The waveform is padded to whole beats once, before either tokenizer, so that floor and ceiling agree.
Knows no model and no file.
"""

from dataclasses import asdict, dataclass
from fractions import Fraction
from math import gcd
from typing import Any

LONGEST_BEAT = Fraction(160, 1000)
"""seconds; a pair of rates with a longer beat is refused"""


@dataclass(frozen=True)
class WaveformSpec:
    """How a recording is prepared before any tokenizer hears it; part of every fingerprint."""

    sample_rate: int
    """Hz, of the prepared waveform"""
    loudness: float | None = -23.0
    """LUFS (ITU-R BS.1770) to which each recording is brought; None leaves it"""
    trim_db: float | None = None
    """silence more than this many dB under the peak is trimmed at both ends (a tenth of a second stays); None: no"""


@dataclass(frozen=True)
class TokenizerSpec:
    """One tokenizer, as shards, checkpoints and bundles remember it."""

    kind: str
    """text, semantic or acoustic"""
    name: str
    """what a person calls it: gruut, sentencepiece, wavlm, wav2vec2-bert, encodec"""
    size: int
    """entries of its alphabet; of one level for a codec"""
    sample_rate: int = 0
    """Hz, of the waveform that it takes; 0 for text"""
    hop: int = 0
    """samples a frame; 0 for text"""
    levels: int = 1
    """of the residual quantizer; 1 for text and semantic tokens"""
    fingerprint: str = ""
    """over all that decides which tokens come out: weights, layer, normalisation, centroids, preparation"""

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, exact."""
        return Fraction(self.sample_rate, self.hop)

    def frames(self, seconds: Fraction) -> int:
        """Frames in a whole number of beats; asserts that they are whole."""
        frames = self.frame_rate * seconds
        assert frames.denominator == 1, f"{seconds} s is not a whole number of {self.name} frames"
        return int(frames)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_same(made_with: TokenizerSpec, given: TokenizerSpec, what: str) -> None:
    """Refuses tokens of another tokenizer.

    Raises:
        ValueError: the fingerprints differ; names both and the remedy.
    """
    if made_with.fingerprint != given.fingerprint:
        raise ValueError(
            f"{what} was made with {made_with.kind} tokenizer {made_with.name} {made_with.fingerprint}, "
            f"not with {given.name} {given.fingerprint}: tokenize again, or name the tokenizer that it was made with"
        )


@dataclass(frozen=True)
class TimeGrid:
    """How the frames of a semantic and an acoustic tokenizer lie on one time axis."""

    semantic_rate: Fraction
    """frames a second"""
    acoustic_rate: Fraction
    """frames a second"""

    def __post_init__(self) -> None:
        if self.beat > LONGEST_BEAT:
            raise ValueError(
                f"{self.semantic_rate} Hz semantic and {self.acoustic_rate} Hz acoustic frames meet only every "
                f"{float(self.beat):.2f} s: choose rates whose common period is at most {float(LONGEST_BEAT)} s"
            )

    @classmethod
    def of(cls, semantic: TokenizerSpec, acoustic: TokenizerSpec) -> "TimeGrid":
        return cls(semantic.frame_rate, acoustic.frame_rate)

    @property
    def beat(self) -> Fraction:
        """Seconds: the shortest span that holds whole frames of both. 2 / 50 = 3 / 75 = 0.04."""
        a, b = 1 / self.semantic_rate, 1 / self.acoustic_rate
        numerator = a.numerator * b.denominator
        other = b.numerator * a.denominator
        return Fraction(numerator * other // gcd(numerator, other), a.denominator * b.denominator)

    @property
    def semantic_per_beat(self) -> int:
        return int(self.semantic_rate * self.beat)

    @property
    def acoustic_per_beat(self) -> int:
        return int(self.acoustic_rate * self.beat)

    def beats(self, seconds: float) -> int:
        """Whole beats in `seconds`, rounded down."""
        return int(Fraction(seconds).limit_denominator(1_000_000) / self.beat)

    def padded_samples(self, samples: int, sample_rate: int) -> int:
        """`samples` rounded up to whole beats."""
        beat = self.beat * sample_rate
        assert beat.denominator == 1, f"a beat is not a whole number of samples at {sample_rate} Hz"
        return -(-samples // int(beat)) * int(beat)
