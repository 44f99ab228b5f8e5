"""The first loss of a new model is log V; what differs is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.sanity import first_loss_is_wrong
from triptych.stages.semantic.sequence import SemanticConfig, SemanticStage
from triptych.stages.training import train_stage


@pytest.mark.parametrize("name", ["semantic", "aligned", "flattened", "fine"])
def test_a_new_model_begins_at_log_v(name, speech, specs, shape):
    import torch

    torch.manual_seed(0)
    stage = {
        "semantic": lambda: SemanticStage(SemanticConfig(transformer=shape, label_smoothing=0.0), specs).measured(
            speech
        ),
        "aligned": lambda: CoarseStage(CoarseConfig(transformer=shape), specs),
        "flattened": lambda: CoarseStage(CoarseConfig(transformer=shape, layout="flattened"), specs),
        "fine": lambda: FineStage(
            FineConfig(transformer=shape.__class__(dim=32, layers=1, heads=2, causal=False)), specs
        ),
    }[name]()
    model = stage.model().eval()
    rows = [stage.row(speech, i, np.random.default_rng(0), "own") for i in range(6)]
    loss = float(model.loss(stage.collate(rows))[0].detach())
    assert first_loss_is_wrong(stage, {"loss": loss}) is None
    assert "sees what it is to predict" in str(first_loss_is_wrong(stage, {"loss": loss / 2}))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(40.0)
    large = float(model.loss(stage.collate(rows))[0].detach())
    assert "too large" in str(first_loss_is_wrong(stage, {"loss": large}))


def test_a_run_logs_the_loss_before_its_first_step(starter_shards: Path, tmp_path: Path) -> None:
    tree = {"shards": str(starter_shards), "run": str(tmp_path / "run"), "budget": 400}
    tree |= {"training": {"max_steps": 1, "threads": 1}, "stage": {"transformer": {"dim": 32, "layers": 1, "heads": 2}}}
    train_stage("coarse", tree)
    lines = [json.loads(line) for line in open(tmp_path / "run" / "metrics.jsonl")]
    assert [line["kind"] for line in lines] == ["start", "train", "validation"]
    assert lines[0]["step"] == 0 and lines[0]["loss"] == pytest.approx(np.log(1024), rel=0.1)
