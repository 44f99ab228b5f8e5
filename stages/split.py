"""Cuts a long text into pieces that the semantic stage can speak in one go, at sentence ends where it can.

    "One. Two, and three." ──sentences──▶ "One. " "Two, and three." ──joined while short enough──▶ pieces

Scripts without spaces are cut after their own signs, and in the end between characters. Knows characters and lengths;
what is too long is for the caller to say.
"""

import re
from collections.abc import Callable
from typing import TypeVar

Tokens = TypeVar("Tokens")

SENTENCE_END = re.compile(r"(?<=[.!?…؟])[\"'”’)]*\s+|\n+|(?<=[。！？；।])(?![。！？；।])[」』”’）]*\s*")
CLAUSE_END = re.compile(r"(?<=[,;:،؛])\s+|(?<!\d)\s+[–—-]\s+|\s+[–—-]\s+(?!\d)|(?<=[、，：])\s*")
WORD_END = re.compile(r"(?<!\d\s[–—-])\s+(?![–—-]\s\d)")
"""not within "10 – 20", which is read as a whole"""
SPACE = re.compile(r"\s+")
CHARACTER_END = re.compile(
    r"(?<=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])"
    r"(?<![\u0e40-\u0e44\u0ec0-\u0ec4\u1039\u17d2])(?=\w)"  # a vowel or a joiner belongs to what follows
)
"""in scripts that stand without spaces: Thai, Lao, Burmese, Khmer, kana and Han"""


def split_text(text: str, encode: Callable[[str], Tokens], too_long: Callable[[Tokens], bool]) -> list[Tokens]:
    """Encoded pieces of `text`, in order, each short enough where words allow it.

    Raises:
        ValueError: from `encode`, over the whole text: nothing is left out silently.
    """
    whole = encode(text)
    if not too_long(whole):
        return [whole]
    parts = [text]
    for boundary in (SENTENCE_END, CLAUSE_END, WORD_END, SPACE, CHARACTER_END):
        parts = [
            shorter
            for part in parts
            for shorter in (_split(part, boundary, encode) if too_long(encode(part)) else [part])
        ]
    pieces: list[str] = []
    for part in parts:
        joined = pieces[-1] + part if pieces else part
        if pieces and not too_long(encode(joined)):
            pieces[-1] = joined
        else:
            pieces.append(part)
    return [encode(piece.strip()) for piece in pieces]


def _split(text: str, boundary: re.Pattern[str], encode: Callable[[str], object]) -> list[str]:
    """What lies between boundaries and can be spoken, each followed by a space where its boundary has one."""
    parts, at = [], 0
    for found in boundary.finditer(text):
        space = " " if any(sign.isspace() for sign in found[0]) else ""
        parts.append(text[at : found.start()] + space)
        at = found.end()
    return [part for part in (*parts, text[at:]) if re.search(r"[^\W_]", part) or _is_spoken(part, encode)]


def _is_spoken(sign: str, encode: Callable[[str], object]) -> bool:
    """Whether what has no letter and no digit is read as a word, as "&" is."""
    try:
        encode(sign)
    except ValueError:
        return False
    return True
