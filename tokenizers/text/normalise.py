"""From text as people type it to text that a phoneme front end reads without losing a sound.

    1  characters     one form for each (NFKC), accents folded where the language lacks them, quotes and brackets
                      to spaces, dashes to commas; a character that would be lost is an error that names it
    2  English only   what gruut would misread or drop becomes words: 5°C, 3kg, 1/2, 1990s, $1.5 billion, C++, a@b.org

Pure functions of the text. `RULES` is part of the front end's fingerprint. Knows no phonemes.
"""

import re
import unicodedata
from collections.abc import Callable

from triptych.tokenizers.text.frontend import cannot_speak

RULES = 2
"""raise it with every change here that changes an output"""

ENGLISH_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
PUNCTUATION = frozenset(".,?!;:'- ")
SIGNS = frozenset("$£€%&")
"""gruut speaks them in every language"""
ENGLISH_SIGNS = frozenset("+=@#/°×÷¥~")
SILENT = frozenset('"“”„‟«»‹›()[]{}*_`•·‣▪●¿¡')
"""typography without a sound of its own"""

_CHARACTERS = str.maketrans(
    {
        "’": "'",
        "‘": "'",
        "‛": "'",
        "ʼ": "'",
        "′": "'",
        "−": "-",
        "‐": "-",
        "‑": "-",
        "—": " , ",
        "―": " , ",
        "\u2044": "/",
    }
)
_VULGAR = re.compile(r"(\d?)\s*([½⅓⅔¼¾⅕⅛⅜⅝⅞])")
_FOLDED = {
    "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i",
}  # fmt: skip


def clean(text: str, letters: frozenset[str], signs: frozenset[str], language: str) -> str:
    """Step 1. `letters` are those of the language, in lower case.

    Raises:
        ValueError: characters that would be lost; they are named.
    """
    text = _VULGAR.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}", text)
    text = re.sub(r"(?<=\d)\s*–\s*(?=\d)", " to " if language.startswith("en") else "-", text).replace("–", " , ")
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = re.sub(r"\s+", " ", text)
    out: list[str] = []
    lost: list[str] = []
    for c in text:
        if c.lower() in letters or c in PUNCTUATION or c in signs or (c.isascii() and c.isdigit()):
            out.append(c)
        elif c in SILENT:
            out.append(" ")
        elif unicodedata.combining(c) and out and out[-1].isalpha():
            continue  # a second accent on a letter that is spoken
        elif unicodedata.category(c) != "Cf":  # joiners, marks of direction, soft hyphens: no sound
            folded = _FOLDED.get(c) or "".join(
                b for b in unicodedata.normalize("NFKD", c) if not unicodedata.combining(b)
            )
            if folded and all(f.lower() in letters for f in folded):
                out.append(folded)
            else:
                lost.append(c)
    if lost:
        raise cannot_speak(lost, f"gruut ({language})")
    return _breaks("".join(out))


def _breaks(text: str) -> str:
    """Ellipses and loose dashes become commas or ends of sentences; a sentence that has no end gets one."""
    text = re.sub(r"\.{2,}\s*(?=[\"' ]*[A-Z]|$)", ". ", text)
    text = re.sub(r"\.{2,}", ", ", text)
    text = re.sub(r"(?:^|\s)-+(?=\s|$)|--+", " , ", text)
    text = re.sub(r"([?!])(?=[^\W\d])|([,;])(?=[^\W\d_])|(?<=[^\W\d])(:)(?=[^\W\d])", lambda m: m[0] + " ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,;:")
    return text if not text or text[-1] in ".?!" else f"{text}."


_UNITS = {
    "kg": "kilograms", "g": "grams", "mg": "milligrams", "km": "kilometers", "m": "meters", "cm": "centimeters",
    "mm": "millimeters", "mph": "miles per hour", "km/h": "kilometers per hour", "lb": "pounds", "lbs": "pounds",
    "oz": "ounces", "ft": "feet", "hz": "hertz", "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz",
    "kb": "kilobytes", "mb": "megabytes", "gb": "gigabytes", "ml": "milliliters", "ms": "milliseconds",
    "min": "minutes", "db": "decibels", "kw": "kilowatts",
}  # fmt: skip
_ABBREVIATIONS = {
    "prof": "professor", "approx": "approximately", "inc": "incorporated", "ave": "avenue", "rd": "road",
    "blvd": "boulevard", "gen": "general", "col": "colonel", "capt": "captain", "lt": "lieutenant", "sgt": "sergeant",
    "rev": "reverend", "sr": "senior", "dept": "department", "est": "established", "etc": "et cetera",
}  # fmt: skip
_MONEY = {"$": "dollar", "£": "pound", "€": "euro", "¥": "yen"}
_SCALES = {"k": "thousand", "m": "million", "bn": "billion"}
_PARTS = {
    2: "half",
    3: "third",
    4: "quarter",
    5: "fifth",
    6: "sixth",
    7: "seventh",
    8: "eighth",
    9: "ninth",
    10: "tenth",
}
_DECADES = {
    "0": "hundreds", "1": "tens", "2": "twenties", "3": "thirties", "4": "forties", "5": "fifties", "6": "sixties",
    "7": "seventies", "8": "eighties", "9": "nineties",
}  # fmt: skip
_MONTHS = {
    "Jan": "January", "Feb": "February", "Mar": "March", "Apr": "April", "Jun": "June", "Jul": "July", "Aug": "August",
    "Sep": "September", "Sept": "September", "Oct": "October", "Nov": "November", "Dec": "December",
}  # fmt: skip
_NUMBER = r"\d+(?:,\d{2,3})*(?:\.\d+)?"


def _money(m: re.Match[str]) -> str:
    scale = _SCALES.get(m[3].lower(), m[3]) if m[3] else ""
    if not scale and m[1] == "$":
        return m[0]  # gruut says dollars and cents
    if not scale and "." in m[2]:
        whole, _, rest = m[2].partition(".")
        return f"{whole} {_MONEY[m[1]]}{_plural(m[1], whole)} {rest.lstrip('0')}".rstrip()
    return f"{m[2]} {scale} {_MONEY[m[1]]}{_plural(m[1], m[2] if not scale else '')}"


def _plural(sign: str, number: str) -> str:
    return "" if sign == "¥" or number == "1" else "s"


def _fraction(m: re.Match[str]) -> str:
    whole, top, bottom = m[1], int(m[2]), int(m[3])
    if top == 0 or top >= bottom or bottom not in _PARTS:
        return f"{whole or ''} {m[2]} slash {m[3]}"
    part = _PARTS[bottom] if top == 1 else {2: "halves"}.get(bottom, f"{_PARTS[bottom]}s")
    said = f"{top} {part}" if top > 1 or not whole else f"a {part}"
    return f"{whole} and {said}" if whole else said


def _decade(m: re.Match[str]) -> str:
    century = {"20": "2 thousand"}.get(m[1], m[1]) if m[2] == "0" else m[1]
    return f"{century or ''} {'s' if century == '2 thousand' else _DECADES[m[2]]}".replace("thousand s", "thousands")


_Change = str | Callable[[re.Match[str]], str]

_ENGLISH_RULES: list[tuple[str, _Change, int]] = [
    (r"\bhttps?://", "", re.I),
    (r"\bNos?\.(?= ?\d)", "number ", re.I),
    (r"(?<!\d)\.(?=\d)", "0.", 0),
    (r"(?<=\d),(?=\d)(?!(?:\d{2},)*\d{3}(?!\d))", ", ", 0),  # no thousands, nor lakhs
    (r"\bSt\.(?= [A-Z])", "Saint", 0),
    (rf"\b({'|'.join(_MONTHS)})\.(?= ?\d)", lambda m: f"{_MONTHS[m[1]]} ", 0),
    (rf"\b({'|'.join(_ABBREVIATIONS)})\.(?=$|[ ,;:?!])", lambda m: _ABBREVIATIONS[m[1].lower()] + _end(m), re.I),
    (rf"([$£€¥]) ?({_NUMBER})(?: ?(hundred|thousand|million|billion|trillion|k|m|bn)\b)?", _money, re.I),
    (r"[$£€¥](?!\d)", lambda m: f" {_MONEY[m[0]]} ", 0),
    (rf"({_NUMBER}) ?(km/h|{'|'.join(_UNITS)})\b(?!\.\w|')", lambda m: f"{m[1]} {_unit(m)}", re.I),
    (r"°\s?C\b", " degrees Celsius ", 0),
    (r"°\s?F\b", " degrees Fahrenheit ", 0),
    (r"°", " degrees ", 0),
    (r"(?<=\d) ?%", " percent ", 0),
    (r"%", " percent ", 0),
    (r"#(?=\d)", " number ", 0),
    (r"#", " hash ", 0),
    (r"~(?= ?\d)", " about ", 0),
    (r"&", " and ", 0),
    (r"@", " at ", 0),
    (r"\+", " plus ", 0),
    (r"=", " equals ", 0),
    (r"×", " times ", 0),
    (r"÷", " divided by ", 0),
    (r"(?<![\w'])'?(1[1-9]|20)?(\d)0'?s\b", _decade, 0),
    (r"\d+(?:\.\d+){2,}", lambda m: m[0].replace(".", " point "), 0),
    (r"(?<![\d/])(?:(\d+) )?(\d+)/(\d+)(?![\d/])", _fraction, 0),
    (r"(?<!\d)/|/(?!\d)", " slash ", 0),
    (r"(?<![\d.,:/-])0\d+(?![\d:/]|[.,]\d)", lambda m: " ".join(m[0]), 0),
    (r"(\d+)(st|nd|rd|th)\b", lambda m: m[0].lower(), re.I),
    (r"(?<=\d)(?!(?:st|nd|rd|th|[ap]m)\b)(?=[a-zA-Z])", " ", 0),
    (r"(?<=[a-zA-Z])(?=\d)", " ", 0),
    (r"(?<=[a-z]{2})\.(?=[A-Z])", ". ", 0),
    (r"(?<![\w.])[\w-]+(?:\.[a-z]{2,})+\b", lambda m: m[0].replace(".", " dot "), 0),
]
_ENGLISH = [(re.compile(pattern, flags), change) for pattern, change, flags in _ENGLISH_RULES]


def _end(m: re.Match[str]) -> str:
    """The full stop of an abbreviation ends the sentence too, where nothing follows."""
    return "." if m.end() == len(m.string) else ""


def _unit(m: re.Match[str]) -> str:
    if m[2] in ("G", "M"):  # 5G, 10M
        return m[2]
    words = _UNITS[m[2].lower()]
    first, _, rest = words.partition(" ")
    single = {"feet": "foot", "hertz": "hertz"}.get(first, first.removesuffix("s"))
    said = f"{single} {rest}".strip() if m[1] == "1" else words
    return said + (". " if m.string[m.end() : m.end() + 1] == "" else "")


def english(text: str) -> str:
    """Step 2. `text` has passed `clean`."""
    for pattern, change in _ENGLISH:
        text = pattern.sub(change, text)
    if "~" in text:
        raise cannot_speak("~", "gruut (en-us)")
    return re.sub(r"\s+(?=[.,?!;:](?!\d))", "", re.sub(r"\s+", " ", text)).strip()
