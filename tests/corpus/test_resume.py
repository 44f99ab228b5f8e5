"""Processes that are broken off, killed, doubled or dealt out leave the same bytes as one that runs through."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.corpus.manifest import Recording, write_manifest
from triptych.corpus.reading import jobs_of
from triptych.corpus.shard_plan import Entry, ManifestIndex, Share, begin, missing_shards, plan_of
from triptych.corpus.shard_records import complete
from triptych.corpus.shards import ShardConfig, ShardSet, make_shards, verify, write_shards
from triptych.corpus.workers import deal
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.trio import Tokenizers
from triptych.training import files

SMALL = ShardConfig(rows_per_shard=3, batch_seconds=1.0, max_rejected=1.0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(tmp_path: Path, manifest: Path, recordings: list[Recording], one_pair: Tokenizers) -> dict[str, bytes]:
    """What one process leaves that runs through; one recording is broken."""
    recordings[4].path.write_text("no audio")
    write_shards(manifest, one_pair, tmp_path / "whole", SMALL)
    return content(tmp_path / "whole")


def test_a_broken_run_goes_on(tmp_path: Path, manifest: Path, whole: dict[str, bytes], one_pair: Tokenizers) -> None:
    def stop(done: int, of: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(manifest, one_pair, tmp_path / "t", SMALL, stop)
    with pytest.raises(ValueError, match=r"2 are missing \(shard-00001, shard-00002\); give the same .*goes on"):
        ShardSet.open(tmp_path / "t")
    first = (tmp_path / "t" / "shard-00000.safetensors").stat().st_mtime_ns
    seen: list[int] = []
    write_shards(manifest, one_pair, tmp_path / "t", SMALL, lambda done, of: seen.append(done))
    assert min(seen) > 3
    assert (tmp_path / "t" / "shard-00000.safetensors").stat().st_mtime_ns == first
    assert content(tmp_path / "t") == whole
    again = write_shards(manifest, one_pair, tmp_path / "t", SMALL, lambda done, of: pytest.fail("worked twice"))
    assert again.complete
    assert content(tmp_path / "t") == whole


class Fault(BaseException):
    """What no code expects."""


class Breaking:
    """Breaks the process at its write number `at`, from 0: at a rename or a sync before it, at a write half-way."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.calls = at, 0
        for name in ("replace", "fsync"):
            patch.setattr(files.os, name, self.at_call(getattr(os, name)))
        whole = Path.write_bytes

        def write(path: Path, content: bytes) -> None:
            self.at_call(whole, lambda: whole(path, content[: len(content) // 2]))(path, content)

        patch.setattr(Path, "write_bytes", write)
        patch.setattr(Path, "write_text", lambda path, text, **_: write(path, text.encode()))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed clears nothing away

    def at_call(self, real: Callable[..., Any], half: Callable[[], object] = lambda: None) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self.at + 1:
                half()
                raise Fault
            return real(*given, **more)

        return call


def test_a_fault_at_any_write_loses_and_doubles_nothing(
    tmp_path: Path, recordings: list[Recording], one_pair: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "m.jsonl", recordings[:4])
    recordings[1].path.write_text("no audio")
    config = dataclasses.replace(SMALL, rows_per_shard=2)
    write_shards(tmp_path / "m.jsonl", one_pair, tmp_path / "whole", config)
    whole = content(tmp_path / "whole")
    for at in range(1000):
        folder = tmp_path / f"t{at}"
        with monkeypatch.context() as patch:
            breaking = Breaking(patch, at)
            with contextlib.suppress(Fault):
                write_shards(tmp_path / "m.jsonl", one_pair, folder, config)
        if breaking.calls <= at:
            break
        for left in folder.glob(".*.part*"):  # as another process would have named it
            left.rename(left.with_name(left.name.replace(f"-{os.getpid()}.", "-0.")))
        write_shards(tmp_path / "m.jsonl", one_pair, folder, config)
        assert content(folder) == whole
    assert at == 4 * len(whole)  # each file is written, synced and renamed, and its folder is synced


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_any_number_of_processes_leaves_the_same(
    tmp_path: Path, manifest: Path, whole: dict[str, bytes], one_pair: Tokenizers, processes: int
) -> None:
    index = ManifestIndex(manifest, 3)
    found = []
    for number in reversed(range(processes)):
        plan = begin(tmp_path / "t", plan_of(index, one_pair, SMALL.batch_seconds))
        shards = Share(number, processes).shards(index.shards)
        work = make_shards(index, shards, one_pair, tmp_path / "t", plan, SMALL)
        found.append(complete(tmp_path / "t", 1.0, work).complete)
    assert found == [False] * (processes - 1) + [True]
    assert content(tmp_path / "t") == whole


def test_two_processes_on_one_shard_do_no_harm(
    tmp_path: Path, manifest: Path, whole: dict[str, bytes], one_pair: Tokenizers
) -> None:
    def other(done: int, of: int) -> None:  # another process finishes the whole folder meanwhile
        if done == 2:
            write_shards(manifest, one_pair, tmp_path / "t", SMALL)

    assert write_shards(
        manifest, one_pair, tmp_path / "t", dataclasses.replace(SMALL, batch_seconds=1.0), other
    ).complete
    assert content(tmp_path / "t") == whole


@pytest.mark.parametrize("name", ["shard-00001.json", "shard-00001.jsonl", "shard-00002.safetensors", "shards.json"])
def test_a_file_that_is_lost_is_made_again(
    tmp_path: Path, manifest: Path, whole: dict[str, bytes], one_pair: Tokenizers, name: str
) -> None:
    (tmp_path / "whole" / name).unlink()
    write_shards(manifest, one_pair, tmp_path / "whole", SMALL)
    assert content(tmp_path / "whole") == whole


def test_time_that_is_up_leaves_whole_shards(
    tmp_path: Path, manifest: Path, whole: dict[str, bytes], one_pair: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("triptych.corpus.shards.time.time", lambda: float(next(clock)))
    summary = write_shards(manifest, one_pair, tmp_path / "t", SMALL, stop_at=9.0)
    assert summary.stopped and not summary.complete and summary.missing == len(missing_shards(tmp_path / "t")) > 0
    assert (tmp_path / "t" / "shard-00000.json").exists()
    assert write_shards(manifest, one_pair, tmp_path / "t", SMALL, stop_at=1e9).complete
    assert content(tmp_path / "t") == whole


def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, manifest: Path, recordings: list[Recording], one_pair: Tokenizers
) -> None:
    write_shards(manifest, one_pair, tmp_path / "t", SMALL, stop_at=0.0)
    other = dataclasses.replace(one_pair, waveform=WaveformSpec(24000, -20.0, None))
    for tokenizers, config, what in (
        (one_pair, dataclasses.replace(SMALL, rows_per_shard=4), "other rows_per_shard 3, not 4"),
        (one_pair, dataclasses.replace(SMALL, batch_seconds=2.0), r"other batch_seconds 1\.0, not 2\.0"),
        (other, SMALL, "other waveform"),
    ):
        with pytest.raises(ValueError, match=what):
            write_shards(manifest, tokenizers, tmp_path / "t", config)
    write_shards(manifest, other, tmp_path / "o", SMALL)
    for path in (tmp_path / "o").glob("shard-00001.*"):
        (tmp_path / "t" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"shard-00001\.json was made under the plan \w{16}, and .* \w{16}: remove"):
        write_shards(manifest, one_pair, tmp_path / "t", SMALL)
    write_manifest(manifest, recordings[:-1])
    with pytest.raises(ValueError, match=r"other manifest \w{16}, not \w{16}, rows 8, not 7"):
        write_shards(manifest, one_pair, tmp_path / "t", SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="exists already"):
        write_shards(manifest, one_pair, tmp_path / "full", SMALL)


def test_a_packed_manifest_gives_the_same_shards(
    tmp_path: Path, recordings: list[Recording], one_pair: Tokenizers
) -> None:
    for name in ("m.jsonl", "m.jsonl.gz"):
        write_manifest(tmp_path / name, recordings)
    for name in ("m.jsonl", "m.jsonl.gz"):
        write_shards(tmp_path / name, one_pair, tmp_path / f"of-{name}", SMALL)
    left, right = content(tmp_path / "of-m.jsonl"), content(tmp_path / "of-m.jsonl.gz")
    assert {name: left[name] for name in left if not name.endswith("0.json")} == {
        name: right[name] for name in right if not name.endswith("0.json")
    }


def test_batches_hold_every_row_once_within_the_budget(recordings: list[Recording]) -> None:
    entries = [Entry(r.id, r) for r in recordings * 5] + [Entry("line 3", None, "bad")]
    jobs = jobs_of(7, entries, 2.0)
    assert sorted(row for job in jobs for row in job.rows) == list(range(41))
    assert all(len(job.rows) * max(e.recording.seconds for e in job.entries if e.recording) <= 2.0 for job in jobs[:-1])
    assert [job.last for job in jobs] == [False] * (len(jobs) - 1) + [True]
    assert len(jobs_of(0, entries[:3], 0.1)) == 3


@settings(max_examples=30, deadline=None)
@given(seconds=st.lists(st.floats(0.5, 40), min_size=1, max_size=24), workers=st.integers(1, 5))
def test_workers_get_every_shard_once_and_as_much_sound(seconds: list[float], workers: int) -> None:
    class Index:
        def entries(self, k: int) -> list[Entry]:
            return [Entry("broken", None, "no recording"), Entry("a", Recording("a", Path("a.wav"), seconds[k]))]

    index: Any = Index()
    dealt = deal(index, range(len(seconds)), workers)
    assert len(dealt) == workers and sorted(k for mine in dealt for k in mine) == list(range(len(seconds)))
    assert all(mine == sorted(mine) for mine in dealt)
    loads = [sum(seconds[k] for k in mine) for mine in dealt]
    assert max(loads) - min(loads) <= max(seconds) + 1e-6


def test_shares_are_read_from_the_environment() -> None:
    of = Share.of_environment
    assert of({}) == Share(0, 1)
    assert of({"RANK": "2", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "9"}) == Share(2, 4)
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}
    assert of(slurm | {"SLURM_ARRAY_TASK_STEP": "2"}) == Share(3, 4)
    for bad in ({"RANK": "1"}, {"RANK": "one", "WORLD_SIZE": "2"}, {"SLURM_ARRAY_TASK_ID": "1"}):
        with pytest.raises(ValueError, match="must be a number"):
            of(bad)
    with pytest.raises(ValueError, match=r"process 4 of 4"):
        of({"RANK": "4", "WORLD_SIZE": "4"})
    for count in (1, 5, 16):
        for processes in (1, 2, 3, 20):
            dealt = [k for number in range(processes) for k in Share(number, processes).shards(count)]
            assert sorted(dealt) == list(range(count))


SLOW_RUN = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("stand_ins", sys.argv[1])
stand_ins = importlib.util.module_from_spec(spec); spec.loader.exec_module(stand_ins)
from pathlib import Path
from triptych.corpus.shards import ShardConfig, write_shards
config = ShardConfig(rows_per_shard=3, batch_seconds=1.0, max_rejected=1.0)
print("begin", flush=True)
write_shards(Path(sys.argv[2]), stand_ins.stand_ins(25, 480), Path(sys.argv[3]), config, lambda *_: time.sleep(0.01))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    tmp_path: Path, manifest: Path, whole: dict[str, bytes], one_pair: Tokenizers, kills: int
) -> None:
    source = Path(__file__).parents[2] / "src"
    line = [sys.executable, "-c", SLOW_RUN, str(Path(__file__).with_name("conftest.py")), str(manifest)]
    moments = random.Random(kills)
    killed = 0
    for number in range(kills):
        folder = tmp_path / f"t{number % 3}"  # some are killed again where they went on
        environment = {**os.environ, "PYTHONPATH": str(source)}
        with subprocess.Popen([*line, str(folder)], stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None and process.stdout.readline() == b"begin\n"
            time.sleep(moments.uniform(0.0, 0.15))
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert killed
    for folder in {tmp_path / f"t{number % 3}" for number in range(kills)}:
        write_shards(manifest, one_pair, folder, SMALL)
        assert content(folder) == whole
        ids = [json.loads(line)["id"] for path in sorted(folder.glob("*.jsonl")) for line in path.open()]
        assert len(ids) == len(set(ids)) == 8
        assert verify(folder) == 7
