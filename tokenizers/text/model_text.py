"""The text front end of a language model of text: its own tokenizer, so that its ids stay what it learned.

    "Good morning." ──Qwen3's tokenizer──▶ 15216 6556 13

Its folder holds tokenizer.json, and pieces.json in the format of HuggingFace's tokenizers. No special ids come out of
`encode`: "<|endoftext|>" in a text is spelled like any other characters. Knows no sounds and no language model.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.hub import expanded
from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.text.frontend import TOKENIZER_FILE, cannot_speak
from triptych.training.files import atomic_file, fingerprint_of, write_json

MODEL_FILE = "pieces.json"
NAME = "text-model"


class ModelText:
    """A text model's tokenizer. Satisfies `TextTokenizer`.

    Args:
        table: the tokenizer as HuggingFace's tokenizers writes it, JSON.
    Raises:
        ValueError: `table` is no such tokenizer.
    """

    def __init__(self, table: str) -> None:
        from tokenizers import Tokenizer

        try:
            self._pieces: Any = Tokenizer.from_str(table)
        except Exception as error:  # the library raises the bare class
            raise ValueError(f"not a tokenizer of HuggingFace's format: {str(error).splitlines()[0]}") from None
        self._pieces.no_truncation()
        self._pieces.no_padding()
        self._pieces.encode_special_tokens = True  # as text, that is
        self.table: str = self._pieces.to_str()
        self._unknown = unknown_id(self._pieces, self.table)
        added = self._pieces.get_added_tokens_decoder()
        self._special = {token: piece.content for token, piece in added.items() if piece.special}
        size = max(self._pieces.get_vocab(with_added_tokens=True).values()) + 1
        self._type = np.uint16 if size <= np.iinfo(np.uint16).max else np.uint32
        digest = fingerprint_of({"name": NAME, "table": self.table})
        self.spec = TokenizerSpec(kind="text", name=NAME, size=size, fingerprint=digest)

    @classmethod
    def of_model(cls, source: str | Path) -> "ModelText":
        """The tokenizer of a text model, from its folder or the hub.

        Raises:
            ValueError: there is none, or it has no table that can be kept apart from its code.
        """
        from transformers import AutoTokenizer

        try:
            theirs: Any = AutoTokenizer.from_pretrained(str(expanded(source)))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{source} has no tokenizer that can be read: {str(error).splitlines()[0]}") from None
        backend = getattr(theirs, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"{source}: its tokenizer is code, not a table: choose a model with a tokenizer.json")
        return cls(backend.to_str())

    def encode(self, text: str) -> NDArray[Any]:
        """The ids [L], uint16, or uint32 where there are more than 65,535 of them.

        Raises:
            ValueError: half characters or control characters, unknown pieces, a special token that the table has among
                its ordinary pieces, or nothing to speak.
        """
        broken = [c for c in text if unicodedata.category(c) in ("Cs", "Cc") and not c.isspace()]
        if broken:
            raise cannot_speak(broken, "a text")
        if not any(c.isalnum() for c in text):
            raise ValueError(f"nothing to speak in {text[:40]!r}: give at least one word")
        ids = self._ids(" ".join(text.split()))
        if ids is None:
            lost = [c for c in text if not c.isspace() and self._ids(c) is None]
            raise cannot_speak(lost or [text.strip()[0]], "this text model's tokenizer")
        if special := [self._special[token] for token in ids if token in self._special]:
            raise ValueError(f"cannot speak {special[0]!r}: it is a sign of the text model's own; leave it out")
        return np.array(ids, dtype=self._type)

    def _ids(self, text: str) -> list[int] | None:
        """None where a piece is unknown."""
        try:
            ids: list[int] = self._pieces.encode(text, add_special_tokens=False).ids
        except Exception:  # the library raises the bare class over an unknown piece where there is no id for it
            return None
        return None if self._unknown in ids else ids

    def decode(self, tokens: NDArray[Any]) -> str:
        return str(self._pieces.decode([int(t) for t in tokens]))

    def save(self, folder: Path) -> None:
        with atomic_file(folder / MODEL_FILE) as beside:
            beside.write_text(self.table, encoding="utf-8")
        write_json(folder / TOKENIZER_FILE, {"name": NAME, "spec": self.spec.to_json()})

    @classmethod
    def load(cls, folder: Path) -> "ModelText":
        try:
            return cls((folder / MODEL_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder / MODEL_FILE} does not exist: fit the text front end again") from None
        except ValueError as error:
            raise ValueError(f"{folder / MODEL_FILE}: {error}") from None


def unknown_id(pieces: Any, table: str) -> int | None:
    """The id of pieces that are not in the table; none: it has no such id."""
    if hasattr(pieces.model, "unk_token"):
        unknown = pieces.model.unk_token
        return None if unknown is None else pieces.token_to_id(unknown)
    found: int | None = json.loads(table)["model"].get("unk_id")  # of a Unigram, which does not say it otherwise
    return found
