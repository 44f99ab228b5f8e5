"""From a manifest to token shards; a process that is killed at any moment loses the shard that it was making.

    1  plan.json says what is made of what                     shard_plan.py; every process must say the same
    2  recordings are read ahead, in batches of like lengths   reading.py
    3  shard-00007.jsonl, .safetensors, and last .json         beside, fsync, rename; the .json says: done
    4  rejected.jsonl, shards.json                             shard_records.py, by whoever finds no shard missing

Each step writes the same bytes whoever does it, so that processes may meet, die and begin again. Rows that cannot be
used are written down with their reasons, and never passed over in silence.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass
from safetensors.numpy import save

from triptych.corpus.manifest import Recording
from triptych.corpus.reading import Heard, Job, Reader, jobs_of
from triptych.corpus.shard_plan import ManifestIndex, begin, plan_of, shard_name
from triptych.corpus.shard_records import Summary, Work, check_rejected, complete, place, read_again, record_of
from triptych.corpus.shard_set import KINDS, Ids, Row, ShardSet, codes_of, verify
from triptych.tokenizers.trio import Tokenizers, Tokens
from triptych.training.config import STRICT

__all__ = ["Progress", "ShardConfig", "ShardSet", "Summary", "Work", "make_shards", "verify", "write_shards"]

Progress = Callable[[int, int], None]
"""called with rows done and rows in all, of this process"""


@dataclass(frozen=True, config=STRICT)
class ShardConfig:
    """How shards are cut, and how the work is done."""

    rows_per_shard: int = 1024
    """recordings a shard; for millions of them, 16384"""
    batch_seconds: float = 48.0
    """seconds of sound, with padding, that are encoded together; fixed for a folder, since sums round by it"""
    codes_from: str | None = None
    """shards of the same manifest and codec, whose codes are taken as they are: after another fit of semantic tokens"""
    max_rejected: float = 0.01
    """share of recordings that may be unusable before the run stops"""
    workers: int = 1
    """processes on this machine, each with tokenizers of its own"""
    readers: int = 2
    """threads of each that decode and prepare audio"""
    ahead_seconds: float = 480.0
    """seconds of sound that each reads ahead of its encoder"""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one; several workers share the machine's GPUs"""
    threads: int = 0
    """CPU threads of each encoder; 0: the cores of the machine, dealt among its workers"""

    def __post_init__(self) -> None:
        if min(self.rows_per_shard, self.readers, self.workers) < 1 or self.batch_seconds <= 0:
            raise ValueError("rows_per_shard, readers, workers and batch_seconds must be more than 0")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError("max_rejected is a share: 0.01 for one recording in a hundred")


def write_shards(
    manifest: Path,
    tokenizers: Tokenizers,
    folder: Path,
    config: ShardConfig,
    progress: Progress | None = None,
    stop_at: float | None = None,
) -> Summary:
    """Tokenizes a manifest in this process alone: `make_shards` of all, then `complete`."""
    index = ManifestIndex(manifest, config.rows_per_shard)
    plan = begin(folder, plan_of(index, tokenizers, config.batch_seconds), config.codes_from)
    work = make_shards(index, range(index.shards), tokenizers, folder, plan, config, progress, stop_at)
    return complete(folder, config.max_rejected, work)


def make_shards(
    index: ManifestIndex,
    shards: Sequence[int],
    tokenizers: Tokenizers,
    folder: Path,
    plan: str,
    config: ShardConfig,
    progress: Progress | None = None,
    stop_at: float | None = None,
) -> Work:
    """Makes those of `shards` that are not there yet.

    Args:
        plan: fingerprint of the plan, as `begin` returns it.
        stop_at: `time.time()` at which to stop; a shard that would not be ready by then is not begun.
    Raises:
        ValueError: more rows were rejected than may be, and the shard that shows it is not written; a shard is of
            another plan.
    """
    there = {k: record for k in shards if (record := record_of(folder, k, plan)) is not None}
    rows = sum(record["rows"] for record in there.values())
    rejected = [row for record in there.values() for row in record["rejected"]]
    total = sum(min(index.rows_per_shard, index.rows - k * index.rows_per_shard) for k in shards)
    check_rejected(rejected, rows + len(rejected), config.max_rejected, read_again(folder, there))

    def jobs() -> Iterator[Job]:
        for k in shards:
            if k not in there:
                yield from jobs_of(k, index.entries(k), config.batch_seconds)

    began = shard_began = time.time()
    slowest, stopped, made, known, done = 0.0, False, ShardMaker(), dict[str, Ids](), dict[int, Any](there)
    with Reader(tokenizers, config.readers, config.ahead_seconds) as reader:
        for job, heard in reader.read(jobs()):
            now = time.time()
            if stop_at is not None and now + (0.0 if made.begun else slowest) >= stop_at:
                stopped = True
                break
            if config.codes_from and not made.begun:
                known = codes_of(Path(config.codes_from), job.shard)
            made.add(job, heard, tokenizers, known)
            if job.last:
                rows, rejected = rows + len(made.rows), made.rejected_rows() + rejected
                kept = any(record["rejected"] for record in done.values())
                remedy = read_again(folder, done) if kept else "mend them and give the same command"
                check_rejected(rejected, rows + len(rejected), config.max_rejected, remedy)
                done[job.shard] = {"rejected": made.rejected_rows()}
                made.write(folder, job.shard, plan)
                made = ShardMaker()
                slowest, shard_began = max(slowest, time.time() - shard_began), time.time()
            if progress is not None:
                progress(rows + len(rejected) + len(made.rows) + len(made.rejected), total)
    worked = time.time() - began
    return Work(rows, len(rejected), reader.waited, worked, worked, stopped)


class ShardMaker:
    """One shard in the making."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Row, Ids, Tokens]] = {}
        self.rejected: dict[int, dict[str, str]] = {}

    @property
    def begun(self) -> bool:
        return bool(self.rows or self.rejected)

    def rejected_rows(self) -> list[dict[str, str]]:
        """In the order of the manifest."""
        return [self.rejected[row] for row in sorted(self.rejected)]

    def add(
        self, job: Job, heard: Sequence[Heard | str], tokenizers: Tokenizers, known: Mapping[str, Ids] | None = None
    ) -> None:
        """Tokenizes one batch; where the codes of all its recordings are `known` by their ids, with those."""
        ready: list[tuple[int, Recording, Heard]] = []
        for row, entry, it in zip(job.rows, job.entries, heard, strict=True):
            if isinstance(it, Heard) and entry.recording is not None:
                ready.append((row, entry.recording, it))
            else:
                self.rejected[row] = {"id": entry.name, "reason": str(it)}
        codes = [known[r.id] for _, r, _ in ready if r.id in known] if known else []
        prepared = [it.prepared for _, _, it in ready]
        batch = tokenizers.tokens_of(prepared, codes if len(codes) == len(ready) else None) if ready else []
        for (row, r, it), tokens in zip(ready, batch, strict=True):
            seconds = tokens.samples / tokenizers.waveform.sample_rate
            self.rows[row] = Row(r.id, r.text, r.speaker, seconds, r.split, tokens.samples), it.text, tokens

    def write(self, folder: Path, shard: int, plan: str) -> None:
        """.jsonl, .safetensors, and last .json."""
        made = [self.rows[row] for row in sorted(self.rows)]
        found: dict[str, list[Ids]] = {
            "text": [text for _, text, _ in made],
            "semantic": [tokens.semantic for _, _, tokens in made],
            "codes": [tokens.codes for _, _, tokens in made],
        }
        nothing: Ids = np.zeros(0, dtype=np.uint16)
        arrays: dict[str, Any] = {}
        for kind in KINDS:
            arrays[kind] = np.concatenate([nothing, *(ids.reshape(-1) for ids in found[kind])])
            arrays[f"{kind}_offsets"] = np.cumsum([0, *(ids.shape[-1] for ids in found[kind])], dtype=np.int64)
        lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row, _, _ in made)
        name = shard_name(shard)
        files = {
            f"{name}.jsonl": place(folder / f"{name}.jsonl", lines.encode()),
            f"{name}.safetensors": place(folder / f"{name}.safetensors", save(arrays)),
        }
        record = {
            "plan": plan,
            "rows": len(made),
            "seconds": sum(row.seconds for row, _, _ in made),
            "files": files,
            "rejected": self.rejected_rows(),
        }
        place(folder / f"{name}.json", json.dumps(record, ensure_ascii=False).encode())
