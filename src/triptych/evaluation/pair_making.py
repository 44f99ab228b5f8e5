"""Pairs of texts, spoken by a cascade: a likelihood test of one's own, which the tools of the field can read too.

    list.jsonl   {"test": "lexical",   "right": "brick", "wrong": "blick", "frequency": 40}
                 {"test": "syntactic", "right": "Dogs eat meat.", "wrong": "Dogs eats meat.", "type": "agreement"}
                 {"test": "story",     "start": "It rained all day.", "right": "We got wet.", "wrong": "It was dry."}

    OUT/lexical/dev/gold.csv   0_brick-ada.wav  1_blick-ada.wav  2_…     ZeroSpeech 2021 reads gold.csv and the names,
        syntactic/dev/         0+dogs-eat-meat-ada.wav  1+…              slamkit the numbers: one folder is a test for
        story/dev/             0_it-rained-…-ada.wav  1_…                both. gold.csv is written last
        made_of.json           what speaks and how: wavs of other settings are not mixed in

Both texts of a pair have one voice and one seed. Knows no score.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from triptych.corpus.manifest import json_lines
from triptych.evaluation.pairs import GOLD, KINDS
from triptych.stages.cascade import Cascade
from triptych.stages.request import Settings
from triptych.tokenizers.waveform import write_wav
from triptych.training.files import atomic_file, file_digest, fingerprint_of, read_json, write_json

SEPARATOR = {"syntactic": "+"}
"""between the number and the rest of a name; '_' elsewhere"""
COLUMNS = {
    "lexical": ("id", "filename", "voice", "frequency", "word", "phones", "length", "correct"),
    "syntactic": ("id", "filename", "voice", "type", "subtype", "correct", "transcription"),
    "story": ("id", "filename", "voice", "type", "subtype", "correct", "transcription"),
}
LONGEST_NAME = 40
MADE_OF = "made_of.json"


@dataclass(frozen=True)
class TextPair:
    """A line of the list."""

    test: str
    """a key of `KINDS`"""
    id: str
    right: str
    wrong: str
    type: str = ""
    subtype: str = ""
    frequency: str = ""


def read_text_pairs(path: Path) -> list[TextPair]:
    """The lines of a list.

    Raises:
        ValueError: a line that is no pair, or no line at all.
    """
    pairs = []
    for number, row in json_lines(path):
        pair = row if isinstance(row, str) else text_pair(row, number)
        if isinstance(pair, str):
            raise ValueError(f"{path}, line {number}: {pair}")
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"{path} has no line")
    return pairs


def text_pair(row: dict[str, Any], number: int) -> TextPair | str:
    """The pair of one line, or what is wrong with it."""
    test = row.get("test")
    if test not in KINDS:
        return f"'test' is {test!r}: one of {', '.join(KINDS)}"
    texts = [row.get("right"), row.get("wrong"), row.get("start", "")]
    if not all(isinstance(text, str) for text in texts) or not (texts[0].strip() and texts[1].strip()):
        return 'give "right" and "wrong", and where both begin alike "start", as texts'
    right, wrong = (f"{texts[2]} {text}".strip() for text in texts[:2])
    if right == wrong:
        return "both texts are the same"
    unknown = set(row) - {"test", "right", "wrong", "start", "id", "type", "subtype", "frequency"}
    if unknown:
        return f"unknown key '{sorted(unknown)[0]}'"
    more = {key: str(row[key]) for key in ("type", "subtype", "frequency") if row.get(key) is not None}
    return TextPair(test, str(row.get("id", number)), right, wrong, **more)


def make_pairs(
    cascade: Cascade,
    pairs: Sequence[TextPair],
    voices: Sequence[str],
    folder: Path,
    settings: Settings,
    progress: Callable[[int, int], None],
    *,
    bundle: str = "",
) -> list[Path]:
    """Speaks every pair in every voice; returns the gold files. What lies there already is not made again.

    Args:
        bundle: a fingerprint of the cascade's files, by which a later call knows whether it goes on with the same.
    Raises:
        ValueError: a text that cannot be spoken, before any is; tests that are all complete already, or were made
            elsewhere; a folder that was begun by another cascade or with other settings.
    """
    check_texts(cascade, pairs)
    golds = {test: folder / test / "dev" / GOLD for test in KINDS if any(pair.test == test for pair in pairs)}
    there = [gold for gold in golds.values() if gold.exists()]
    if there and (len(there) == len(golds) or not (folder / MADE_OF).exists()):
        raise ValueError(f"{there[0]} exists already: name another output, or remove {there[0].parent}")
    whose = [file_digest(Path(voice)) if Path(voice).is_file() else voice for voice in voices]
    said = {"list": fingerprint_of([asdict(pair) for pair in pairs]), "voices": whose}
    claim(folder, {"bundle": bundle, "settings": asdict(settings), **said})
    total, done = 2 * len(pairs) * len(voices), 0
    for test, gold in golds.items():
        mine = [pair for pair in pairs if pair.test == test]
        if gold in there:
            done += 2 * len(mine) * len(voices)
            progress(done, total)
            continue
        rows = []
        number = 0
        for place, pair in enumerate(mine):
            for voice in voices:
                for text, correct in ((pair.right, 1), (pair.wrong, 0)):
                    name = f"{number}{SEPARATOR.get(test, '_')}{plain(text)}-{plain(Path(voice).stem)}"
                    wav = gold.parent / f"{name}.wav"
                    if not wav.exists():
                        seeded = replace(settings, seed=settings.seed + place)
                        made = cascade.speak(text, voice=voice, settings=seeded)
                        write_wav(wav, made.waveform, made.sample_rate)
                    rows.append(row_of(pair, text, name, voice, correct))
                    number, done = number + 1, done + 1
                    progress(done, total)
        with atomic_file(gold) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS[test], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return list(golds.values())


def claim(folder: Path, said: dict[str, Any]) -> None:
    """Writes what the wavs of a folder are made of, or finds that it is the same.

    Raises:
        ValueError: it is not.
    """
    path, said = folder / MADE_OF, json.loads(json.dumps(said))
    began = read_json(path) if path.exists() else said
    if other := " and ".join(key for key in said if began.get(key, said[key]) != said[key]):
        raise ValueError(f"{folder} was begun with another {other}: give the same, or name another output")
    write_json(path, said)


def check_texts(cascade: Cascade, pairs: Sequence[TextPair]) -> None:
    """Whether all can be spoken.

    Raises:
        ValueError: one cannot; names it.
    """
    front_end = cascade.tokenizers.text
    if front_end is None:
        raise ValueError("this cascade has no text front end: pairs of texts need one that speaks")
    for pair in pairs:
        for text in (pair.right, pair.wrong):
            try:
                front_end.encode(text)
            except ValueError as error:
                raise ValueError(f"pair {pair.id}, '{text}': {error}") from None


def row_of(pair: TextPair, text: str, name: str, voice: str, correct: int) -> dict[str, Any]:
    """A row of gold.csv; what it has no column for is left out."""
    return {
        "id": pair.id, "filename": name, "voice": Path(voice).stem, "frequency": pair.frequency if correct else "",
        "word": text, "phones": "", "length": len(text), "type": pair.type, "subtype": pair.subtype,
        "correct": correct, "transcription": text,
    }  # fmt: skip


def plain(text: str) -> str:
    """Letters and digits of a text, for a file name."""
    parts = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split()
    return "-".join(parts)[:LONGEST_NAME].strip("-")
