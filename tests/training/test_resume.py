"""Stopped anywhere, in any way, and gone on with: the run of one that was never stopped."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import triptych
from triptych.training import checkpoint, files
from triptych.training.checkpoint import find_checkpoint, verify_checkpoint
from triptych.training.config import TrainingConfig
from triptych.training.loop import train
from triptych.training.run import RunFolder
from triptych.training.step import TrainingError

CONFIG = TrainingConfig(
    max_steps=8,
    warmup_steps=2,
    final_ratio=1.0,
    log_every=1,
    validate_every=3,
    checkpoint_every=3,
    average=0.9,
    threads=1,
)


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """TensorBoard and fsync take longer than a run of eight steps; a disk that is really full meets both."""
    if "really" not in request.node.name:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)


class Toy(nn.Module):
    """A regression with dropout, so that a wrong random stream shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 1))

    def loss(self, batch):
        x, y = batch
        return (self.body(x)[:, 0] - y).square().mean(), {"targets": float(len(x))}


def batches(step: int):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    return [(x, x.sum(1))]


def go(folder, *, data=batches, resume=False, config=CONFIG, before_saving=lambda step: None):
    model = Toy()

    def validate(step, owned):
        before_saving(step)
        return {"loss": float(model.loss(batches(1000)[0])[0])}  # better at each validation

    with RunFolder(folder) as owned:
        train(model, data, config, owned, {"stage": "toy"}, validate=validate, resume=resume)
    return model


def logged(folder):
    """(step, kind) to loss; each may be there once."""
    rows = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    assert len({(row["step"], row["kind"]) for row in rows}) == len(rows)
    return {(row["step"], row["kind"]): row["loss"] for row in rows}


def check_same(folder, whole_folder, model, whole):
    assert logged(folder) == logged(whole_folder)
    for (name, a), b in zip(whole.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for which in ("latest", "best"):
        ours, theirs = (find_checkpoint(each, which) for each in (folder, whole_folder))
        assert ours.name == theirs.name
        for file in ("model.safetensors", "trainer/weights.safetensors", "trainer/optimizer.safetensors"):
            assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


@contextmanager
def at_write_point(number: int, act):
    """Calls `act` at the write point `number` (from 0) of the saving at step 6; yields a list of the points passed."""
    points = [
        (checkpoint, "save_model"),
        (checkpoint, "save_file"),
        (files.os, "fsync"),
        (files.os, "replace"),
        (Path, "write_text"),
        (Path, "mkdir"),
    ]
    passed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in points:

            def wrapped(*words, _real=getattr(owner, name), _name=name, **more):
                if armed:
                    passed.append(_name)
                    if len(passed) == number + 1:
                        act()
                return _real(*words, **more)

            patch.setattr(owner, name, wrapped)
        armed: list[int] = []

        def arming(step):
            armed[:] = [step] if step == 6 else []

        yield arming, passed


@pytest.fixture
def whole(tmp_path):
    folder = tmp_path / "whole"
    return folder, go(folder)


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_full_disk_at_any_write_point_leaves_the_last_good_checkpoint(tmp_path, whole):
    reached = set()
    for number in range(40):
        folder = tmp_path / f"run{number}"
        with at_write_point(number, no_space) as (arming, passed):
            try:
                go(folder, before_saving=arming)
            except TrainingError as error:
                assert "No space left on device" in str(error) and "resume=true" in str(error)
            else:
                assert number == len(passed)
                break
        reached.add(passed[-1])
        assert find_checkpoint(folder).name in ("step-00000003", "step-00000006")
        check_same(folder, whole[0], go(folder, resume=True), whole[1])
    assert reached == {"save_model", "save_file", "fsync", "replace", "write_text", "mkdir"}


@pytest.mark.parametrize("number", [0, 3, 5, 8, 9, 11, 13])
def test_kill_9_at_a_write_point_leaves_the_last_good_checkpoint(tmp_path, whole, number):
    folder = tmp_path / "run"
    child = os.fork()
    if child == 0:
        with at_write_point(number, kill) as (arming, _):
            go(folder, before_saving=arming)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    check_same(folder, whole[0], go(folder, resume=True), whole[1])
    assert not list(folder.rglob("*.part*"))


def test_what_was_logged_after_the_last_checkpoint_is_logged_once(tmp_path, whole):
    folder = tmp_path / "run"
    go(folder, config=replace(CONFIG, max_steps=6))
    with open(folder / "metrics.jsonl", "a") as stream:
        stream.write(json.dumps({"step": 7, "kind": "validation", "loss": -1.0}) + '\n{"step": 8, "ki')
    check_same(folder, whole[0], go(folder, resume=True), whole[1])  # and -1.0, never saved, is not the best so far


@pytest.mark.parametrize("name", ["model", "trainer/weights", "trainer/optimizer"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_file_that_is_cut_short_or_missing_is_named(tmp_path, name, cut):
    go(tmp_path / "run", config=replace(CONFIG, max_steps=3))
    verify_checkpoint(tmp_path / "run")
    file = find_checkpoint(tmp_path / "run") / f"{name}.safetensors"
    if cut:
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    for act in (lambda: verify_checkpoint(tmp_path / "run"), lambda: go(tmp_path / "run", resume=True)):
        with pytest.raises(ValueError, match=f"{name}.safetensors cannot be read, copy the folder again"):
            act()


def test_a_checkpoint_that_was_given_away_without_its_moments_is_whole(tmp_path):
    go(tmp_path / "run", config=replace(CONFIG, max_steps=3, average=0.0))
    folder = find_checkpoint(tmp_path / "run")
    verify_checkpoint(folder)
    shutil.rmtree(folder / "trainer")
    verify_checkpoint(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full(tmp_path, whole):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:

        def fill(step):
            if step == 6:
                with suppress(OSError), open(small / "ballast", "wb", buffering=0) as stream:
                    while stream.write(b"x" * 4096) == 4096:
                        pass

        with pytest.raises((TrainingError, OSError), match="No space left"):
            go(small / "run", before_saving=fill)
        assert find_checkpoint(small / "run").name == "step-00000003"
        (small / "ballast").unlink()
        check_same(small / "run", whole[0], go(small / "run", resume=True), whole[1])
    finally:
        subprocess.run(["umount", small], check=True)


def test_more_steps_than_asked_for_is_an_error_and_as_many_is_none(tmp_path):
    go(tmp_path / "run")
    with pytest.raises(ValueError, match=r"at step 8 already, beyond training\.max_steps=5"):
        go(tmp_path / "run", resume=True, config=replace(CONFIG, max_steps=5))
    go(tmp_path / "run", resume=True)
    assert max(step for step, _ in logged(tmp_path / "run")) == 8


SOURCE = str(Path(triptych.__file__).parents[1])

RANKS = """
import json, os, sys
from pathlib import Path
import torch
from torch import nn
from triptych.training.config import TrainingConfig
from triptych.training.distributed import rank, ranks, world
from triptych.training.loop import TrainingStopped, train
from triptych.training.run import RunFolder

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(self, batch):
        x, y = batch
        return (self.body(x)[:, 0] - y).square().mean(), {"targets": float(len(x))}

def batches(step):
    made = []
    for number in range(2 * (step - 1) + rank(), 2 * step, world()):  # two a step, in one global order
        x = torch.randn(3 + number % 2, 4, generator=torch.Generator().manual_seed(number))
        made.append((x, x.sum(1)))
    if Path(sys.argv[3]).exists() and rank() == 1:
        Path(sys.argv[3]).unlink(missing_ok=True)
        os.kill(os.getpid(), 15)  # this rank alone
    return made

config = TrainingConfig(max_steps=int(sys.argv[2]), warmup_steps=1, final_ratio=1.0, log_every=1, checkpoint_every=100)
with ranks("cpu"), RunFolder(Path(sys.argv[1])) as run:
    try:
        train(Toy(), batches, config, run, {}, resume="resume" in sys.argv)
    except TrainingStopped as stopped:
        print(stopped)
        sys.exit(3)
"""


def together(tmp_path, processes: int, *words) -> list[int]:
    """Runs `RANKS` in so many processes; their exit codes."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    port = str(29500 + os.getpid() % 400 + int(time.time()) % 97)
    started = []
    for number in range(processes):
        group = {"WORLD_SIZE": str(processes), "RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, str(script), *map(str, words)]
        started.append(
            subprocess.Popen(command, env={**os.environ, **group, "PYTHONPATH": SOURCE}, stdout=subprocess.DEVNULL)
        )
    return [process.wait(timeout=300) for process in started]


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_at_a_step_and_other_ranks_go_on(tmp_path):
    never, now = tmp_path / "never", tmp_path / "now"
    assert together(tmp_path, 1, tmp_path / "whole", 6, never) == [0]
    now.touch()
    assert together(tmp_path, 2, tmp_path / "two", 6, now) == [3, 3]
    stopped = int(find_checkpoint(tmp_path / "two").name.removeprefix("step-"))
    assert 1 <= stopped < 6
    assert together(tmp_path, 1, tmp_path / "two", 6, never, "resume") == [0]  # 2 → 1
    assert together(tmp_path, 1, tmp_path / "one", 2, never) == [0]
    assert together(tmp_path, 2, tmp_path / "one", 6, never, "resume") == [0, 0]  # 1 → 2
    expected = logged(tmp_path / "whole")
    assert len(expected) == 6
    for folder in ("two", "one"):
        found = logged(tmp_path / folder)
        assert found.keys() == expected.keys()
        for key, loss in expected.items():
            assert found[key] == pytest.approx(loss, rel=1e-5), (folder, key)
