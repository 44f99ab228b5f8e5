"""How natural it sounds: whatever predicts the mean opinion of listeners. Exchangeable.

Knows no texts and no voices.
"""

from typing import Protocol

import numpy as np

from triptych.tokenizers.waveform import Waveform, resample

RATE = 16_000
"""Hz, at which DNSMOS hears"""
ABSENT = "naturalness needs speechmos: pip install 'triptych[dnsmos]', or say none"


class Naturalness(Protocol):
    def rate(self, waveform: Waveform, sample_rate: int) -> float:
        """How natural a waveform [N] sounds, on a scale of 1 to 5."""


class Dnsmos:
    """DNSMOS P.835, overall (Reddy et al. 2022), by the package speechmos, which brings its weights.

    It was trained on noisy and cleaned recordings of people: it hears noise and damage well, and odd speech badly.

    Raises:
        ValueError: speechmos, or what it needs, is not installed.
    """

    def __init__(self) -> None:
        try:
            from speechmos import dnsmos
        except ModuleNotFoundError:
            raise ValueError(ABSENT) from None
        self.predictor = dnsmos

    def rate(self, waveform: Waveform, sample_rate: int) -> float:
        loud = np.clip(resample(waveform, sample_rate, RATE), -1.0, 1.0)
        return float(self.predictor.run(loud, RATE)["ovrl_mos"])


def load_naturalness(name: str) -> Naturalness | None:
    """The judge of a name; None where it is 'none'.

    Raises:
        ValueError: there is no such judge, or it is not installed.
    """
    if name not in ("dnsmos", "none"):
        raise ValueError(f"naturalness {name!r}: choose dnsmos or none")
    return Dnsmos() if name == "dnsmos" else None
