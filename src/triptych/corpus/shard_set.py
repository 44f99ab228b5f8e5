"""Token shards: a tokenized corpus, read in place.

    tokens/
      plan.json                 what is being made of what, so that a broken run can go on
      shard-00000.safetensors   text, semantic, codes: uint16 (text of an alphabet over 65,535: uint32), flat;
                                *_offsets: int64 [rows + 1], in frames
      shard-00000.jsonl         a line a row: id, text, speaker, seconds, split, samples
      shard-00000.json          its checksums and rejected rows; written last of the three
      rejected.jsonl            rows that could not be tokenized, with reasons
      shards.json               format, specs, preparation, checksums; written last, so its presence means whole

Shards are memory-mapped. `shards.py` writes them. Knows no stage and draws no batch.
"""

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
KINDS = ("text", "semantic", "codes")

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
        self.arrays = map_safetensors(path)
        lines = json_lines(path.with_suffix(".jsonl"))
        self.rows = [Row(**row) if isinstance(row, dict) else _damaged(path, row) for _, row in lines]
        if any(len(self.arrays[f"{kind}_offsets"]) != len(self.rows) + 1 for kind in KINDS):
            raise ValueError(f"{path} and its .jsonl have different numbers of rows: tokenize again")

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
        self._shards = [Shard(folder / name) for name in record["shards"]]
        self._where = [(shard, row) for shard in self._shards for row in range(len(shard.rows))]

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
        return len(self._where)

    def row(self, i: int) -> Row:
        shard, row = self._where[i]
        return shard.rows[row]

    def text(self, i: int) -> Ids:
        """[L]; empty where the recording has no text."""
        shard, row = self._where[i]
        return shard.ids("text", row)

    def semantic(self, i: int) -> Ids:
        """[T], read-only."""
        shard, row = self._where[i]
        return shard.ids("semantic", row)

    def codes(self, i: int) -> Ids:
        """[Q, T'], read-only."""
        shard, row = self._where[i]
        levels = self.specs["acoustic"].levels
        return shard.ids("codes", row, levels).reshape(levels, -1)

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Rows of one split, ascending."""
        return np.array([i for i in range(len(self)) if self.row(i).split == split], dtype=np.int64)

    def lengths(self, kind: str) -> NDArray[np.int64]:
        """Frames (or text tokens) of every row; kind is text, semantic or codes."""
        parts = [np.diff(shard.arrays[f"{kind}_offsets"]) for shard in self._shards]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


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
        if not (folder / name).is_file() or file_digest(folder / name) != file["sha256"]:
            raise ValueError(f"{folder / name} is missing or damaged: tokenize again, or copy the folder again")
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


def _damaged(path: Path, reason: str) -> Row:
    raise ValueError(f"{path.with_suffix('.jsonl')} is damaged ({reason}): tokenize again")
