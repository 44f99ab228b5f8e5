"""Each stage, stopped in the middle of an epoch and gone on with: bit for bit the run of one that was never stopped."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.semantic.sequence import SemanticConfig, SemanticStage
from triptych.stages.span import PromptConfig
from triptych.stages.training import RunConfig, batches_of
from triptych.training.config import TrainingConfig
from triptych.training.loop import TrainingStopped, train
from triptych.training.run import RunFolder
from triptych.training.step import TrainingError

PROMPT = PromptConfig(share=0.5, seconds=(0.2, 0.6), max_seconds=4.0)
CONFIG = RunConfig(
    training=TrainingConfig(
        max_steps=6, warmup_steps=2, log_every=1, validate_every=100, checkpoint_every=100, accumulation=2, threads=1
    ),
)


@pytest.fixture(params=["semantic", "aligned", "flattened", "fine"])
def stage(request, specs, shape, speech):
    shape = replace(shape, dropout=0.1)
    if request.param == "semantic":
        return SemanticStage(SemanticConfig(transformer=shape, text_drop=0.3, max_seconds=4.0), specs).measured(speech)
    if request.param == "fine":
        return FineStage(FineConfig(transformer=replace(shape, causal=False), prompt=PROMPT), specs)
    return CoarseStage(CoarseConfig(layout=request.param, transformer=shape, prompt=PROMPT), specs)


def micro_batches(stage, speech):
    """Of three or four rows; there are twelve."""
    usable = stage.usable(speech)
    mean = sum(stage.length(speech, index) for index in usable) / len(usable)
    return batches_of(stage, speech, usable, replace(CONFIG, budget=int(3.6 * mean)))


def go(stage, speech, folder, *, stop_at=None, resume=False, poison=None):
    torch.manual_seed(0)
    model = stage.model()
    plain = micro_batches(stage, speech)

    def batches(step):
        if stop_at is not None and step == stop_at + 1:  # read ahead while step `stop_at` is taken
            os.kill(os.getpid(), signal.SIGTERM)
        made = plain(step)
        if step == poison:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)
        return made

    with RunFolder(folder) as run:
        train(model, batches, CONFIG.training, run, {}, resume=resume)
    return model


def losses(folder):
    rows = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    return {row["step"]: row["loss"] for row in rows}


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(stage, speech, tmp_path):
    whole = go(stage, speech, tmp_path / "whole")
    with pytest.raises(TrainingStopped):
        go(stage, speech, tmp_path / "broken", stop_at=3)
    again = go(stage, speech, tmp_path / "broken", resume=True)
    assert len(losses(tmp_path / "whole")) == 6 and losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_run_stops_in_the_middle_of_an_epoch_and_has_no_padding(stage, speech):
    """What the test above rests on: step 3 ends within an epoch, and a micro-batch has rows of several lengths."""
    batches = micro_batches(stage, speech)
    seen = [name for step in (1, 2, 3) for batch in batches(step) for name in batch.names]
    assert len(seen) % len(stage.usable(speech)) != 0
    model = stage.model()
    several = 0
    for batch in batches(1):
        rows = next(iter(batch.packed.values()))
        several += len(set(rows.lengths)) > 1
        assert model.loss(batch)[1]["padding_share"] == 0.0
    assert several


def test_a_loss_that_is_no_number_names_the_recordings(stage, speech, tmp_path):
    with pytest.raises(
        TrainingError, match=r"the loss of step \d is nan in the batch of clip\d+, .*last checkpoint is"
    ):
        go(stage, speech, tmp_path / "run", poison=3)
