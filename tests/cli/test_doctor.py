"""`doctor`: finds what is planted, alone and on two ranks; and trains nothing."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from triptych.cli.main import main
from triptych.training import preflight
from triptych.training.config import DeepSpeedConfig, TrainingConfig

TINY = Path(__file__).parents[1] / "training" / "tiny.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("tiny_for_doctor", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.tiny_shards(tmp_path_factory.mktemp("tiny") / "corpus", clips=12))


def line(shards: Path, run: Path, *more: str) -> list[str]:
    return ["doctor", "semantic", "--config", "semantic/tiny", f"shards={shards}", f"run={run}", "budget=256", *more]


def test_it_tells_what_a_training_would_be_and_trains_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_ends(line(shards, tmp_path / "run", "--json", "training.max_steps=30"))
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and not (tmp_path / "run").exists()
    assert found["training"]["clips"] == 12
    epochs, steps = found["training"]["epochs"], found["training"]["steps_per_epoch"]
    assert epochs * steps == pytest.approx(30)
    sizes = found["training"]["memory"]
    assert sizes["weights"] == 4 * sizes["parameters"] and sizes["activations"] > 0


def test_it_looks_at_the_stage_that_init_would_begin_with(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_ends(["train", *line(shards, tmp_path / "first", "validation_rows=0", "training.max_steps=1")[1:]])
    sizes = []
    for keys in (["--config", "semantic/tiny"], [f"init={tmp_path / 'first'}"], ["stage.transformer.layers=1"]):
        capsys.readouterr()
        main_ends(["doctor", "semantic", *keys, f"shards={shards}", f"run={tmp_path / 'run'}", "budget=256", "--json"])
        sizes.append(json.loads(capsys.readouterr().out)["training"]["memory"]["parameters"])
    assert sizes[0] == sizes[1] < sizes[2]


def main_ends(arguments: list[str], code: int = 0) -> None:
    try:
        main(arguments)
    except SystemExit as end:
        assert (end.code or 0) == code
    else:
        assert code == 0


def test_the_estimate_is_what_torch_holds() -> None:
    """Weights, gradients and moments of a model after a step."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    estimate = preflight.memory(model, TrainingConfig(), 0)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    held = [p for p in model.parameters()] + [p.grad for p in model.parameters()]
    held += [value for state in optimizer.state.values() for value in (state["exp_avg"], state["exp_avg_sq"])]
    assert estimate.total == sum(tensor.numel() * 4 for tensor in held if tensor is not None)
    offloaded = preflight.memory(model, TrainingConfig(deepspeed=DeepSpeedConfig(zero=1, offload=True)), 0)
    assert offloaded.optimiser == 0


def test_activations_are_counted_once_and_weights_not_at_all() -> None:
    model = nn.Linear(8, 4, bias=False)
    given = torch.ones(16, 8)
    assert preflight.saved_bytes(lambda: model(given).sum(), model) == given.numel() * 4


def test_versions_that_differ_are_told_with_their_ranks() -> None:
    records = [{"torch": "2.13"}, {"torch": "2.13"}, {"torch": "2.12"}]
    assert preflight.differing(records) == ["torch differs: 2.13 on rank 0, 1; 2.12 on rank 2"]
    assert preflight.differing(records[:2]) == []


def both(arguments: list[str], *, second: list[str] | None = None, absent: bool = False) -> list[Any]:
    """Two ranks of one line, or of two; or one that waits for the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    lines = [arguments] if absent else [arguments, second or arguments]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "triptych", *words],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(lines)
    ]
    return [(*process.communicate(timeout=180), process.returncode) for process in started]


@pytest.mark.slow
def test_two_ranks_agree_and_disagree(shards: Path, tmp_path: Path) -> None:
    fine = line(shards, tmp_path / "run", "--json")
    (said, error, code), (other, _, _) = both(fine)
    assert code == 0, error
    found = json.loads(said)
    assert found["problems"] == [] and other == "" and [row["rank"] for row in found["ranks"]] == ["0", "1"]
    assert found["all_reduce"]["gigabytes_per_second"] > 0
    wrong = both(fine, second=[*fine, "budget=512", "training.accumulation=2"])
    problems = json.loads(wrong[0][0])["problems"]
    assert wrong[0][2] == wrong[1][2] == 1
    assert any("the config differs" in problem for problem in problems)
    assert any("would both read" in problem or "micro-batches in" in problem for problem in problems)


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named() -> None:
    ((_, error, code),) = both(["doctor", "--timeout", "3"], absent=True)
    assert code == 75 and "still missing: rank 1 of 2" in error
