"""The judges of an evaluation: who hears the words, whose voice it is, how natural it sounds; each may be missing.

    name in the settings ─▶ recogniser, speaker encoder, naturalness predictor ─▶ Judges ─▶ sections

Invariant: a judge that is missing is `None`, and `absent` says why; nothing is measured in its place. Knows no cascade.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from triptych.evaluation.recogniser import Recogniser
from triptych.evaluation.speaker import Speaker
from triptych.tokenizers.waveform import Waveform


class Naturalness(Protocol):
    def rate(self, waveform: Waveform, sample_rate: int) -> float:
        """How natural a waveform [N] sounds, on a scale of 1 to 5 (a mean opinion score)."""


@dataclass(frozen=True)
class Judges:
    """Who judges."""

    recogniser: Recogniser | None = None
    speaker: Speaker | None = None
    naturalness: Naturalness | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """'recogniser', 'speaker', 'naturalness' -> model, package and version"""
    absent: Mapping[str, str] = field(default_factory=dict)
    """likewise -> why there is none"""
