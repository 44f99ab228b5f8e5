"""`fit text` in one config: which front end, and the keys of both. The fits themselves stand in tokenizers/text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from triptych.tokenizers.text.fit import Coverage, PhonemeFitConfig, PieceFitConfig, fit_phonemes, fit_pieces
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class TextFitConfig:
    """Which text front end."""

    frontend: Literal["phonemes", "pieces"] = "phonemes"
    """phonemes (gruut; speaks numbers, money and unknown words) or pieces (sentencepiece)"""
    phonemes: PhonemeFitConfig = PhonemeFitConfig()
    """where it is phonemes"""
    pieces: PieceFitConfig = PieceFitConfig()
    """where it is pieces"""


def fit_text(texts: Iterable[str], folder: Path, config: TextFitConfig) -> Coverage:
    """Makes the front end and says which of the texts it can speak."""
    if config.frontend == "phonemes":
        return fit_phonemes(texts, folder, config.phonemes)
    return fit_pieces(texts, folder, config.pieces)
