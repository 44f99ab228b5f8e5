"""What people's recordings look like on disk, and the one shape they all take: a stream of `Found`.

    LJSpeech     metadata.csv (id|text[|normalised text]) beside wavs/
    JSONL        {"audio": "a/1.opus", "text": …, "speaker": …, "split": …, anything else}, a line a recording
    folder       audio files anywhere below, each with a .txt of the same name or none; speaker = parent folder
    lhotse       recordings.jsonl[.gz] with its supervisions beside it, or cuts.jsonl[.gz]

A reader drops nothing: what it cannot use it yields with the reason. Opens no audio.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from triptych.corpus.manifest import (
    SPLITS,
    Recording,
    Split,
    header_of,
    json_lines,
    merge_supervisions,
    recording_of_cut,
    written,
)

OTHER_SUFFIXES = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".amr")
"""of recordings that cannot be read"""
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
"""what other corpora call the three splits"""


@dataclass(frozen=True)
class Found:
    """One entry of a source."""

    where: str
    """file and line, for the list of rejected entries"""
    recording: Recording | None = None
    """with `seconds` as the source says it, or 0"""
    reason: str = ""
    """why there is no recording"""
    has_split: bool = False
    """the source says to which split it belongs"""


def found_in(source: Path) -> Iterator[Found]:
    """The entries of whatever `source` is.

    Raises:
        ValueError: there is no such thing, or it is none of the four; the message says what is wanted.
    """
    if source.is_dir():
        return read_ljspeech(source) if (source / "metadata.csv").is_file() else read_folder(source)
    if not source.exists():
        raise ValueError(f"{source} does not exist")
    if source.name == "metadata.csv":
        return read_ljspeech(source.parent)
    if not source.name.endswith((".jsonl", ".jsonl.gz", ".json", ".ndjson")):
        raise ValueError(
            f"{source}: give a folder of audio, an LJSpeech folder (metadata.csv), or a JSONL or lhotse file"
        )
    first = next((row for _, row in json_lines(source) if isinstance(row, dict)), None)
    if first is None:
        raise ValueError(f"{source} holds no JSON object: give one a line, with the key audio")
    if "type" in first and "recording" in first:
        return read_cuts(source)
    if "sources" in first:
        return read_recordings(source)
    if "recording_id" in first:
        raise ValueError(f"{source} holds lhotse supervisions: give the recordings file beside it")
    return read_jsonl(source)


def read_jsonl(source: Path) -> Iterator[Found]:
    """A line a recording: audio (relative to the file), and any of id, text, speaker, seconds, split."""
    for number, row in json_lines(source):
        where = f"{source.name}, line {number}"
        if isinstance(row, str):
            yield Found(where, reason=row)
            continue
        try:
            yield _found_in_row(where, row, source.resolve().parent)
        except ValueError as error:
            yield Found(where, reason=str(error))


def _found_in_row(where: str, row: dict[str, Any], folder: Path) -> Found:
    row = dict(row)
    audio, text, speaker = row.pop("audio", None), row.pop("text", None), row.pop("speaker", None)
    split, seconds, name = row.pop("split", None), row.pop("seconds", None), row.pop("id", None)
    if not isinstance(audio, str) or not audio:
        raise ValueError(f"no audio: the key 'audio' is {audio!r}, and must be a path")
    if text is not None:
        text = written(text, "text")
    if not isinstance(speaker, str | int | None):
        raise ValueError(f"speaker is {speaker!r}, and must be a string or null")
    recording = Recording(
        id=str(name) if name is not None else Path(audio).with_suffix("").as_posix(),
        path=folder / audio,
        seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
        text=text.strip() or None if text is not None else None,
        speaker=None if speaker is None else str(speaker),
        split=split_named(split) if split is not None else "train",
        custom=row,
    )
    return Found(where, recording, has_split=split is not None)


def split_named(name: Any) -> Split:
    """train, dev or test, by any of their usual names."""
    split = SPLIT_NAMES.get(str(name).lower())
    if split is None:
        raise ValueError(f"split is {name!r}, and must be one of {', '.join(SPLITS)}")
    return split


def read_ljspeech(folder: Path) -> Iterator[Found]:
    """`id|text` or `id|text|normalised text` a line; the audio is `wavs/id.wav`, or `id` with any audio suffix."""
    try:
        lines = (folder / "metadata.csv").read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / 'metadata.csv'} is not UTF-8 text: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"metadata.csv, line {number}"
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 2 or not fields[0]:
            yield Found(where, reason=f"not of the form id|text: {line[:60]!r}")
            continue
        path = _audio_named(folder, fields[0])
        if path is None:
            yield Found(where, reason=f"no audio file wavs/{fields[0]}.wav")
            continue
        # The written text stands, and the text front end speaks its numbers, as it will for a user.
        name = Path(fields[0]).with_suffix("").as_posix() if fields[0].endswith(AUDIO_SUFFIXES) else fields[0]
        yield Found(where, Recording(name, path, 0.0, text=fields[1] or None, speaker=folder.resolve().name))


def _audio_named(folder: Path, name: str) -> Path | None:
    for base in (folder / "wavs", folder):
        for suffix in ("", *AUDIO_SUFFIXES):
            if (base / f"{name}{suffix}").is_file():
                return base / f"{name}{suffix}"
    return None


def read_folder(folder: Path) -> Iterator[Found]:
    """Every audio file below `folder`, in the order of their names."""
    suffixes = AUDIO_SUFFIXES + OTHER_SUFFIXES
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file()):
        if path.name.startswith("."):
            continue  # what editors and file managers leave, such as ._a.wav
        inside = path.relative_to(folder)
        if path.suffix.lower() in OTHER_SUFFIXES:
            if any(path.with_suffix(suffix).is_file() for suffix in AUDIO_SUFFIXES):
                continue  # it was converted
            yield Found(str(inside), reason=f"{path.suffix} is not read: convert it to wav or flac")
            continue
        said = path.with_suffix(".txt")
        try:
            text = " ".join(said.read_text(encoding="utf-8-sig").split()) if said.is_file() else ""
        except UnicodeDecodeError:
            yield Found(str(inside), reason=f"{said.name} is not UTF-8 text")
            continue
        speaker = None if path.parent == folder else path.parent.name
        name = inside.with_suffix("").as_posix()
        yield Found(str(inside), Recording(name, path, 0.0, text=text or None, speaker=speaker))


def read_cuts(source: Path) -> Iterator[Found]:
    """A lhotse `CutSet` of cuts of single audio files."""
    folder = source.resolve().parent
    for number, row in json_lines(source):
        where = f"{source.name}, line {number}"
        try:
            if isinstance(row, str):
                raise ValueError(row)
            split = (row.get("custom") or {}).get("split")
            if split is not None:
                row = row | {"custom": row["custom"] | {"split": split_named(split)}}
            recording = recording_of_cut(row, folder)
            yield Found(where, looked_for(recording, folder), has_split=split is not None)
        except ValueError as error:
            yield Found(where, reason=str(error))


def read_recordings(source: Path) -> Iterator[Found]:
    """A lhotse `RecordingSet`; each line of the supervisions beside it is an utterance, if there are any."""
    beside = source.with_name(source.name.replace("recordings", "supervisions"))
    said: dict[str, list[dict[str, Any]]] | None = None
    if beside != source and beside.is_file():
        said = {}
        for number, row in json_lines(beside):
            if isinstance(row, str) or not {"id", "recording_id", "start", "duration"} <= row.keys():
                raise ValueError(f"{beside}, line {number} is not a lhotse supervision")
            said.setdefault(str(row["recording_id"]), []).append(row)
    for number, row in json_lines(source):
        where = f"{source.name}, line {number}"
        if isinstance(row, str):
            yield Found(where, reason=row)
        elif said is not None and not said.get(str(row.get("id"))):
            yield Found(where, reason=f"no line of {beside.name} belongs to it")
        else:
            for supervision in [None] if said is None else said[str(row["id"])]:
                yield _found_in_recording(where, row, supervision, source.resolve().parent)


def _found_in_recording(where: str, row: dict[str, Any], said: dict[str, Any] | None, folder: Path) -> Found:
    try:
        header, path, speed = header_of(row)
        recording = Recording(str(row["id"]), folder / path, float(row["duration"]), header=header, speed=speed)
        if said is not None:
            text, speaker, more = merge_supervisions([said])
            channel = said.get("channel", 0)
            recording = replace(
                recording, id=str(said["id"]), text=text, speaker=speaker, custom=more,
                start=float(said["start"]), seconds=float(said["duration"]),
                channel=channel if isinstance(channel, int) and header.channels > 1 else None,
            )  # fmt: skip
        return Found(where, looked_for(recording, folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"not a lhotse recording ({error})"
        return Found(where, reason=reason)


def looked_for(recording: Recording, folder: Path) -> Recording:
    """lhotse writes paths as they were given, often relative to the working folder: look there too, for the whole of
    what is written, since another file of the same name may lie there."""
    if recording.path.exists() or not recording.path.is_relative_to(folder):
        return recording
    given = recording.path.relative_to(folder)
    return replace(recording, path=given.resolve()) if given.exists() else recording
