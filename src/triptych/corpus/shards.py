"""From recordings to token shards; a run that was broken off goes on where it stopped.

    1  plan.json says what is made of what         a second run must say the same
    2  shard k holds rows k * n … (k + 1) * n       fixed beforehand; worker w of W makes the shards k % W == w
    3  each shard is written beside and renamed     two workers that meet write the same bytes
    4  shards.json, when no shard is missing        written by whoever finds the last one done

Rows that cannot be used are written down with their reasons, and never passed over in silence.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass
from safetensors.numpy import save_file

from triptych.corpus.clips import part_seconds
from triptych.corpus.manifest import Recording, json_lines
from triptych.corpus.shard_set import FORMAT, KINDS, SHARDS_FILE, Ids, Row, ShardSet, verify
from triptych.tokenizers.spec import TokenizerSpec, check_same
from triptych.tokenizers.trio import Prepared, Tokenizers
from triptych.training.config import STRICT, build
from triptych.training.files import atomic_file, file_digest, fingerprint_of, read_json, write_json

__all__ = ["Row", "ShardConfig", "ShardSet", "Summary", "verify", "write_shards"]

PLAN_FILE = "plan.json"
AHEAD = 8
"""recordings decoded ahead of the tokenizers"""

Progress = Callable[[int, int], None]
"""called with rows done and rows in all, of this worker"""


@dataclass(frozen=True, config=STRICT)
class ShardConfig:
    """How shards are cut, and by how many."""

    rows_per_shard: int = 1024
    """recordings a shard"""
    worker: int = 0
    """which part of the shards this process makes, from 0"""
    workers: int = 1
    """processes that share the work, on one machine or on many with a common folder"""
    readers: int = 2
    """threads that decode and prepare audio"""

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1 or self.readers < 1 or not 0 <= self.worker < self.workers:
            raise ValueError("rows_per_shard and readers must be at least 1, and worker in 0 … workers - 1")


@dataclass(frozen=True)
class Summary:
    """What a run of `write_shards` leaves."""

    folder: Path
    rows: int
    """tokenized; by all workers, once complete"""
    rejected: int
    seconds: float
    complete: bool
    """False: other workers are not done yet, and the last of them will complete the folder"""
    first_reason: str | None = None


def write_shards(
    recordings: Iterable[Recording],
    tokenizers: Tokenizers,
    folder: Path,
    config: ShardConfig,
    progress: Progress | None = None,
) -> Summary:
    """Tokenizes `recordings` into `folder`.

    Raises:
        ValueError: no recordings, a complete folder, one begun with something else, or no row that can be used.
    """
    rows = list(recordings)
    if not rows:
        raise ValueError("no recordings to tokenize: the manifest is empty")
    if (folder / SHARDS_FILE).exists():
        raise ValueError(f"{folder} is complete already: name another folder, or move it away first")
    begin(folder, rows, tokenizers, config)
    names = [f"shard-{k:05d}.safetensors" for k in range(-(-len(rows) // config.rows_per_shard))]
    mine = range(config.worker, len(names), config.workers)
    shards = {k: rows[k * config.rows_per_shard : (k + 1) * config.rows_per_shard] for k in mine}
    total, done = sum(map(len, shards.values())), 0
    for k, part in shards.items():
        if not (folder / names[k]).exists():

            def tell(count: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + count, total)

            write_shard(folder / names[k], part, tokenizers, config.readers, tell)
        done += len(part)
    if progress is not None:
        progress(total, total)
    if any(not (folder / name).exists() for name in names):
        return Summary(folder, sum(map(len, shards.values())), 0, 0.0, complete=False)
    return complete(folder, names, tokenizers)


def begin(folder: Path, rows: Sequence[Recording], tokenizers: Tokenizers, config: ShardConfig) -> None:
    """Writes plan.json, or checks that a run that was broken off made the same.

    Raises:
        ValueError: it made something else, or the folder holds other files.
    """
    plan: dict[str, Any] = {
        "format": FORMAT,
        "rows_per_shard": config.rows_per_shard,
        "recordings": fingerprint_of([[r.id, r.text, r.start, r.seconds, r.split] for r in rows]),
        "waveform": asdict(tokenizers.waveform),
        "specs": {kind: spec.to_json() for kind, spec in tokenizers.specs.items()},
    }
    path = folder / PLAN_FILE
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists already: name another output, or move it away first")
        write_json(path, plan)
        return
    begun = read_json(path)
    for kind, spec in tokenizers.specs.items():
        if kind in begun["specs"]:
            check_same(build(TokenizerSpec, begun["specs"][kind], where=str(path)), spec, f"{folder}, broken off,")
    differs = [key for key in plan if key != "specs" and begun.get(key) != plan[key]]
    differs += ["specs"] if begun["specs"].keys() != plan["specs"].keys() else []
    if differs:
        raise ValueError(f"{folder} was begun with other {', '.join(differs)}: give the same, or name another folder")


def write_shard(
    path: Path, recordings: Sequence[Recording], tokenizers: Tokenizers, readers: int, tell: Callable[[int], None]
) -> None:
    """Tokenizes one shard: .jsonl, .rejected.jsonl, and last .safetensors, whose presence means done."""
    found: dict[str, list[Ids]] = {kind: [] for kind in KINDS}
    nothing: Ids = np.zeros(0, dtype=np.uint16)
    lines: list[str] = []
    rejected: list[str] = []
    for count, (recording, prepared) in enumerate(prepare_ahead(recordings, tokenizers, readers), start=1):
        try:
            text = nothing
            if tokenizers.text is not None and recording.text is not None:
                text = tokenizers.text.encode(recording.text)
            tokens = tokenizers.tokens(prepared.result())
        except ValueError as error:
            rejected.append(json.dumps({"id": recording.id, "reason": str(error)}, ensure_ascii=False))
        else:
            found["text"].append(text)
            found["semantic"].append(tokens.semantic)
            found["codes"].append(tokens.codes)
            seconds = tokens.samples / tokenizers.waveform.sample_rate
            row = Row(recording.id, recording.text, recording.speaker, seconds, recording.split, tokens.samples)
            lines.append(json.dumps(asdict(row), ensure_ascii=False))
        tell(count)
    arrays: dict[str, Any] = {}
    for kind, ids in found.items():
        arrays[kind] = np.concatenate([nothing, *(i.reshape(-1) for i in ids)])
        arrays[f"{kind}_offsets"] = np.cumsum([0, *(i.shape[-1] for i in ids)], dtype=np.int64)
    for suffix, content in ((".jsonl", lines), (".rejected.jsonl", rejected)):
        with atomic_file(path.with_suffix(suffix)) as beside:
            beside.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    with atomic_file(path) as beside:
        save_file(arrays, beside)


def prepare_ahead(
    recordings: Sequence[Recording], tokenizers: Tokenizers, readers: int
) -> Iterator[tuple[Recording, "Future[Prepared]"]]:
    """Recordings in order, each with its preparation under way."""

    def start(r: Recording) -> "tuple[Recording, Future[Prepared]]":
        return r, pool.submit(tokenizers.prepare_file, r.path, r.start, part_seconds(r), r.channel)

    with ThreadPoolExecutor(readers) as pool:
        waiting = deque(start(r) for r in recordings[:AHEAD])
        for following in [*recordings[AHEAD:], *[None] * AHEAD]:
            if not waiting:
                return
            yield waiting.popleft()
            if following is not None:
                waiting.append(start(following))


def complete(folder: Path, names: list[str], tokenizers: Tokenizers) -> Summary:
    """Gathers the rejected rows, and writes shards.json.

    Raises:
        ValueError: no row at all could be used.
    """
    parts = [(folder / name).with_suffix(".rejected.jsonl") for name in names]
    rejected = [row for part in parts if part.exists() for _, row in json_lines(part) if isinstance(row, dict)]
    with atomic_file(folder / "rejected.jsonl") as beside:
        beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected), encoding="utf-8")
    files = [file for name in names for file in (name, str(Path(name).with_suffix(".jsonl")))]
    record = {
        "format": FORMAT,
        "specs": {kind: spec.to_json() for kind, spec in tokenizers.specs.items()},
        "waveform": asdict(tokenizers.waveform),
        "shards": names,
        "files": {f: {"sha256": file_digest(folder / f), "bytes": (folder / f).stat().st_size} for f in files},
    }
    shards = ShardSet(folder, record)
    if len(shards) == 0:
        raise ValueError(f"none of {len(rejected)} recordings could be tokenized, the first: {rejected[0]['reason']}")
    seconds = sum(shards.row(i).seconds for i in range(len(shards)))
    reason = f"{rejected[0]['id']}: {rejected[0]['reason']}" if rejected else None
    write_json(folder / SHARDS_FILE, record | {"rows": len(shards), "seconds": round(seconds, 3)})
    for part in parts:
        part.unlink(missing_ok=True)
    return Summary(folder, len(shards), len(rejected), seconds, complete=True, first_reason=reason)
