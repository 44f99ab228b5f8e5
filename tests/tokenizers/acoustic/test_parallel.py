"""Two ranks with half of the rows each learn what one process learns with all of them."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from triptych.tokenizers.acoustic.balancer import Balancer
from triptych.tokenizers.acoustic.quantizer import TrainableQuantizer
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig
from triptych.training.distributed import rank, ranks, world
from triptych.training.loop import TrainingStopped, train
from triptych.training.optimiser import Learner
from triptych.training.run import RunFolder

torch.set_num_threads(1)
CONFIG = TrainingConfig(max_steps=6, warmup_steps=1, learning_rate=0.01, log_every=1, threads=1, checkpoint_every=100)
ROWS, FRAMES, WIDTH = 4, 5, 3
SAME = {"loss", "mel", "commitment", "perplexity_0", "adversarial", "feature", "discriminator", "gradient_norm"}


class Small(nn.Module):
    """An encoder before a quantizer, and balanced losses, one of them of some rows; a second learner beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.quantizer = TrainableQuantizer(2, 12, WIDTH, decay=0.7)
        self.quantizer.start(torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(1)))
        self.balancer = Balancer({"near": 1.0, "far": 2.0}, norm=1.0, decay=0.9)

    def learners(self) -> list[Learner]:
        other = replace(CONFIG, learning_rate=0.1, clip_norm=0.1)
        return [
            Learner("", list(self.encoder.parameters()), CONFIG),
            Learner("other", list(self.other.parameters()), other),
        ]

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        latent = self.encoder(batch)
        entries, _, commitment = self.quantizer(latent)
        leaf = (latent + (entries.sum(0) - latent).detach()).detach().requires_grad_()
        some = batch[:, 0, 0] > 0  # of some rows, on each rank another number of them
        near = (leaf - batch).abs().mean((1, 2))[some].sum() / max(1, int(some.sum()))
        losses = {"near": near, "far": leaf.square().mean()}
        followed = (latent * self.balancer(losses, leaf, {"near": int(some.sum())})).sum()
        total = commitment + self.other(leaf.detach()).square().mean() + followed - followed.detach()
        return total, {"commitment": commitment.detach()}


def dealt(step: int) -> list[torch.Tensor]:
    """This rank's rows of one global draw."""
    everything = torch.randn(ROWS, FRAMES, WIDTH, generator=torch.Generator().manual_seed(step)) * (1 + step)
    return [everything.chunk(world())[rank()]]


def learn(folder: Path, data: Callable[[int], list[torch.Tensor]] = dealt) -> None:
    with ranks("cpu"):
        torch.manual_seed(0 if rank() == 0 else 99)  # all take the first one's weights
        with RunFolder(folder) as run:
            train(Small(), data, CONFIG, run, {"stage": "small"})


def learn_until_one_is_stopped(folder: Path) -> None:
    def stopping(step: int) -> list[torch.Tensor]:
        if step == 4 and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return dealt(step)

    with pytest.raises(TrainingStopped):
        learn(folder, stopping)


def fit_tests() -> ModuleType:
    """test_fit.py, which lies beside: its clips and its small codecs."""
    spec = importlib.util.spec_from_file_location("fit_tests", Path(__file__).with_name("test_fit.py"))
    assert spec is not None and spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    return tests


def learn_codec(folder: Path, batch: int = 2, **options: Any) -> None:
    tests = fit_tests()
    one_window = replace(tests.ADVERSE.discriminator, windows_a_step=1)
    config = replace(tests.ADVERSE, batch=batch, discriminator=one_window, **options)
    tests.fit_acoustic(tests.Noise(), tests.Noise(), folder, config)


def go_on_with_codec(folder: Path, batch: int = 2) -> None:
    learn_codec(folder, batch, init=str(folder.with_name("began")), postfilter=fit_tests().SMALL)


def two_processes(work: str, folder: Path) -> None:
    """Runs a function of this file in two processes that find each other as under torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pathlib, test_parallel as t; "
    code += f"t.{work}(pathlib.Path({str(folder)!r}))"
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=os.environ | shared | paths | {"RANK": str(number)})
        for number in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def rows(run: Path) -> list[dict[str, float]]:
    return [row for row in map(json.loads, open(run / "metrics.jsonl")) if row["kind"] == "train"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = find_checkpoint(run)
    return load_file(folder / "model.safetensors") | load_file(folder / "trainer" / "optimizer.safetensors")


def compare(one: Path, two: Path, tolerance: float) -> None:
    ours, theirs = rows(one), rows(two)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in SAME & a.keys():
            assert b[name] == pytest.approx(a[name], rel=tolerance), (a["step"], name)
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if not name.startswith("exp_avg"):
            assert torch.allclose(value.float(), right[name].float(), atol=tolerance), name


def test_codebooks_balance_and_both_learners_agree(tmp_path):
    two_processes("learn", tmp_path / "two")
    learn(tmp_path / "one")
    compare(tmp_path / "one", tmp_path / "two", 1e-4)


def test_all_ranks_stop_after_the_same_step(tmp_path):
    two_processes("learn_until_one_is_stopped", tmp_path / "two")
    assert find_checkpoint(tmp_path / "two").name in ("step-00000003", "step-00000004")
    assert not (tmp_path / "two" / "lock").exists()


@pytest.mark.slow
def test_a_whole_codec_agrees(tmp_path):
    """Crops, k-means, restarts, discriminator, validation, and one folder at the end."""
    two_processes("learn_codec", tmp_path / "two")
    learn_codec(tmp_path / "one", batch=4)
    compare(tmp_path / "one.run", tmp_path / "two.run", 2e-3)
    assert (tmp_path / "two" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_codec_that_goes_on_agrees(tmp_path):
    """Its codebooks are said to have an even use, which is one of all ranks' rows."""
    fit_tests().with_post_filter(tmp_path)
    two_processes("go_on_with_codec", tmp_path / "two")
    go_on_with_codec(tmp_path / "one", batch=4)
    compare(tmp_path / "one.run", tmp_path / "two.run", 2e-3)
