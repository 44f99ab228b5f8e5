"""Pairs of recordings of which one is the likelier, in the file formats that are published.

    ZeroSpeech 2021   lexical/dev/gold.csv     id, filename, voice, frequency, word, phones, length, correct   sWUGGY
                      syntactic/dev/gold.csv   id, filename, voice, type, subtype, correct, transcription      sBLIMP
                      and FILENAME.wav beside it; a pair is two rows of one id and voice, correct 1 and 0
    slamkit           0_brick.wav 1_blick.wav 2_… in a folder or in its folders, sorted by the number before '_' (or
                      '+', sBLIMP): 0 and 1 are a pair, 2 and 3 the next; the first of each is the right one  StoryCloze
    slamkit, cut up   X_mutual.wav, X_correct.wav, X_incorrect.wav: a beginning and two ends

Sources: zerospeech/zerospeech2021 (lexical.py, syntactic.py), slp-rl/slamkit (metric/modelling_metric.py,
cross_modal_metric.py). Columns are read by name, so that their order does not count. Knows no model.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from triptych.training.files import file_digest, fingerprint_of

GOLD = "gold.csv"
KINDS = {"lexical": "sWUGGY", "syntactic": "sBLIMP", "story": "StoryCloze"}
"""folder, as in ZeroSpeech 2021 -> what the field calls the test"""
NUMBERED = re.compile(r"(\d+)[_+]")
BANDS = ((">100", 100.0), ("21-100", 20.0), ("6-20", 5.0), ("1-5", 1.0), ("oov", -1.0))
"""of the frequency of a word, and where each begins"""
MUTUAL, RIGHT, WRONG = "_mutual", "_correct", "_incorrect"


@dataclass(frozen=True)
class Pair:
    """Two recordings in one voice."""

    name: str
    """of the pair; the same in all voices"""
    voice: str
    group: str
    """what kind of pair it is, such as a phenomenon of syntax; may be empty"""
    right: tuple[Path, ...]
    """the likelier one; two files: they are heard one after the other"""
    wrong: tuple[Path, ...]


@dataclass(frozen=True)
class PairSet:
    """A test."""

    name: str
    pairs: tuple[Pair, ...]


def read_pairs(folder: Path) -> list[PairSet]:
    """The tests in a folder of either format; several where it holds several gold.csv.

    Raises:
        ValueError: no pairs there, or a wav or its partner is missing; names it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of pairs")
    golds = sorted(folder.rglob(GOLD))
    if golds:
        return [read_gold(gold, name_of(gold.parent, folder)) for gold in golds]
    cut_up = sorted(folder.rglob(f"*{RIGHT}.wav"))
    if any(wav.with_name(wav.name.replace(RIGHT, MUTUAL)).exists() for wav in cut_up):
        return [PairSet(folder.name, tuple(cut_pair(wav, folder) for wav in cut_up))]
    return [read_numbered(folder)]


def described(folder: Path) -> str:
    """A folder of pairs by its name and its content, wherever it lies."""
    files = sorted([*folder.rglob(GOLD), *folder.rglob("*.wav")])
    content = fingerprint_of({file.relative_to(folder).as_posix(): file_digest(file) for file in files})
    return f"{folder.resolve().name} ({content[:8]})"


def name_of(place: Path, folder: Path) -> str:
    """What a folder with a gold.csv is called: 'lexical/dev' is 'sWUGGY dev'."""
    path = place.resolve()
    if path.parent.name in KINDS:
        return f"{KINDS[path.parent.name]} {path.name}"
    return str(path.relative_to(folder.resolve())) if path != folder.resolve() else path.name


def read_gold(gold: Path, name: str) -> PairSet:
    """ZeroSpeech 2021's."""
    with gold.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    missing = {"id", "filename", "voice", "correct"} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{gold}: no column {', '.join(sorted(missing))}: it is no gold.csv of ZeroSpeech 2021")
    found: dict[tuple[str, str, str], tuple[list[dict[str, str]], list[dict[str, str]]]] = {}
    for row in rows:
        kind = " ".join(filter(None, (row.get("type"), row.get("subtype"))))
        both = found.setdefault((kind, row["id"], row["voice"]), ([], []))
        if row["correct"] is None:
            raise ValueError(f"{gold}: the row of {row['filename']} has fewer columns than the first")
        both[row["correct"].strip() == "0"].append(row)
    pairs = []
    for (kind, pair, voice), (right, wrong) in found.items():
        if len(right) != len(wrong):
            raise ValueError(f"{gold}: pair {pair} in voice {voice} has {len(right)} right and {len(wrong)} wrong rows")
        for one, other in zip(right, wrong, strict=True):
            group = kind or band(one.get("frequency"))
            files = (wav_of(gold, one["filename"]),), (wav_of(gold, other["filename"]),)
            pairs.append(Pair(f"{kind} {pair}".strip(), voice, group, *files))
    return PairSet(name, tuple(pairs))


def band(frequency: str | None) -> str:
    """The band of a word's frequency in LibriSpeech, as ZeroSpeech's evaluation has them; '' where it is not known."""
    try:
        count = float(frequency or "")
    except ValueError:
        return ""
    return next(name for name, least in BANDS if count >= least)


def wav_of(gold: Path, name: str) -> Path:
    """The recording of a row; its name has no ending in ZeroSpeech's files."""
    found = next((file for file in (gold.parent / f"{name}.wav", gold.parent / name) if file.is_file()), None)
    if found is None:
        raise ValueError(f"{gold}: no file {gold.parent / name}.wav")
    return found


def cut_pair(right: Path, folder: Path) -> Pair:
    """A beginning and its two ends."""
    start, wrong = (right.with_name(right.name.replace(RIGHT, part)) for part in (MUTUAL, WRONG))
    for file in (start, wrong):
        if not file.is_file():
            raise ValueError(f"{right}: no file {file.name} beside it")
    name = str(right.relative_to(folder)).removesuffix(f"{RIGHT}.wav")
    return Pair(name, "", "", (start, right), (start, wrong))


def read_numbered(folder: Path) -> PairSet:
    """slamkit's: each folder on its own, in the order of the numbers."""
    pairs = []
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        numbered = [(int(m[1]), wav) for wav in sorted(place.glob("*.wav")) if (m := NUMBERED.match(wav.name))]
        numbers = sorted(number for number, _ in numbered)
        if len(numbers) % 2 or any(b != a + 1 for a, b in zip(numbers[::2], numbers[1::2], strict=True)):
            raise ValueError(f"{place}: its numbered wavs are no pairs: two with one number, or one without a partner")
        files = [wav for _, wav in sorted(numbered)]
        voice = "" if place == folder else str(place.relative_to(folder))
        pairs += [
            Pair(f"{voice} {right.stem}".strip(), voice, "", (right,), (wrong,))
            for right, wrong in zip(files[::2], files[1::2], strict=True)
        ]
    if not pairs:
        raise ValueError(f"{folder} holds no pairs: neither {GOLD} (ZeroSpeech 2021) nor numbered wavs (slamkit)")
    return PairSet(folder.name, tuple(pairs))
