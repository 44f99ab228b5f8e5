"""What a tokenizer promises, and the time grid. Each fact is written once, here or in a config; the rest derives.

    semantic     |---|---|---|---|       frames of sample_rate / hop, a floor of the length
    acoustic     |-|-|-|-|-|-|-|-|       likewise; codecs count a ceiling
    beat         |-------|-------|       the shortest span that is whole in both; 40 ms for 50 and 75 Hz

The waveform is padded to whole beats once, before either tokenizer, so that floor and ceiling agree. Every codec on
this grid gives all its levels at one rate: EnCodec 24 kHz and DAC 24 kHz 75 Hz, Mimi 12.5 Hz (a beat of 80 ms with 50
Hz). Where the shortest span is longer than `LONGEST_BEAT`, the semantic tokens move to the codec's clock:

    50 Hz and DAC 44.1 kHz (86.13 Hz) meet every 5.12 s   →   beat = 12 codec frames, 139 ms; 7 semantic frames in it,
    50.24 Hz: each is the encoder's frame nearest to it, so that about one in 205 is heard twice

Knows no model and no file.
"""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST_BEAT = Fraction(160, 1000)
"""seconds; above it, semantic frames are aligned by the nearest one"""


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
    """what a person calls it: gruut, sentencepiece, wavlm, wav2vec2-bert, encodec, dac, mimi"""
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
    """How the frames of a semantic and an acoustic tokenizer lie on one time axis.

    Raises:
        ValueError: a codec whose frame alone is longer than a beat may be.
    """

    encoder_rate: Fraction
    """frames a second that the semantic tokenizer gives"""
    acoustic_rate: Fraction
    """frames a second"""

    def __post_init__(self) -> None:
        if 1 / self.acoustic_rate > LONGEST_BEAT:
            raise ValueError(
                f"acoustic frames of {self.acoustic_rate} Hz are longer than {float(LONGEST_BEAT)} s: "
                f"choose a codec of at least {1 / LONGEST_BEAT} Hz"
            )

    @classmethod
    def of(cls, semantic: TokenizerSpec, acoustic: TokenizerSpec) -> "TimeGrid":
        return cls(semantic.frame_rate, acoustic.frame_rate)

    @property
    def ratio(self) -> Fraction:
        """Semantic frames an acoustic frame: the true one, or the nearest whose beat is short enough. 2/3 for 50:75."""
        most = int(LONGEST_BEAT * self.acoustic_rate)
        nearest = (self.encoder_rate / self.acoustic_rate).limit_denominator(most)
        return max(nearest, Fraction(1, most))

    @property
    def exact(self) -> bool:
        """Whether both tokenizers' own frames meet on each beat."""
        return self.semantic_rate == self.encoder_rate

    @property
    def semantic_rate(self) -> Fraction:
        """Semantic tokens a second, on this grid."""
        return self.ratio * self.acoustic_rate

    @property
    def beat(self) -> Fraction:
        """Seconds: the shortest span that holds whole frames of both. 2 / 50 = 3 / 75 = 0.04."""
        return self.acoustic_per_beat / self.acoustic_rate

    @property
    def semantic_per_beat(self) -> int:
        return self.ratio.numerator

    @property
    def acoustic_per_beat(self) -> int:
        return self.ratio.denominator

    def beats(self, seconds: float) -> int:
        """Whole beats in `seconds`, rounded down."""
        return int(Fraction(seconds).limit_denominator(1_000_000) / self.beat)

    def padded_samples(self, samples: int, sample_rate: int) -> int:
        """`samples` rounded up to whole beats."""
        beat = self.beat * sample_rate
        assert beat.denominator == 1, f"a beat is not a whole number of samples at {sample_rate} Hz"
        return -(-samples // int(beat)) * int(beat)

    def on_beats(self, semantic: NDArray[np.uint16], beats: int) -> NDArray[np.uint16]:
        """The encoder's frames [n] of `beats` beats as the semantic tokens [T] of this grid.

        Token k lies around (k + 1/2) / semantic_rate and is the frame there. Exact grids leave them as they are.
        """
        total, step = beats * self.semantic_per_beat, self.encoder_rate / self.semantic_rate
        assert len(semantic) == total if self.exact else abs(len(semantic) - total * step) <= 1, (len(semantic), beats)
        nearest = (2 * np.arange(total) + 1) * step.numerator // (2 * step.denominator)
        return semantic[np.minimum(nearest, len(semantic) - 1)]
