"""`fit text` in one config: which front end, and the keys of both. The fits themselves stand in tokenizers/text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from triptych.tokenizers.text.fit import (
    Coverage,
    ModelFitConfig,
    PhonemeFitConfig,
    PieceFitConfig,
    fit_model,
    fit_phonemes,
    fit_pieces,
)
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class TextFitConfig:
    """Which text front end."""

    frontend: Literal["phonemes", "pieces", "model"] = "phonemes"
    """phonemes (gruut; speaks numbers, money and unknown words), pieces (sentencepiece), or a text model's own"""
    phonemes: PhonemeFitConfig = PhonemeFitConfig()
    """where it is phonemes"""
    pieces: PieceFitConfig = PieceFitConfig()
    """where it is pieces"""
    model: ModelFitConfig = ModelFitConfig()
    """where it is a text model's"""


def fit_text(texts: Iterable[str], folder: Path, config: TextFitConfig) -> Coverage:
    """Makes the front end and says which of the texts it can speak."""
    if config.frontend == "phonemes":
        return fit_phonemes(texts, folder, config.phonemes)
    if config.frontend == "model":
        return fit_model(texts, folder, config.model)
    return fit_pieces(texts, folder, config.pieces)
