"""The training loop: exact resume, exact counts, and what it refuses."""

import json
import math
import os
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from triptych.training.checkpoint import find_checkpoint, restore
from triptych.training.config import TrainingConfig, build, load_tree
from triptych.training.loop import TrainingStopped, learning_rate, train
from triptych.training.roll_call import is_of_collective
from triptych.training.run import RunFolder
from triptych.training.step import TrainingError

CONFIG = TrainingConfig(
    max_steps=8, warmup_steps=2, log_every=1, validate_every=4, checkpoint_every=3, accumulation=2, threads=1
)


class Toy(nn.Module):
    """A regression with dropout, so that a wrong random stream shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 1))
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, batch):
        x, y = batch
        self.seen += len(x) * self.training
        return (self.body(x)[:, 0] - y).square().mean(), {"targets": float(len(x))}


def batches(step: int):
    made = []
    for micro in range(CONFIG.accumulation):
        generator = torch.Generator().manual_seed(100 * step + micro)
        x = torch.randn(3 + micro, 4, generator=generator)
        made.append((x, x.sum(1)))
    return made


def run(folder, config=CONFIG, data=batches, **options):
    model = Toy()
    with RunFolder(folder) as owned:
        train(model, data, config, owned, {"stage": "toy"}, **options)
    return model


def losses(folder):
    rows = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path, stop_at):
    whole = run(tmp_path / "whole")

    def stopping(step):
        if step == stop_at + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(step)

    with pytest.raises(TrainingStopped, match="resume=true"):
        run(tmp_path / "broken", data=stopping)
    again = run(tmp_path / "broken", resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_steps_are_exactly_as_many_as_asked(tmp_path):
    model = run(tmp_path / "run")
    assert find_checkpoint(tmp_path / "run").name == "step-00000008"
    assert int(model.seen) == 8 * (3 + 4)


def test_accumulated_gradients_weigh_targets(tmp_path):
    """Two micro-batches of different size give the step of one that holds both."""

    def joined(step):
        (x, y), (u, v) = batches(step)
        return [(torch.cat([x, u]), torch.cat([y, v]))]

    class Plain(Toy):
        def __init__(self):
            super().__init__()
            self.body[1] = nn.Identity()

    models = []
    for name, data in (("apart", batches), ("joined", joined)):
        models.append(Plain())
        with RunFolder(tmp_path / name) as owned:
            train(models[-1], data, replace(CONFIG, max_steps=3), owned, {})
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_validation_runs_in_eval_mode_and_keeps_the_best(tmp_path):
    seen = []
    values = {4: 1.0, 8: 2.0}
    model = Toy()

    def validate(step, owned):
        seen.append((step, model.training))
        return {"loss": values[step]}

    with RunFolder(tmp_path / "run") as owned:
        train(model, batches, replace(CONFIG, keep_last=1), owned, {}, validate=validate)
    assert seen == [(4, False), (8, False)] and model.training
    assert find_checkpoint(tmp_path / "run", "best").name == "step-00000004"
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path):
    def poisoned(step):
        return [(torch.full((2, 4), math.nan), torch.zeros(2))] if step == 5 else batches(step)

    with pytest.raises(TrainingError, match="step 5"):
        run(tmp_path / "run", data=poisoned)
    assert find_checkpoint(tmp_path / "run").name == "step-00000003"


def test_gradients_that_are_no_numbers_stop_the_run_and_name_the_batch(tmp_path):
    class Steep(Toy):
        def loss(self, batch):
            loss, metrics = super().loss(batch.rows)
            if batch.number == 5:
                loss = loss + (0.0 * self.body[0].weight.sum()).abs().sqrt()  # a number, whose slope is none
            return loss, metrics

    class Named:
        def __init__(self, number, rows):
            self.number, self.rows, self.names = number, rows, [f"clip{number}-{i}" for i in range(6)]

    def data(step):
        return [Named(step, rows) for rows in batches(step)]

    model = Steep()
    with (
        pytest.raises(TrainingError, match=r"gradient norm of step 5 is nan.*clip5-0, clip5-1.* and 4 more"),
        RunFolder(tmp_path / "run") as owned,
    ):
        train(model, data, CONFIG, owned, {})
    assert find_checkpoint(tmp_path / "run").name == "step-00000003"
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_averaged_weights_are_the_mean_of_the_steps_and_are_what_is_validated_and_kept(tmp_path):
    config = replace(CONFIG, average=0.5, max_steps=4, checkpoint_every=1, keep_last=9)
    seen, model = [], Toy()

    def validate(step, owned):
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        return {"loss": 1.0}

    with RunFolder(tmp_path / "run") as owned:
        train(model, batches, config, owned, {}, validate=validate)
    mean = [parameter.detach().clone() for parameter in Toy().parameters()]
    for step in range(1, 5):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        trained = load_file(folder / "trainer" / "weights.safetensors")
        kept = load_file(folder / "model.safetensors")
        names = [name for name, _ in model.named_parameters()]
        keep = min(0.5, (1 + step) / (10 + step))
        mean = [keep * a + (1 - keep) * trained[name] for a, name in zip(mean, names, strict=True)]
        for a, name in zip(mean, names, strict=True):
            torch.testing.assert_close(kept[name], a)
            assert step == 1 or not torch.equal(kept[name], trained[name])
    for validated, a, name in zip(seen[-1], mean, names, strict=True):
        torch.testing.assert_close(validated, a)
        assert torch.equal(
            dict(model.named_parameters())[name], kept[name]
        )  # what is made of the model is what was kept


def test_no_checkpoint_is_an_error_and_so_is_one_unasked_for(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        run(tmp_path / "run", resume=True)
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="resume=true"):
        run(tmp_path / "run")


def test_two_runs_cannot_own_one_folder(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(ValueError, match="belongs to process"):
        RunFolder(tmp_path / "run")
    with RunFolder(tmp_path / "run"):  # free again
        pass


def test_a_dead_owners_lock_is_taken_over(tmp_path):
    folder = tmp_path / "run"
    with RunFolder(folder):
        lock = json.loads((folder / "lock").read_text())
    (folder / "lock").write_text(json.dumps({**lock, "pid": 2**22 + 1}))
    with RunFolder(folder):
        pass


def test_a_lock_of_a_process_of_the_same_number_is_taken_over(tmp_path):
    """As in a container that is started again: each time its first process is number 1."""
    folder = tmp_path / "run"
    with RunFolder(folder):
        left = (folder / "lock").read_text()
    (folder / "lock").write_text(left)
    RunFolder(folder).close()
    assert not (folder / "lock").exists()


@pytest.mark.parametrize("left", ["", "[1]x"])
def test_a_lock_that_was_half_written_says_what_to_do(tmp_path, left):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text(left)
    with pytest.raises(ValueError, match=r"lock .*remove it, if no process trains there"):
        RunFolder(tmp_path / "run")


def test_a_resume_that_is_refused_leaves_the_config(tmp_path):
    folder = tmp_path / "run"
    with RunFolder(folder, {"max_steps": 8}) as owned:
        train(Toy(), batches, CONFIG, owned, {})
    before = (folder / "config.yaml").read_bytes()
    shorter = replace(CONFIG, max_steps=4)
    with pytest.raises(ValueError, match="beyond"), RunFolder(folder, {"max_steps": 4}) as owned:
        train(Toy(), batches, shorter, owned, {}, resume=True)
    assert (folder / "config.yaml").read_bytes() == before
    with RunFolder(folder, {"max_steps": 9}) as owned:
        train(Toy(), batches, replace(CONFIG, max_steps=9), owned, {}, resume=True)
    assert (folder / "config.yaml").read_text() == "max_steps: 9\n"


def test_a_run_that_went_back_keeps_what_it_goes_on_from(tmp_path):
    """Checkpoints of later steps lie there still; the newest by number is not the newest by time."""
    run(tmp_path / "run", replace(CONFIG, max_steps=8, checkpoint_every=2, keep_last=9))
    (tmp_path / "run" / "latest").write_text("step-00000002")
    run(tmp_path / "run", replace(CONFIG, max_steps=3, checkpoint_every=1, keep_last=1), resume=True)
    assert find_checkpoint(tmp_path / "run").name == "step-00000003"


def test_a_stop_or_a_bad_number_is_no_lost_rank(tmp_path):
    for error in (
        TrainingStopped("stopped at step 3: runs/nccl-4x8 is whole"),
        TrainingError("gloomy_01: not a number"),
    ):
        assert not is_of_collective(error)
    assert is_of_collective(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))


def test_learning_rate_rises_then_falls_to_its_floor():
    config = TrainingConfig(max_steps=100, warmup_steps=10, learning_rate=1.0, final_ratio=0.1)
    rates = [learning_rate(step, config) for step in range(1, 101)]
    assert max(rates) == rates[9] == 1.0 and rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def test_wsd_rises_stays_and_falls_to_its_floor():
    config = TrainingConfig(
        max_steps=100, warmup_steps=10, learning_rate=1.0, final_ratio=0.1, schedule="wsd", decay_share=0.3
    )
    rates = [learning_rate(step, config) for step in range(1, 101)]
    assert rates[:10] == sorted(rates[:10]) and set(rates[9:70]) == {1.0}
    falling = rates[70:]
    assert all(a > b for a, b in pairwise([1.0, *falling])) and falling[-1] == pytest.approx(0.1)
    longer = replace(config, max_steps=200)
    assert [learning_rate(step, longer) for step in range(1, 71)] == rates[:70]  # so a run can go on from its plateau


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"training\.device=cuda"):
        run(tmp_path / "run", replace(CONFIG, device="cuda"))


def test_what_is_no_device_and_no_accumulation_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"training\.device=gpu: say cpu, cuda or auto"):
        run(tmp_path / "run", replace(CONFIG, device="gpu"))
    with pytest.raises(ValueError, match="accumulation"):
        replace(CONFIG, accumulation=0)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        build(TrainingConfig, {"learning_rat": 1.0})
    with pytest.raises(ValueError, match="max_steps"):
        build(TrainingConfig, {"max_steps": "many"})
    with pytest.raises(ValueError, match="key=value"):
        load_tree(None, ["max_steps"])
    assert load_tree(None, ["a.b=3", "a.c=x"]) == {"a": {"b": 3, "c": "x"}}


def test_bf16_is_refused_where_a_convolution_comes_out_wrong(tmp_path, monkeypatch):
    class Convolved(Toy):
        def __init__(self):
            super().__init__()
            self.along = nn.Conv1d(32, 32, 16, groups=4)

    half = replace(CONFIG, dtype="bf16")
    monkeypatch.setattr("triptych.training.precision.NEAR", -1.0)  # nothing is near enough
    with RunFolder(tmp_path / "run") as owned, pytest.raises(ValueError, match="32 channels in 4 groups wrong"):
        train(Convolved(), batches, half, owned, {"stage": "toy"})
    assert not (tmp_path / "run" / "latest").exists()
    run(tmp_path / "other", half)  # without convolutions there is nothing to get wrong


def test_a_run_goes_on_where_somebody_else_keeps_the_moments(tmp_path):
    """As through DeepSpeed, which is given no optimiser here."""
    model = run(tmp_path / "run")
    checkpoint = find_checkpoint(tmp_path / "run")
    assert restore(checkpoint, model, [], model.parameters()) == CONFIG.max_steps
    with pytest.raises(ValueError, match=r"trained body\.0"):
        restore(checkpoint, model, [], list(model.parameters())[2:])


@pytest.mark.parametrize("key", ["log_every", "validate_every", "checkpoint_every"])
def test_every_is_at_least_one(key):
    with pytest.raises(ValueError, match=key):
        build(TrainingConfig, {key: 0}, "here")
