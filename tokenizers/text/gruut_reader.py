"""gruut, held so that a text always reads the same and quickly.

gruut's own lexicon answers from an unindexed file (9 ms a word), and remembers words in a way that lets one text
change the reading of the next. Here it is one indexed table in memory behind a pure lookup; the rest is gruut's:
numbers, dates, times, money, abbreviations, parts of speech, and a guess for unknown words.

    "Dr. Hall, 5 apples!"  ->  Doctor|d ˈɑ k t ɚ  Hall|h ˈɔ l  ,  five|f ˈaɪ v  apples|ˈæ p ə l z  !
"""

import re
import sqlite3
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

STRESS = ("", "ˈ", "ˌ")


@dataclass(frozen=True)
class Word:
    """One word as gruut read it, or a break."""

    text: str
    phonemes: tuple[str, ...] = ()
    end: str = ""
    """of a break: one of . , ? !"""
    misread: bool = False
    """something in it was not spoken: no phonemes, figures left over, or an unknown word without a vowel"""


def known_language(language: str) -> str:
    """gruut's name of a language whose data is installed.

    Raises:
        ValueError: unknown to gruut, or not installed; names the remedy.
    """
    import gruut
    from gruut.utils import find_lang_dir, resolve_lang

    name = str(resolve_lang(language))
    if name not in gruut.get_supported_languages():
        known = ", ".join(sorted(gruut.get_supported_languages()))
        raise ValueError(f"language '{language}' is not known to gruut: choose one of {known}")
    if find_lang_dir(name) is None:
        raise ValueError(f"gruut's data for '{name}' is missing: pip install gruut-lang-{name.split('-')[0]}")
    return name


class Lexicon:
    """Words and their phonemes by part of speech; a pure lookup."""

    def __init__(self, path: Path) -> None:
        on_disk = sqlite3.connect(str(path))
        self._rows = sqlite3.connect(":memory:", check_same_thread=False)
        on_disk.backup(self._rows)
        on_disk.close()
        self._rows.execute("CREATE INDEX words ON word_phonemes (word)")
        self._entries = lru_cache(maxsize=65536)(self._read)

    def _read(self, word: str) -> dict[str, list[str]]:
        query = "SELECT role, phonemes FROM word_phonemes WHERE word = ? ORDER BY pron_order"
        entries: dict[str, list[str]] = {}
        for role, phonemes in self._rows.execute(query, (word,)):
            entries.setdefault(role or "", phonemes.split())
        return entries

    def __contains__(self, word: str) -> bool:
        return bool(self._entries(word))

    def __call__(self, word: str, role: str | None = None, do_transforms: bool = True) -> list[str] | None:
        """gruut's `lookup_phonemes`: the entry for the part of speech, else the general one, else the first."""
        bare = re.sub(r"\W+", "", word)
        for form in (word, word.lower(), bare, bare.lower()) if do_transforms else (word,):
            if form and (entries := self._entries(form)):
                return entries.get(role or "") or entries.get("") or next(iter(entries.values()))
        return None

    def column(self, name: str) -> set[str]:
        """Distinct characters of all words, or distinct phonemes."""
        if name == "word":
            return {c for (word,) in self._rows.execute("SELECT DISTINCT word FROM word_phonemes") for c in word}
        return {
            p for (said,) in self._rows.execute("SELECT DISTINCT phonemes FROM word_phonemes") for p in said.split()
        }


class Reader:
    """gruut for one language; may be called from several threads."""

    def __init__(self, language: str) -> None:
        from gruut.lang import get_settings
        from gruut.text_processor import TextProcessor
        from gruut.utils import find_lang_dir

        folder = find_lang_dir(language)
        assert folder is not None
        self.lexicon = Lexicon(Path(folder) / "lexicon.db")
        self._language = language
        settings = get_settings(language, lang_dir=folder, lookup_phonemes=self.lexicon)
        self._processor: Any = TextProcessor(default_lang=language, settings={language: settings})
        self._lock = threading.Lock()
        self._vowels = set(listed_vowels(language))

    def __call__(self, text: str) -> list[Word]:
        """The words of `text`, and its breaks.

        Raises:
            ValueError: a number that gruut has no name for, from 29 digits on; names it.
        """
        try:
            with self._lock:
                graph, root = self._processor(text, lang=self._language)
                read = [word for sentence in self._processor.sentences(graph, root) for word in sentence.words]
        except ArithmeticError:  # of Decimal, whose precision is 28 digits
            longest = max(re.findall(r"\d[\d.,]*\d", text), key=len, default=text)
            shown = longest if len(longest) <= 40 else f"{longest[:40]}…"
            raise ValueError(f"cannot speak {shown}: the number is too long; put spaces between its digits") from None
        return [word for word in map(self._word, read) if word is not None]

    def _word(self, word: Any) -> Word | None:
        if word.is_minor_break:
            return Word(word.text, end=",")
        if word.is_major_break:
            return Word(word.text, end=next((mark for mark in "?!" if mark in word.text), "."))
        if not word.is_spoken:
            return None  # a quote or a bracket
        phonemes = tuple(p for p in word.phonemes or () if p)
        figures = any(c.isdigit() for c in word.text)
        voiceless = (
            self._language.startswith("en")  # others have words such as vlk
            and not any(p.lstrip("ˈˌ") in self._vowels for p in phonemes)
            and self.lexicon(word.text) is None
        )
        return Word(word.text, phonemes, misread=not phonemes or figures or voiceless)


@lru_cache(maxsize=4)
def reader(language: str) -> Reader:
    """One for each language and process."""
    return Reader(language)


def inventory_of(lexicon: Lexicon, language: str) -> tuple[list[str], list[str]]:
    """Consonants and vowels (without stress), in a fixed order: gruut's own, then what only the lexicon has."""
    vowels = listed_vowels(language)
    used = lexicon.column("phonemes")
    bare = {p.lstrip("ˈˌ") for p in used}
    vowels += sorted({p.lstrip("ˈˌ") for p in used if p[0] in "ˈˌ"} - set(vowels))
    listed = [p for p in _listed(language) if p not in vowels]
    return listed + sorted(bare - set(vowels) - set(listed)), vowels


def listed_vowels(language: str) -> list[str]:
    """Vowels and diphthongs of gruut's own inventory."""
    from gruut_ipa.phonemes import Phoneme

    return [text for text in _listed(language) if not Phoneme(text).consonant]


def _listed(language: str) -> list[str]:
    from gruut_ipa.phonemes import Phonemes

    return list(dict.fromkeys(p.text for p in Phonemes.from_language(language).phonemes))


@lru_cache(maxsize=4)
def inventory(language: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Every phoneme of a language, vowels with each stress; and the letters of its words, in lower case."""
    lexicon = reader(language).lexicon
    consonants, vowels = inventory_of(lexicon, language)
    letters = frozenset(c.lower() for c in lexicon.column("word") if c.isalpha())
    return (*consonants, *(f"{stress}{vowel}" for stress in STRESS for vowel in vowels)), letters
