"""Text to sentencepiece pieces, for any script; characters never seen become bytes, so nothing is lost.

    "Guten Morgen." -> ▁Gut en ▁Mor gen .

Control symbols stay at the front of the table and never come out of `encode`. Knows no sounds: the model learns them.
"""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.text.frontend import TOKENIZER_FILE, cannot_speak
from triptych.training.files import atomic_file, fingerprint_of, write_json

MODEL_FILE = "pieces.model"


class PieceText:
    """The sentencepiece front end. Satisfies `TextTokenizer`.

    Raises:
        ValueError: `model` is not a sentencepiece model, or has more than 65,535 pieces.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"not a sentencepiece model: {str(error).splitlines()[0]}") from None
        size = self._pieces.GetPieceSize()
        if size > np.iinfo(np.uint16).max:
            raise ValueError(f"{size} pieces are more than 65,535: fit fewer")
        digest = fingerprint_of({"name": "sentencepiece", "model": model.hex()})
        self.spec = TokenizerSpec(kind="text", name="sentencepiece", size=size, fingerprint=digest)

    def encode(self, text: str) -> NDArray[np.uint16]:
        """The ids [L].

        Raises:
            ValueError: half characters or control characters, unknown pieces, or nothing to speak.
        """
        broken = [c for c in text if unicodedata.category(c) in ("Cs", "Cc") and not c.isspace()]
        if broken:
            raise cannot_speak(broken, "a text")
        ids = self._pieces.EncodeAsIds(" ".join(text.split()))
        unknown = self._pieces.unk_id()
        if unknown in ids:
            lost = [c for c in text if not c.isspace() and unknown in self._pieces.EncodeAsIds(c)]
            raise cannot_speak(lost, "this sentencepiece model (it has no byte fallback)")
        if not any(c.isalnum() for c in text):
            raise ValueError(f"nothing to speak in {text[:40]!r}: give at least one word")
        return np.array(ids, dtype=np.uint16)

    def decode(self, tokens: NDArray[np.uint16]) -> str:
        return str(self._pieces.DecodeIds([int(t) for t in tokens]))

    def save(self, folder: Path) -> None:
        with atomic_file(folder / MODEL_FILE) as beside:
            beside.write_bytes(self._model)
        write_json(folder / TOKENIZER_FILE, {"name": "sentencepiece", "spec": self.spec.to_json()})

    @classmethod
    def load(cls, folder: Path) -> "PieceText":
        try:
            return cls((folder / MODEL_FILE).read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{folder / MODEL_FILE} does not exist: fit the text front end again") from None
        except ValueError as error:
            raise ValueError(f"{folder / MODEL_FILE}: {error}") from None
