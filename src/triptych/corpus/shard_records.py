"""What is known of shards that are done, and how a folder of them becomes whole.

    shard-00007.json    plan, rows, seconds, checksums of the two other files, rejected rows; its presence means done
    rejected.jsonl      the rejected rows of all shards, in order
    shards.json         specs, preparation, checksums; written last, so its presence means whole

Each file follows from the ones before it, so that any process may write it, and two write the same bytes. Knows no
audio and no tokenizer.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.corpus.shard_plan import PLAN_FILE, shard_name
from triptych.corpus.shard_set import FORMAT, SHARDS_FILE
from triptych.training.files import atomic_file, file_digest, fingerprint_of, read_json

SHOWN = 8
"""files that are named in one line"""


@dataclass(frozen=True)
class Work:
    """What one process did."""

    rows: int = 0
    """of its shards, tokenized by now"""
    rejected: int = 0
    waited: float = 0.0
    """seconds in which its encoder had nothing to do"""
    worked: float = 0.0
    """seconds in all, from the first batch asked for to the last shard written"""
    longest: float = 0.0
    """`worked` of the slowest process"""
    stopped: bool = False
    """the time was up before its shards were made"""

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.rows + other.rows,
            self.rejected + other.rejected,
            self.waited + other.waited,
            self.worked + other.worked,
            max(self.longest, other.longest),
            self.stopped or other.stopped,
        )


@dataclass(frozen=True)
class Summary:
    """What is in the folder now."""

    folder: Path
    rows: int
    """tokenized; by this process, while shards are missing"""
    rejected: int
    seconds: float
    """of sound, once complete"""
    complete: bool
    """False: shards are missing, which other processes make, or the same command, given again"""
    stopped: bool = False
    """this process ended because its time was up"""
    longest: float = 0.0
    """seconds that the slowest process worked, without its start"""
    waited_share: float = 0.0
    """of the time of the encoders, in which they had nothing to do"""
    first_reason: str | None = None
    missing: int = 0
    """shards"""


def place(path: Path, content: bytes) -> dict[str, Any]:
    """Writes beside and renames; returns checksum and bytes.

    Where another process finished the whole folder meanwhile and swept it, the file is there already, with these bytes.
    """
    digest = hashlib.sha256(content).hexdigest()
    try:
        with atomic_file(path) as beside:
            beside.write_bytes(content)
    except FileNotFoundError:
        if not path.exists() or file_digest(path) != digest:
            raise
    return {"sha256": digest, "bytes": len(content)}


def record_of(folder: Path, shard: int, plan: str) -> dict[str, Any] | None:
    """What is known of a shard that is done; None of one that is not, or whose files were lost or cut short.

    Raises:
        ValueError: it was made of something else.
    """
    path = folder / f"{shard_name(shard)}.json"
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    if record.get("plan") != plan:
        raise ValueError(
            f"{path} was made under the plan {record.get('plan')}, and {folder} is made under {plan}: remove the files "
            f"{path.stem}.* that came from elsewhere, and tokenize again"
        )
    whole = all(
        (folder / name).exists() and (folder / name).stat().st_size == file["bytes"]
        for name, file in record["files"].items()
    )
    return record if whole else None


def check_rejected(rejected: Sequence[Mapping[str, str]], rows: int, most: float, remedy: str) -> None:
    """Raises ValueError where more than the share `most` of `rows` was rejected."""
    if len(rejected) > most * rows:
        allowed = math.ceil(100 * len(rejected) / rows) / 100
        raise ValueError(
            f"{len(rejected)} of {rows} recordings could not be used, more than max_rejected={most:g} of them; the "
            f"first is {rejected[0]['id']}: {rejected[0]['reason']}: {remedy}, or say max_rejected={allowed:g}"
        )


def read_again(folder: Path, records: Mapping[int, Mapping[str, Any]]) -> str:
    """How to have the rejected recordings of shards that are done read again."""
    names = [f"{shard_name(k)}.json" for k, record in records.items() if record["rejected"]]
    more = f" and {len(names) - SHOWN} more that list rejected rows" if len(names) > SHOWN else ""
    return f"mend them, remove {', '.join(names[:SHOWN])}{more} from {folder} and give the same command"


def complete(folder: Path, max_rejected: float, work: Work) -> Summary:
    """Writes rejected.jsonl and shards.json where no shard is missing.

    Raises:
        ValueError: no row at all could be used, or more were rejected than may be; shards of different plans.
    """
    share = work.waited / work.worked if work.worked else 0.0
    plan = read_json(folder / PLAN_FILE)
    count = -(-plan["rows"] // plan["rows_per_shard"])
    found = {k: record_of(folder, k, fingerprint_of(plan)) for k in range(count)}
    records = {k: record for k, record in found.items() if record is not None}
    done = list(records.values())
    missing = count - len(done)
    if missing:
        return Summary(folder, work.rows, work.rejected, 0.0, False, work.stopped, work.longest, share, missing=missing)
    rejected = [row for record in done for row in record["rejected"]]
    rows, seconds = sum(r["rows"] for r in done), sum(r["seconds"] for r in done)
    if rows == 0:
        raise ValueError(
            f"none of {len(rejected)} recordings could be tokenized, the first: {rejected[0]['reason']}: "
            f"{read_again(folder, records)}"
        )
    check_rejected(rejected, rows + len(rejected), max_rejected, read_again(folder, records))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
    place(folder / "rejected.jsonl", lines.encode())
    shards = {
        "format": FORMAT,
        "specs": plan["specs"],
        "waveform": plan["waveform"],
        "shards": [f"{shard_name(k)}.safetensors" for k in range(count)],
        "files": {name: file for record in done for name, file in record["files"].items()},
        "rows": rows,
        "seconds": round(seconds, 3),
    }
    text = json.dumps(shards, indent=2, ensure_ascii=False) + "\n"
    place(folder / SHARDS_FILE, text.encode())
    for left in folder.glob(".*.part*"):  # of processes that were killed
        left.unlink(missing_ok=True)
    reason = f"{rejected[0]['id']}: {rejected[0]['reason']}" if rejected else None
    return Summary(folder, rows, len(rejected), seconds, True, False, work.longest, share, first_reason=reason)
