"""What is to be made of a manifest, and by whom, before any of it is made.

    manifest.jsonl   row 0 … 1023   │ row 1024 … 2047 │ …        shard k holds rows k * n … (k + 1) * n
    plan.json        which manifest, which tokenizers, which cut; every process must say the same
    process i of P   makes the shards i, i + P, i + 2 P, …       and its local workers deal them among themselves

The shards follow from the manifest and the plan alone: the number of processes decides only who makes them. A manifest
is read once from end to end for its checksum and the places where shards begin; of its rows, one shard is in memory at
a time. Knows no audio.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from triptych.corpus.manifest import Recording, recording_of_line
from triptych.corpus.shard_set import read_record
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec, check_same
from triptych.tokenizers.trio import Tokenizers
from triptych.training.config import build
from triptych.training.files import fingerprint_of, read_json, write_json

PLAN_FILE = "plan.json"
PLAN_FORMAT = 2


@dataclass(frozen=True)
class Entry:
    """One row of the manifest."""

    name: str
    """the recording's id, or the line that holds none"""
    recording: Recording | None
    reason: str = ""
    """why there is no recording"""


@dataclass(frozen=True)
class Share:
    """One of several processes that were started alike, on one machine or on many."""

    index: int = 0
    """from 0"""
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ValueError(f"process {self.index} of {self.of}: the number of a process is in 0 … {self.of - 1}")

    def shards(self, count: int) -> range:
        return range(self.index, count, self.of)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Share":
        """As torchrun (RANK, WORLD_SIZE) or a Slurm array (SLURM_ARRAY_TASK_ID, …_COUNT, …_MIN, …_STEP) says it.

        Raises:
            ValueError: half of it is said, or no numbers.
        """

        def number(name: str, default: int | None = None) -> int:
            said = environment.get(name)
            if said is None and default is not None:
                return default
            if said is None or not said.strip().isdecimal():
                raise ValueError(f"{name} is {said!r}, and must be a number: set both {' and '.join(pair)}, or neither")
            return int(said)

        for pair in (("RANK", "WORLD_SIZE"), ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")):
            if pair[0] in environment or pair[1] in environment:
                index, of = number(pair[0]), number(pair[1])
                if pair[0] == "RANK":
                    return cls(index, of)
                step = max(1, number("SLURM_ARRAY_TASK_STEP", 1))
                return cls((index - number("SLURM_ARRAY_TASK_MIN", 0)) // step, of)
        return cls()


class ManifestIndex:
    """Where in a manifest each shard begins.

    Raises:
        ValueError: no such file, nothing in it, not text, or a first line that is none of a manifest.
    """

    def __init__(self, path: Path, rows_per_shard: int) -> None:
        self.path, self.rows_per_shard, self.rows = path, rows_per_shard, 0
        self._starts: list[tuple[int, int]] = []
        digest, offset = hashlib.sha256(), 0
        with opened(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    if self.rows % rows_per_shard == 0:
                        self._starts.append((offset, number))
                    self.rows += 1
                digest.update(line)
                offset += len(line)
        self.digest = digest.hexdigest()[:16]
        if not self.rows:
            raise ValueError(f"no recordings to tokenize: {path} is empty")
        first = next(self._lines(0))
        try:
            recording_of_line(first[1], path.resolve().parent)
        except ValueError as error:
            raise ValueError(f"{path}, line {first[0]}: {error}: make a manifest with 'triptych prepare'") from None

    @property
    def shards(self) -> int:
        return len(self._starts)

    def _lines(self, shard: int) -> Iterator[tuple[int, bytes]]:
        offset, first = self._starts[shard]
        with opened(self.path) as stream:
            stream.seek(offset)
            for number, line in enumerate(stream, start=first):
                if line.strip():
                    yield number, line

    def entries(self, shard: int) -> list[Entry]:
        """The rows of one shard, in order; what cannot be read of them, with the reason."""
        found: list[Entry] = []
        folder = self.path.resolve().parent
        for number, line in self._lines(shard):
            if len(found) == self.rows_per_shard:
                break
            try:
                recording = recording_of_line(line, folder)
                found.append(Entry(recording.id, recording))
            except ValueError as error:
                found.append(Entry(f"line {number}", None, f"{self.path.name}, line {number}: {error}"))
        return found


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a manifest, unpacked.

    Raises:
        ValueError: no such file, or a broken `.gz`.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a manifest")
    try:
        packed: Any = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
        with packed as stream:
            yield stream
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a manifest that can be read: {error}") from None


def plan_of(index: ManifestIndex, tokenizers: Tokenizers, batch_seconds: float) -> dict[str, Any]:
    """All that decides the bytes of the shards."""
    return {
        "format": PLAN_FORMAT,
        "manifest": index.digest,
        "rows": index.rows,
        "rows_per_shard": index.rows_per_shard,
        "batch_seconds": batch_seconds,
        "waveform": asdict(tokenizers.waveform),
        "specs": {kind: spec.to_json() for kind, spec in tokenizers.specs.items()},
    }


def begin(folder: Path, plan: Mapping[str, Any], codes_from: str | None = None) -> str:
    """Writes plan.json, or checks that what was begun there is the same; returns its fingerprint.

    Raises:
        ValueError: something else was begun there, the folder holds other files, or the codes of `codes_from` are not
            those that would be made.
    """
    if codes_from is not None:
        check_codes(Path(codes_from), plan)
    path = folder / PLAN_FILE
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or (_others(folder) and not path.exists())):
            raise ValueError(f"{folder} exists already: name another output, or move it away first")
        write_json(path, plan)
    begun = read_json(path)
    if begun.get("format") != PLAN_FORMAT:
        raise ValueError(f"{folder} was made by another version, and shards of this one cannot join it: name another")
    specs = begun.get("specs", {})
    for kind, spec in plan["specs"].items():
        if kind in specs:
            made = build(TokenizerSpec, specs[kind], where=str(path))
            check_same(made, build(TokenizerSpec, spec, where=kind), f"{folder}, begun before,")
    differs = [key for key in plan if key != "specs" and begun.get(key) != plan[key]]
    differs += ["specs"] if specs.keys() != plan["specs"].keys() else []
    if differs:
        said = ", ".join(f"{key} {begun.get(key)}, not {plan[key]}" for key in differs)
        raise ValueError(f"{folder} was begun with other {said}: give the same, or name another folder")
    return fingerprint_of(plan)


def check_codes(folder: Path, plan: Mapping[str, Any]) -> None:
    """Refuses shards whose codes are not, bit for bit, those that the plan would make.

    Raises:
        ValueError: not whole, of another manifest, prepared or cut otherwise, or of another codec.
    """
    read_record(folder)
    if not (folder / PLAN_FILE).exists():
        raise ValueError(
            f"codes_from: {folder} has no {PLAN_FILE}, which says what was made of what: leave codes_from out"
        )
    made = read_json(folder / PLAN_FILE)
    differs = [key for key in plan if key != "specs" and made.get(key) != plan[key]]
    if differs:
        said = ", ".join(f"{key} {made.get(key)}, not {plan[key]}" for key in differs)
        raise ValueError(f"codes_from: {folder} was made with {said}: give the same, or leave codes_from out")
    (semantic, codec), (own_semantic, own_codec) = (
        [build(TokenizerSpec, one["specs"][kind], where=kind) for kind in ("semantic", "acoustic")]
        for one in (made, plan)
    )
    check_same(codec, own_codec, f"codes_from: {folder}")
    if TimeGrid.of(semantic, codec) != TimeGrid.of(own_semantic, own_codec):
        raise ValueError(
            f"codes_from: {folder} has {float(semantic.frame_rate):g} semantic tokens a second, not "
            f"{float(own_semantic.frame_rate):g}, so its clips end elsewhere: leave codes_from out"
        )


def _others(folder: Path) -> Sequence[Path]:
    """What lies in a folder besides the unfinished files of a process that began at the same moment, or was killed."""
    return [path for path in folder.iterdir() if not (path.name.startswith(".") and ".part" in path.name)]


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"


def missing_shards(folder: Path) -> list[str]:
    """Names of the shards that the plan in `folder` still lacks.

    Raises:
        ValueError: there is no plan.
    """
    plan = read_json(folder / PLAN_FILE)
    if plan.get("format") != PLAN_FORMAT:
        raise ValueError(f"{folder} was begun by another version: move it away, and tokenize again")
    names = [shard_name(k) for k in range(-(-plan["rows"] // plan["rows_per_shard"]))]
    return [name for name in names if not (folder / f"{name}.json").exists()]
