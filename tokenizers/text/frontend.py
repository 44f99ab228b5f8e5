"""What a text front end is: text to ids, the same ids for the same text, nothing dropped unheard.

    "It cost $4.50."  ──phonemes──▶  ɪt kɔst fɔɹ dɑlɚz …   or   ──pieces──▶  ▁It ▁cost ▁$ 4 . 50 .

Its folder holds tokenizer.json, and what the front end needs beside. Knows no audio and no language model.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.spec import TokenizerSpec
from triptych.training.files import read_json

TOKENIZER_FILE = "tokenizer.json"


class TextTokenizer(Protocol):
    """Text to ids in [0, spec.size). May be called from several threads."""

    spec: TokenizerSpec

    def encode(self, text: str) -> NDArray[np.uint16]:
        """The ids [L] of `text`; a pure function of it.

        Raises:
            ValueError: characters that cannot be spoken (they are named), or nothing to speak.
        """

    def decode(self, tokens: NDArray[np.uint16]) -> str:
        """Readable: phonemes and punctuation, or the text itself."""

    def save(self, folder: Path) -> None:
        """Writes the front end into `folder`, which may exist."""


def load_text(folder: Path) -> TextTokenizer:
    """The front end that was saved in `folder`.

    Raises:
        ValueError: there is none, or of a kind that is not known.
    """
    name = read_json(folder / TOKENIZER_FILE).get("name")
    if name == "gruut":
        from triptych.tokenizers.text.phonemes import PhonemeText

        return PhonemeText.load(folder)
    if name == "sentencepiece":
        from triptych.tokenizers.text.pieces import PieceText

        return PieceText.load(folder)
    if name == "text-model":
        from triptych.tokenizers.text.model_text import ModelText

        return ModelText.load(folder)
    raise ValueError(
        f"{folder / TOKENIZER_FILE}: text front end {name!r} is not known (gruut, sentencepiece, text-model)"
    )


def cannot_speak(characters: Iterable[str], by: str) -> ValueError:
    """The error that names characters, each once, with its code point."""
    distinct = list(dict.fromkeys(characters))
    named = [f"'{c}' (U+{ord(c):04X})" if c.isprintable() else f"U+{ord(c):04X}" for c in distinct[:8]]
    more = f" and {len(distinct) - 8} more" if len(distinct) > 8 else ""
    return ValueError(f"cannot speak {', '.join(named)}{more}: {by} has no sound for it; write it out in words")
