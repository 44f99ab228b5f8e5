"""Text to phonemes by gruut, offline: "Dr. Smith paid $4.50." -> dˈɑktɚ smˈɪθ pˈeɪd fˈɔɹ dˈɑlɚz fˈɪfti sˈɛnts.

    symbols   [word boundary, ".", ",", "?", "!", consonants…, vowels…, vowels with ˈ…, vowels with ˌ…]

The table is the language's whole inventory in a fixed order, saved in tokenizer.json, so no text is needed to fit it.
A text gives the same ids whatever was encoded before it. gruut is imported at the first text.
"""

import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.text.frontend import TOKENIZER_FILE, cannot_speak
from triptych.tokenizers.text.gruut_reader import Reader, Word, inventory, known_language, reader
from triptych.tokenizers.text.normalise import ENGLISH_LETTERS, ENGLISH_SIGNS, RULES, SIGNS, clean, english
from triptych.training.files import fingerprint_of, read_json, write_json

WORD_BOUNDARY = " "
ENDS = (".", ",", "?", "!")
"""a text's rhythm: each stands for the break itself, and for the word boundary before the next word"""


class PhonemeText:
    """The gruut front end. Satisfies `TextTokenizer`.

    Raises:
        ValueError: gruut does not know the language, or its data is not installed.
    """

    def __init__(self, language: str = "en-us") -> None:
        language = known_language(language)
        phonemes, letters = inventory(language)
        self._set(language, (WORD_BOUNDARY, *ENDS, *phonemes), letters, versions(language))

    def _set(self, language: str, symbols: tuple[str, ...], letters: frozenset[str], made_with: dict[str, Any]) -> None:
        self.language = language
        self.symbols = symbols
        self.made_with = made_with
        self._letters = ENGLISH_LETTERS if self._english else letters
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.spec = TokenizerSpec(
            kind="text", name="gruut", size=len(symbols), fingerprint=fingerprint_of(self._record())
        )

    @property
    def _english(self) -> bool:
        return self.language.startswith("en")

    def _record(self) -> dict[str, Any]:
        return {
            "name": "gruut",
            "language": self.language,
            "symbols": list(self.symbols),
            "letters": "".join(sorted(self._letters)),
            "made_with": self.made_with,
        }

    def encode(self, text: str) -> NDArray[np.uint16]:
        """The ids [L] of what is spoken, words divided by a boundary or a break.

        Raises:
            ValueError: characters that cannot be spoken (they are named), or nothing to speak.
        """
        symbols: list[str] = []
        for word in self._words(text):
            if word.end:
                if symbols and symbols[-1] not in ENDS:
                    symbols.append(word.end)
                elif symbols and symbols[-1] == ",":
                    symbols[-1] = word.end
            elif word.phonemes:
                if symbols and symbols[-1] not in ENDS:
                    symbols.append(WORD_BOUNDARY)
                symbols.extend(word.phonemes)
        if not symbols:
            raise ValueError(f"nothing to speak in {text[:40]!r}: give at least one word")
        symbols = [self._known(symbol) for symbol in symbols]
        unknown = [s for s in symbols if s not in self._ids]
        assert not unknown, f"phonemes outside the table: {unknown}"
        return np.array([self._ids[s] for s in symbols], dtype=np.uint16)

    def decode(self, tokens: NDArray[np.uint16]) -> str:
        """IPA, word by word: "hɛlˈoʊ, wˈɚld!"."""
        said = [self.symbols[int(t)] for t in tokens]
        return "".join(s + " " if s in ENDS and i + 1 < len(said) else s for i, s in enumerate(said))

    def _words(self, text: str) -> list[Word]:
        """What gruut reads; ends with a break, as `clean` has seen to."""
        signs = SIGNS | ENGLISH_SIGNS if self._english else SIGNS
        readable = clean(text, self._letters, signs, self.language)
        read = reader(self.language)
        if self._english:
            readable = english(_uncapped(readable, read))
        words = read(readable)
        if any(word.misread for word in words):
            words = read(_spelled(readable, words))
        if lost := "".join(word.text for word in words if word.misread):
            raise cannot_speak(lost.replace(" ", ""), f"gruut ({self.language})")
        return [*words, Word(readable[-1:], end=readable[-1:] if readable[-1:] in ENDS else ".")]

    def _known(self, phoneme: str) -> str:
        """A guessed phoneme may bear a stress or a length that the table lacks."""
        if phoneme in self._ids:
            return phoneme
        return next((p for p in (phoneme.lstrip("ˈˌ"), phoneme.lstrip("ˈˌ").rstrip("ː")) if p in self._ids), phoneme)

    def save(self, folder: Path) -> None:
        write_json(folder / TOKENIZER_FILE, self._record() | {"spec": self.spec.to_json()})

    @classmethod
    def load(cls, folder: Path) -> "PhonemeText":
        """Warns where another version of gruut is installed than the one that it was made with."""
        record = read_json(folder / TOKENIZER_FILE)
        self = cls.__new__(cls)
        try:
            letters = frozenset(record["letters"])
            self._set(record["language"], tuple(record["symbols"]), letters, dict(record["made_with"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / TOKENIZER_FILE} is not a gruut front end ({error})") from None
        if (now := versions(self.language)) != self.made_with:
            warnings.warn(
                f"{folder} was made with {_said(self.made_with)}, here is {_said(now)}: some words may sound different",
                stacklevel=2,
            )
        return self


CAPITALS = frozenset({"US", "IT", "WHO", "AM", "PM", "UN", "II", "III", "IV", "VI", "VII", "VIII"})
"""read as letters or numbers although their lower case is a word"""


def _uncapped(text: str, read: Reader) -> str:
    """SHOUTED words that are in the lexicon in lower case; others are initials, and gruut spells them."""
    shouted = text.isupper() and len(text.split()) > 1

    def lower(m: re.Match[str]) -> str:
        word = m[0]
        return word.lower() if (shouted or word not in CAPITALS) and word.lower() in read.lexicon else word

    return re.sub(r"(?<![\w.])[A-Z]{2,}(?:'[A-Z]+)?(?![\w'])", lower, text)


def _spelled(text: str, words: list[Word]) -> str:
    """`text` with misread words as single letters and numbers: "kv" -> "K V", "16:9" -> "16 9"."""
    for word in words:
        if word.misread:
            parts = re.findall(r"\d+|[^\W\d_]", word.text)
            text = re.sub(
                rf"(?<!\w){re.escape(word.text)}(?!\w)", " ".join(p.upper() for p in parts) or word.text, text
            )
    return text


def versions(language: str) -> dict[str, Any]:
    """What decides how a text is read, beside the table."""
    found: dict[str, Any] = {"rules": RULES}
    for package in ("gruut", f"gruut_lang_{language.split('-')[0]}"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # language data in a folder of gruut's own
            found[package] = "unknown"
    return found


def _said(made_with: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in made_with.items())
