"""Token shards: a tokenized corpus, read in place.

    tokens/
      plan.json                 what is being made of what, so that a broken run can go on
      shard-00000.safetensors   text, semantic, codes: uint16 (text of an alphabet over 65,535: uint32), flat;
                                *_offsets: int64 [rows + 1], in frames
      shard-00000.jsonl         a line a row: id, text, speaker, seconds, split, samples
      shard-00000.json          its checksums and rejected rows; written last of the three
      rejected.jsonl            rows that could not be tokenized, with reasons
      shards.json               format, specs, preparation, checksums; written last, so its presence means whole

Shards are memory-mapped, some of them at a time: a set of 100,000 hours has more files than a process may hold open.
Of each row, split, speaker and lengths stay in memory, as numbers; its line is read when asked for. `shards.py` writes
them. Knows no stage and draws no batch.
"""

import json
import mmap
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from triptych.corpus.manifest import Split, json_lines
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec, WaveformSpec, check_same
from triptych.training.config import build
from triptych.training.files import file_digest, read_json

FORMAT = 1
SHARDS_FILE = "shards.json"
SHOWN_MISSING = 8
"""names of missing shards in a message"""
OPEN_SHARDS = 128
"""mapped at a time: two files each, of the 1024 that a process may commonly have"""
KINDS = ("text", "semantic", "codes")
SPLITS: tuple[Split, ...] = get_args(Split)

Ids = NDArray[np.uint16]


@dataclass(frozen=True)
class Row:
    """What is known of one row, beside its tokens."""

    id: str
    text: str | None
    speaker: str | None
    seconds: float
    """of the prepared recording, without the padding"""
    split: Split
    samples: int
    """of the prepared recording, without the padding"""


class Shard:
    """One pair of files, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path, self.arrays = path, map_safetensors(path)

    def __len__(self) -> int:
        return len(self.arrays["semantic_offsets"]) - 1

    def row(self, row: int) -> Row:
        return Row(**json.loads(self._lines[self._ends[row] : self._ends[row + 1]]))

    @cached_property
    def _lines(self) -> bytes | mmap.mmap:
        lines = self.path.with_suffix(".jsonl")
        with open(lines, "rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if lines.stat().st_size else b""

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Where lines begin and end."""
        breaks = np.flatnonzero(np.frombuffer(self._lines, np.uint8) == ord("\n"))
        return np.concatenate([np.zeros(1, np.int64), breaks + 1])

    def ids(self, kind: str, row: int, levels: int = 1) -> Ids:
        start, end = self.arrays[f"{kind}_offsets"][row : row + 2]
        flat: Ids = self.arrays[kind][start * levels : end * levels]
        return flat


class ShardSet:
    """A whole folder of shards; rows are numbered through all of them, in the order of the manifest."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder = folder
        self.specs: dict[str, TokenizerSpec] = {
            kind: build(TokenizerSpec, spec, where=str(folder / SHARDS_FILE)) for kind, spec in record["specs"].items()
        }
        """by kind: semantic, acoustic, and text unless the corpus was tokenized without"""
        self.waveform = build(WaveformSpec, record["waveform"], where=str(folder / SHARDS_FILE))
        self.grid = TimeGrid.of(self.specs["semantic"], self.specs["acoustic"])
        self._names: list[str] = record["shards"]
        self._shard = lru_cache(OPEN_SHARDS)(lambda k: Shard(folder / self._names[k]))
        self.speakers: list[str] = []
        """all who are named, in the order of the manifest"""
        splits, speakers, firsts = array("B"), array("i"), array("q", [0])
        numbers: dict[str | None, int] = {None: -1}
        for k, name in enumerate(self._names):
            for row in _rows(folder / name):
                if numbers.setdefault(row.speaker, len(self.speakers)) == len(self.speakers):
                    self.speakers.append(str(row.speaker))
                splits.append(SPLITS.index(row.split))
                speakers.append(numbers[row.speaker])
            firsts.append(len(splits))
            if firsts[-1] - firsts[-2] != len(self._shard(k)):
                raise ValueError(f"{folder / name} and its .jsonl have different numbers of rows: tokenize again")
        self.speaker_of: NDArray[np.int32] = np.array(speakers, dtype=np.int32)
        """[rows], place in `speakers`; -1 where nobody is named"""
        self._splits, self._firsts = np.array(splits, dtype=np.uint8), np.array(firsts)

    @classmethod
    def open(
        cls, folder: Path, specs: Mapping[str, TokenizerSpec] | None = None, waveform: WaveformSpec | None = None
    ) -> "ShardSet":
        """Opens a complete folder.

        Args:
            specs: by kind, of the tokenizers that the tokens must be of.
            waveform: the preparation that they must have had.
        Raises:
            ValueError: missing, incomplete, of another format, damaged, or made with other tokenizers.
        """
        record = read_record(folder)
        missing = [name for name, file in record["files"].items() if _size(folder / name) != file["bytes"]]
        if missing:
            raise ValueError(f"{folder / missing[0]} is missing or cut short: tokenize again, or copy the folder again")
        shards = cls(folder, record)
        for kind, spec in (specs or {}).items():
            if kind not in shards.specs:
                raise ValueError(f"{folder} was tokenized without {kind}: tokenize again, with the {kind} tokenizer")
            check_same(shards.specs[kind], spec, str(folder))
        if waveform is not None and waveform != shards.waveform:
            raise ValueError(f"{folder} was prepared with {shards.waveform}, not with {waveform}: tokenize again")
        return shards

    def __len__(self) -> int:
        return len(self._splits)

    def row(self, i: int) -> Row:
        shard, row = self._at(i)
        return shard.row(row)

    def text(self, i: int) -> Ids:
        """[L]; empty where the recording has no text."""
        shard, row = self._at(i)
        return shard.ids("text", row)

    def semantic(self, i: int) -> Ids:
        """[T], read-only."""
        shard, row = self._at(i)
        return shard.ids("semantic", row)

    def codes(self, i: int) -> Ids:
        """[Q, T'], read-only."""
        shard, row = self._at(i)
        levels = self.specs["acoustic"].levels
        return shard.ids("codes", row, levels).reshape(levels, -1)

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Rows of one split, ascending."""
        return np.flatnonzero(self._splits == SPLITS.index(split))

    def lengths(self, kind: str) -> NDArray[np.int64]:
        """Frames (or text tokens) of every row; kind is text, semantic or codes."""
        parts = [np.diff(self._shard(k).arrays[f"{kind}_offsets"]) for k in range(len(self._names))]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _at(self, i: int) -> tuple[Shard, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        k = int(np.searchsorted(self._firsts, i, side="right")) - 1
        return self._shard(k), i - int(self._firsts[k])


def read_record(folder: Path) -> dict[str, Any]:
    """shards.json, of this format.

    Raises:
        ValueError: there is none, or its format number is another.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: make it with 'triptych tokenize'")
    if not (folder / SHARDS_FILE).is_file():
        raise ValueError(f"{folder} is not a complete folder of shards{_lacks(folder)}")
    record: dict[str, Any] = read_json(folder / SHARDS_FILE)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has shards of format {record.get('format')}, this version reads {FORMAT}: tokenize again"
        )
    return record


def verify(folder: Path) -> int:
    """Reads everything: checksums, offsets, lengths on the beat, ids within their alphabets.

    Returns:
        The number of rows.
    Raises:
        ValueError: the first thing that is wrong, and the remedy.
    """
    for name, file in read_record(folder)["files"].items():
        check_file(folder / name, file)
    shards = ShardSet.open(folder)
    for i in range(len(shards)):
        name = f"{folder}, row {i} ({shards.row(i).id})"
        semantic, codes = shards.semantic(i), shards.codes(i)
        if len(semantic) * shards.grid.acoustic_per_beat != codes.shape[1] * shards.grid.semantic_per_beat:
            raise ValueError(f"{name}: {len(semantic)} semantic and {codes.shape[1]} acoustic frames: tokenize again")
        for kind, ids in (("text", shards.text(i)), ("semantic", semantic), ("acoustic", codes)):
            if ids.size and ids.max() >= shards.specs[kind].size:
                raise ValueError(f"{name}: {kind} id {ids.max()} of an alphabet of {shards.specs[kind].size}")
    return len(shards)


def check_file(path: Path, file: Mapping[str, Any]) -> None:
    """Reads one file of a folder, and compares it with what shards.json says of it.

    Raises:
        ValueError: missing or damaged.
    """
    if not path.is_file() or file_digest(path) != file["sha256"]:
        raise ValueError(
            f"{path} is missing or damaged: copy the folder again, or remove {path.stem}.* and tokenize again"
        )


def codes_of(folder: Path, shard: int) -> dict[str, Ids]:
    """[Q, T'], read-only, of each recording of one shard, by its id; without those that share one.

    Raises:
        ValueError: the folder is not complete, or damaged.
    """
    record = read_record(folder)
    path, levels = folder / record["shards"][shard], record["specs"]["acoustic"]["levels"]
    for name in (path.name, path.with_suffix(".jsonl").name):
        check_file(folder / name, record["files"][name])
    one = Shard(path)
    ids = [one.row(i).id for i in range(len(one))]
    times = Counter(ids)
    return {id: one.ids("codes", i, levels).reshape(levels, -1) for i, id in enumerate(ids) if times[id] == 1}


def map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, read-only and in place.

    Raises:
        ValueError: missing or damaged.
    """
    types = {"U16": np.uint16, "U32": np.uint32, "I64": np.int64}
    try:
        with open(path, "rb") as stream:
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        size = int.from_bytes(view[:8], "little")
        header = json.loads(bytes(view[8 : 8 + size]))
        return {
            name: np.frombuffer(view[8 + size :][slice(*entry["data_offsets"])], types[entry["dtype"]])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: tokenize again, or copy the folder again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): tokenize again, or copy the folder again") from None


def _lacks(folder: Path) -> str:
    from triptych.corpus.shard_plan import PLAN_FILE, missing_shards

    if not (folder / PLAN_FILE).is_file():
        return ": make one with 'triptych tokenize'"
    names = missing_shards(folder)
    listed = ", ".join(names[:SHOWN_MISSING]) + (", …" if len(names) > SHOWN_MISSING else "")
    what = f"{len(names)} are missing ({listed})" if names else "only shards.json is missing"
    return f": {what}; give the same 'triptych tokenize' again, and it goes on"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a shard, each read and forgotten."""
    lines = path.with_suffix(".jsonl")
    for _, row in json_lines(lines):
        if not isinstance(row, dict):
            raise ValueError(f"{lines} is damaged ({row}): tokenize again")
        yield Row(**row)
