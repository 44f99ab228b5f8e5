"""The manifest: which recordings there are, what is said in them and by whom. A lhotse `CutSet`, a line a recording.

    {"id": "b/7", "start": 0, "duration": 2.5, "channel": 0, "type": "MonoCut",
     "recording":    {"sources": [{"type": "file", "channels": [0], "source": "wavs/b/7.flac"}], …},
     "supervisions": [{"text": "Good morning.", "speaker": "b", …}],
     "custom":       {"split": "train", …}}

Audio paths are absolute, or relative to the manifest's folder. The format is lhotse's, and lhotse opens these files;
reading a line needs only JSON, so nothing here imports it. Knows no audio beyond a file's header.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from triptych.tokenizers.truncation import check_whole
from triptych.training.files import atomic_file

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
UNKNOWN_LENGTH = 2**63 - 1
"""samples, as libsndfile says of a FLAC file whose header leaves their number out"""


@dataclass(frozen=True)
class Header:
    """What an audio file says of itself."""

    sample_rate: int
    """Hz"""
    samples: int
    """a channel, of the whole file"""
    channels: int = 1

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


@dataclass(frozen=True)
class Recording:
    """One utterance: a whole audio file, or a part of one."""

    id: str
    path: Path
    """of the audio file; absolute once read from a manifest"""
    seconds: float
    """of this utterance, before any preparation"""
    text: str | None = None
    speaker: str | None = None
    split: Split = "train"
    custom: dict[str, Any] = field(default_factory=dict)
    """whatever else the source knew; times of an `alignment` are seconds into the file, as lhotse has them"""
    start: float = 0.0
    """seconds into the file"""
    channel: int | None = None
    """of the file; None: all are averaged"""
    header: Header | None = None
    """of the file; read from it when the manifest is written, where it is missing"""
    speed: float = 1.0
    """1.1: played a tenth faster and as much higher, as by lhotse's `perturb_speed`; `start` and `seconds` are of what
    is heard then"""

    @property
    def stop(self) -> float:
        return self.start + self.seconds


def read_header(path: Path) -> Header:
    """The header of an audio file, without decoding it.

    Raises:
        ValueError: missing, not an audio file, or one that does not say how long it is.
    """
    import soundfile

    check_whole(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .") or "damaged or cut short"
        raise ValueError(f"{path}: not an audio file that can be read ({reason})") from None
    if info.frames >= UNKNOWN_LENGTH:
        raise ValueError(f"{path}: does not say how long it is, as if written to a pipe: encode it once more")
    return Header(int(info.samplerate), int(info.frames), int(info.channels))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers from 1, each with its JSON object, or with the reason why it is none. `.gz` is unpacked.

    Raises:
        ValueError: no such file, or not text.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a JSONL file")
    unpacked = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")
    with unpacked as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    yield number, row if isinstance(row, dict) else "not a JSON object"
                except (json.JSONDecodeError, RecursionError) as error:
                    yield number, f"not JSON ({error})"
        except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is not a JSONL file that can be read: {error}") from None


def read_manifest(path: Path) -> Iterator[Recording]:
    """Recordings in the order of the file, lazily, audio paths made absolute.

    Raises:
        ValueError: missing, or a line that is not a cut of one audio file; names file and line.
    """
    folder = path.resolve().parent
    for number, row in json_lines(path):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            yield recording_of_cut(row, folder)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}: make a manifest with 'triptych prepare'") from None


def recording_of_line(line: bytes, folder: Path) -> Recording:
    """One line of a manifest.

    Raises:
        ValueError: not JSON, or not a cut of one audio file.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return recording_of_cut(row, folder)


def recording_of_cut(cut: dict[str, Any], folder: Path) -> Recording:
    """A lhotse cut as a `Recording`.

    Raises:
        ValueError: not a cut of a single audio file, with several speakers, or with a field of the wrong kind.
    """
    if cut.get("type") not in ("MonoCut", "MultiCut"):
        raise ValueError(f"not a manifest line (a lhotse cut), its type is {cut.get('type')!r}")
    try:
        header, source, speed = header_of(cut["recording"])
        custom = dict(cut.get("custom") or {})
        text, speaker, more = merge_supervisions(cut.get("supervisions") or [])
        split = custom.pop("split", "train")
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        mono = cut["type"] == "MonoCut" and header.channels > 1
        return Recording(
            id=written(str(cut["id"]), "id"),
            path=folder / source,
            seconds=at_least(0.0, cut["duration"], "duration"),
            text=text,
            speaker=speaker,
            split=cast(Split, split),
            custom=more | custom,
            start=at_least(0.0, cut.get("start", 0.0), "start"),
            channel=int(at_least(0, cut["channel"], "channel")) if mono else None,
            header=header,
            speed=speed,
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a lhotse cut ({type(error).__name__}: {error})") from None


def at_least(least: float, value: Any, name: str) -> float:
    """Raises ValueError where `value` is no finite number, or less than `least`."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not least <= number < math.inf:
        raise ValueError(f"{name} is {value!r:.60}, and must be a number of at least {least}")
    return number


def written(value: Any, name: str) -> str:
    """Raises ValueError where `value` is no text, or has half a character (a lone surrogate) in it."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}, and must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is {value!r:.60}, which is not Unicode text") from None
    return value


def header_of(recording: dict[str, Any]) -> tuple[Header, str, float]:
    """Header and path of a lhotse recording that is one file, and the speed at which it is played.

    Raises:
        ValueError: it is something else.
    """
    sources = recording["sources"]
    if len(sources) != 1 or sources[0]["type"] != "file":
        raise ValueError("its recording is not one audio file: save it as one first")
    speed = 1.0
    for transform in recording.get("transforms") or ():
        if transform["name"] != "Speed":
            raise ValueError(f"its recording has transforms ({transform['name']}): save the audio first")
        speed *= at_least(0.1, transform["kwargs"]["factor"], "the factor of a Speed")
    rate = int(at_least(1, recording["sampling_rate"], "sampling_rate"))
    samples = int(at_least(0, recording["num_samples"], "num_samples"))
    source = sources[0]["source"]
    if not isinstance(source, str) or not source or "\0" in source:
        raise ValueError(f"source is {source!r:.60}, and must be the path of an audio file")
    return Header(rate, round(samples * speed), len(sources[0]["channels"])), source, speed


def merge_supervisions(supervisions: list[dict[str, Any]]) -> tuple[str | None, str | None, dict[str, Any]]:
    """Text, speaker and the rest of what is said in one cut.

    Raises:
        ValueError: more than one speaker.
    """
    speakers = {written(str(item["speaker"]), "speaker") for item in supervisions if item.get("speaker") is not None}
    if len(speakers) > 1:
        raise ValueError(f"{len(speakers)} speakers in one cut: split it first (lhotse: trim_to_supervisions)")
    texts = [written(item["text"], "text") for item in supervisions if item.get("text")]
    more: dict[str, Any] = {}
    for item in supervisions:
        more |= {key: item[key] for key in ("language", "gender") if item.get(key) is not None}
        more |= item.get("custom") or {}
        for kind, found in (item.get("alignment") or {}).items():
            more.setdefault("alignment", {}).setdefault(kind, []).extend(found)
    return " ".join(texts) or None, next(iter(speakers), None), more


def cut_of_recording(recording: Recording, folder: Path) -> dict[str, Any]:
    """A `Recording` as a lhotse cut; paths under `folder` become relative to it."""
    header = recording.header or read_header(recording.path)
    path, samples = recording.path.resolve(), round(header.samples / recording.speed)
    several = recording.channel is None and header.channels > 1
    channels = list(range(header.channels))
    channel: Any = channels if several else recording.channel or 0
    said = {
        "id": recording.id, "recording_id": recording.id, "start": 0.0, "duration": recording.seconds,
        "channel": channel, "text": recording.text, "speaker": recording.speaker,
    }  # fmt: skip
    return {
        "id": recording.id,
        "start": recording.start,
        "duration": recording.seconds,
        "channel": channel,
        "supervisions": [{key: value for key, value in said.items() if value is not None}],
        "recording": {
            "id": recording.id,
            "sources": [
                {
                    "type": "file",
                    "channels": channels,
                    "source": path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path),
                }
            ],
            "sampling_rate": header.sample_rate,
            "num_samples": samples,
            "duration": samples / header.sample_rate,
            "channel_ids": channels,
        }
        | ({"transforms": [{"name": "Speed", "kwargs": {"factor": recording.speed}}]} if recording.speed != 1 else {}),
        "custom": {**recording.custom, "split": recording.split},
        "type": "MultiCut" if several else "MonoCut",
    }


def write_manifest(path: Path, recordings: Iterable[Recording]) -> int:
    """Writes a manifest whole or not at all (`.gz` packs it), and returns the number of its lines."""
    folder = path.resolve().parent
    lines = [json.dumps(cut_of_recording(recording, folder), ensure_ascii=False) + "\n" for recording in recordings]
    content = "".join(lines).encode()
    with atomic_file(path) as beside:
        beside.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return len(lines)
