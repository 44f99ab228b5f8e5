"""Two ranks of a stage: what one learns with the micro-batches of both, and a line that names the one that is gone."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from triptych.training import distributed
from triptych.training import step as step_module
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig
from triptych.training.dealing import Dealing


def beside(name: str) -> Any:
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


processes, tiny = beside("processes"), beside("tiny")
STAGES = tuple(processes.STAGES)


def rows(run: Path, kind: str) -> list[dict[str, float]]:
    return [row for row in map(json.loads, open(run / "metrics.jsonl")) if row["kind"] == kind]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = find_checkpoint(run)
    return load_file(folder / "model.safetensors") | load_file(folder / "trainer" / "optimizer.safetensors")


def same(one: Path, two: Path, tolerance: float = 2e-4) -> None:
    """Losses, gradient norms, validation and weights of two runs; and both saw every micro-batch."""
    for kind in ("train", "validation"):
        ours, theirs = rows(one, kind), rows(two, kind)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for a, b in zip(ours, theirs, strict=True):
            names = {name for name in a if name.startswith(("loss", "targets", "gradient", "gap", "accuracy"))}
            for name in names - {"targets_per_second", "loader_wait_share"}:
                assert b[name] == pytest.approx(a[name], rel=tolerance, abs=tolerance), (kind, a["step"], name)
    left, right = weights(one), weights(two)
    for name in left.keys() | right.keys():
        if name not in left or name not in right:  # AdamW has no moments of what no loss reaches; DeepSpeed has zeros
            assert name.startswith("step.") or not (left.get(name, right.get(name)) != 0).any(), name
        elif not name.startswith("exp_avg"):
            assert torch.allclose(left[name], right[name], atol=20 * tolerance), name
    assert progress(one) == progress(two)


def progress(run: Path) -> Any:
    return json.loads((find_checkpoint(run) / "trainer" / "progress.json").read_text())


def alone(job: Any) -> None:
    """Does a job in this process."""
    from triptych.stages.training import train_stage

    train_stage(job["name"], job["tree"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_shards(tmp_path_factory.mktemp("tiny") / "corpus")


def test_every_stage_learns_on_two_ranks_what_one_learns_and_goes_on_with_one(shards: Path, tmp_path: Path) -> None:
    """Four steps of two ranks; four of one rank with twice the accumulation; and two and two."""
    halves = [processes.job(stage, tmp_path / f"{stage}-half", shards, max_steps=2) for stage in STAGES]
    for part in halves:
        part["tree"]["training"] |= {"warmup_steps": 9}  # so that the rate does not depend on where the run ends
    two = [processes.job(stage, tmp_path / f"{stage}-two", shards, warmup_steps=9) for stage in STAGES]
    processes.together([*two, *halves], tmp_path)
    for stage in STAGES:
        common = {"accumulation": 2, "warmup_steps": 9}
        alone(processes.job(stage, tmp_path / f"{stage}-one", shards, **common))
        alone(processes.job(stage, tmp_path / f"{stage}-half", shards, resume=True, **common))
        same(tmp_path / f"{stage}-one", tmp_path / f"{stage}-two")
        same(tmp_path / f"{stage}-one", tmp_path / f"{stage}-half")
        assert not (tmp_path / f"{stage}-two" / "lock").exists()


def test_a_killed_rank_is_named_by_the_other(shards: Path, tmp_path: Path) -> None:
    long = processes.job(
        "semantic", tmp_path / "run", shards, max_steps=100_000, checkpoint_every=5, validate_every=10**6
    )
    both = processes.start([long], tmp_path, 2)
    give_up = time.monotonic() + 120
    while not (tmp_path / "run" / "latest").exists() and time.monotonic() < give_up:
        time.sleep(0.2)
    both[1].kill()
    (code, error), _ = processes.finish(both, 60)
    assert code == 75
    assert "no sign of life from rank 1" in error and "Traceback" not in error
    assert find_checkpoint(tmp_path / "run").exists()


def test_a_rank_that_never_came_is_named(shards: Path, tmp_path: Path) -> None:
    lone = processes.start([processes.job("semantic", tmp_path / "run", shards, timeout=2)], tmp_path, 3)
    lone[2].kill()
    (zero, said), (one, _), _ = processes.finish(lone, 60)
    assert zero == one == 75 and "after 2 s still missing: rank 2 of 3" in said


@pytest.mark.parametrize("change", [(1, 4), (4, 1), (3, 2)])
def test_every_number_is_dealt_once_in_order_whatever_the_ranks(change: tuple[int, int]) -> None:
    seen: list[int] = []
    after = read = 0
    for ranks in change:
        deals = [Dealing(after, read, 2, rank, ranks) for rank in range(ranks)]
        for step in range(after + 1, after + 4):
            now = [number for deal in deals for number in deal.numbers(step)]
            assert sorted(now) == list(range(len(seen), len(seen) + 2 * ranks))
            seen += now
        after, read = after + 3, deals[0].read_after(after + 3)
    assert sorted(seen) == list(range(len(seen)))


def test_work_before_the_first_step_tells_that_it_goes_on(monkeypatch):
    """Else the roll call ends a rank that hears clips for longer than training.timeout."""
    told: list[str] = []
    monkeypatch.setattr(distributed, "reached", told.append)
    assert distributed.dealt_out(3, lambda i: i * i) == [0, 1, 4]
    assert told == [f"{i} of 3 before the first step" for i in (1, 2, 3)]


def test_each_micro_batch_tells_that_it_goes_on(monkeypatch):
    """Else a rank that learns from many of them for longer than training.timeout is ended while it works."""

    class Toy(torch.nn.Linear):
        def loss(self, batch: torch.Tensor) -> Any:
            return self(batch).square().mean(), {}

    told: list[str] = []
    monkeypatch.setattr(step_module, "reached", told.append)
    step_module.take_step(Toy(2, 1), [], [], [torch.ones(1, 2)] * 3, TrainingConfig(), torch.device("cpu"), 7)
    assert told == [f"step 7, micro-batch {number}" for number in (1, 2, 3)]


def test_one_rank_is_not_called(monkeypatch):
    """Nobody waits for it, however long it stands still."""
    alone = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (alone | {"MASTER_PORT": processes.free_port()}).items():
        monkeypatch.setenv(name, value)
    with distributed.ranks("cpu", 60, even_alone=True):
        assert distributed.world() == 1 and not distributed._roll_call
