"""DeepSpeed's step is the plain loop's, and so are its checkpoints. Skipped where DeepSpeed is not installed."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.training.config import DeepSpeedConfig, TrainingConfig
from triptych.training.zero import deepspeed_dict


def beside(name: str) -> Any:
    """A module of this folder."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


HERE = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HERE, reason="deepspeed is not installed")


def test_the_dict_is_built_from_the_config() -> None:
    config = TrainingConfig(accumulation=3, clip_norm=0.5, deepspeed=DeepSpeedConfig(zero=3, offload=True))
    built = deepspeed_dict(config)
    assert built["gradient_accumulation_steps"] == 3 and built["gradient_clipping"] == 0.5
    zero = built["zero_optimization"]
    assert zero["stage"] == 3 and zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu"}
    assert "offload_param" not in deepspeed_dict(TrainingConfig(deepspeed=DeepSpeedConfig(zero=2, offload=True)))
    with pytest.raises(ValueError, match="offload needs"):
        DeepSpeedConfig(offload=True)


@pytest.mark.skipif(HERE, reason="deepspeed is installed")
def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from triptych.cli.main import main

    shards = beside("tiny").tiny_shards(tmp_path / "corpus", clips=6)
    line = ["train", "semantic", "--config", "semantic/tiny", f"shards={shards}", f"run={tmp_path / 'run'}"]
    with pytest.raises(SystemExit):
        main([*line, "training.deepspeed.zero=1"])
    assert "pip install 'triptych[deepspeed]'" in capsys.readouterr().err


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_stage_of_zero_learns_what_the_plain_loop_learns(tmp_path: Path, world: int) -> None:
    """All stages, ZeRO 0 to 3; then a resume at another stage of ZeRO, with another number of ranks, and without it."""
    processes, ranks = beside("processes"), beside("test_ranks")
    shards = beside("tiny").tiny_shards(tmp_path / "corpus")
    common: dict[str, Any] = {"warmup_steps": 9, "accumulation": 2 // world, "recompute": True}
    names = {"semantic": (0, 1, 2, 3), "coarse": (2, 3), "fine": (1, 2, 3)}
    jobs = [
        processes.job(stage, tmp_path / f"{stage}-{zero}", shards, deepspeed={"zero": zero}, **common)
        for stage, zeros in names.items()
        for zero in zeros
    ]
    for stage in names:
        begun, gone_on = tmp_path / f"{stage}-half", {1: "3 -> 2", 2: "3 -> plain"}[world]
        jobs.append(processes.job(stage, begun, shards, deepspeed={"zero": 3}, max_steps=2, **common))
        after = {"zero": 2} if gone_on == "3 -> 2" else {}
        jobs.append(processes.job(stage, begun, shards, deepspeed=after, resume=True, **common))
    offload = {"zero": 3, "offload": True}
    jobs.append(processes.job("coarse", tmp_path / "coarse-off", shards, deepspeed=offload, **common))
    processes.together(jobs, tmp_path, world)
    for stage, zeros in names.items():
        ranks.alone(processes.job(stage, tmp_path / f"{stage}-plain", shards, warmup_steps=9, accumulation=2))
        for zero in (*zeros, "half"):
            ranks.same(tmp_path / f"{stage}-plain", tmp_path / f"{stage}-{zero}")
    ranks.same(tmp_path / "coarse-plain", tmp_path / "coarse-off")


@needs_deepspeed
@pytest.mark.slow
def test_a_run_goes_on_with_more_and_with_fewer_ranks(tmp_path: Path) -> None:
    processes, ranks = beside("processes"), beside("test_ranks")
    shards = beside("tiny").tiny_shards(tmp_path / "corpus")

    def steps(last: int, world: int, zero: int) -> Any:
        common = {"warmup_steps": 99, "accumulation": 2 // world, "deepspeed": {"zero": zero}}
        return processes.job("semantic", tmp_path / "run", shards, max_steps=last, resume=last > 2, **common)

    for last, world, zero in ((2, 2, 3), (4, 1, 3), (6, 2, 2)):
        processes.together([steps(last, world, zero)], tmp_path, world)
    plain = processes.job("semantic", tmp_path / "plain", shards, warmup_steps=99, max_steps=6, accumulation=2)
    ranks.alone(plain)
    ranks.same(tmp_path / "plain", tmp_path / "run")


@needs_deepspeed
@pytest.mark.slow
def test_bf16_is_autocast_over_master_weights(tmp_path: Path) -> None:
    processes, ranks = beside("processes"), beside("test_ranks")
    shards = beside("tiny").tiny_shards(tmp_path / "corpus", clips=8)
    one, other = ({"dtype": "bf16", "deepspeed": {"zero": zero}} for zero in (1, 3))
    jobs = [processes.job("fine", tmp_path / str(i), shards, **own) for i, own in enumerate((one, other))]
    processes.together(jobs, tmp_path, 1)
    assert all(weight.dtype == torch.float32 for weight in ranks.weights(tmp_path / "1").values())
    ranks.same(tmp_path / "0", tmp_path / "1", 5e-3)
