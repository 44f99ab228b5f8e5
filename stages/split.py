"""Cuts a long text into pieces that the semantic stage can speak in one go, at sentence ends where it can.

    "One. Two, and three." ──sentences──▶ "One." "Two, and three." ──joined while short enough──▶ pieces

Knows characters and lengths; what is too long is for the caller to say.
"""

import re
from collections.abc import Callable
from typing import TypeVar

Tokens = TypeVar("Tokens")

SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|\n+")
CLAUSE_END = re.compile(r"(?<=[,;:])\s+|\s+[–—-]\s+")
WORD_END = re.compile(r"\s+")


def split_text(text: str, encode: Callable[[str], Tokens], too_long: Callable[[Tokens], bool]) -> list[Tokens]:
    """Encoded pieces of `text`, in order, each short enough where words allow it.

    Raises:
        ValueError: from `encode`, over the whole text: nothing is left out silently.
    """
    whole = encode(text)
    if not too_long(whole):
        return [whole]
    parts = [text]
    for boundary in (SENTENCE_END, CLAUSE_END, WORD_END):
        parts = [
            shorter for part in parts for shorter in (_split(part, boundary) if too_long(encode(part)) else [part])
        ]
    pieces: list[str] = []
    for part in parts:
        joined = f"{pieces[-1]} {part}" if pieces else part
        if pieces and not too_long(encode(joined)):
            pieces[-1] = joined
        else:
            pieces.append(part)
    return [encode(piece) for piece in pieces]


def _split(text: str, boundary: re.Pattern[str]) -> list[str]:
    return [part for part in boundary.split(text) if part and re.search(r"\w", part)]
