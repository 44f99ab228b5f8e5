"""`doctor overfit`: a healthy stage passes, and each planted fault is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from triptych.cli.main import app
from triptych.lm.transformer import TransformerConfig
from triptych.stages.again import what_differs
from triptych.stages.coarse.model import AlignedModel
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.fine.model import FineModel
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.overfit import overfit, quiet
from triptych.stages.semantic.model import SemanticModel
from triptych.stages.semantic.sequence import SemanticConfig, SemanticStage
from triptych.stages.span import PromptConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.training.config import TrainingConfig

STEPS = TrainingConfig(max_steps=80, warmup_steps=10, learning_rate=7e-3, weight_decay=0.0, threads=1, log_every=1000)
SHAPE = TransformerConfig(dim=48, layers=2, heads=2)
PROMPT = PromptConfig(share=0.5, seconds=(0.2, 0.4), max_seconds=4.0)


@pytest.fixture
def speech(fake_shards: Any) -> Speech:
    return Speech(fake_shards(640, 480), "train")


@pytest.fixture
def semantic(specs: Specs, speech: Speech) -> SemanticStage:
    config = SemanticConfig(transformer=SHAPE, text_drop=0.0, label_smoothing=0.0)
    return SemanticStage(config, specs).measured(speech)


@pytest.fixture
def coarse(specs: Specs) -> CoarseStage:
    return CoarseStage(CoarseConfig(transformer=SHAPE, prompt=PROMPT, code_noise=0.0), specs)


@pytest.fixture
def fine(specs: Specs) -> FineStage:
    return FineStage(FineConfig(transformer=replace(SHAPE, causal=False), prompt=PROMPT), specs)


def faults(stage: Any, speech: Speech, steps: int = STEPS.max_steps) -> dict[str, str]:
    found = overfit(stage, speech, replace(STEPS, max_steps=steps), count=4)
    assert [finding.name for finding in found][:2] == ["first loss", "targets"]
    return {finding.name: finding.said for finding in found if not finding.good}


def planted(stage: Any, model: type[Any] | None = None, row: Any = None) -> Any:
    """`stage` with a model of another class, or with rows that `row` spoils."""

    class Planted(type(stage)):  # type: ignore[misc]
        def model(self) -> Any:
            made = super().model()
            if model is not None:
                made.__class__ = model
            if model is DeafToText:
                made.deafen()
            return made

        def row(self, *args: Any, **options: Any) -> Any:
            made = super().row(*args, **options)
            return made if row is None else row(made)

    return Planted(stage.config, stage.specs)


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine"])
def test_a_healthy_stage_passes(name: str, speech: Speech, request: pytest.FixtureRequest) -> None:
    assert faults(request.getfixturevalue(name), speech) == {}


@pytest.mark.slow
def test_a_healthy_flattened_coarse_stage_passes(coarse: CoarseStage, speech: Speech) -> None:
    assert faults(replace(coarse, config=replace(coarse.config, layout="flattened")), speech, steps=150) == {}


class SeesItsTarget(SemanticModel):
    """Each step is to give the id that it was given."""

    def loss(self, batch: Any) -> Any:
        moved = {**batch.tensors, "targets": torch.roll(batch["targets"], 1, -1)}
        return super().loss(replace(batch, tensors=moved))


class SkipsOne(SemanticModel):
    """Each step is to give the id after the next."""

    def loss(self, batch: Any) -> Any:
        moved = {**batch.tensors, "targets": torch.roll(batch["targets"], -1, -1)}
        return super().loss(replace(batch, tensors=moved))


class SeesItsFrame(AlignedModel):
    """In training each frame is given its own codes, not those before it."""

    def step(self, before: Any, *args: Any, **context: Any) -> Any:
        return super().step(torch.roll(before, -1, 1) if before.shape[1] > 1 else before, *args, **context)


class SeesItsLevel(FineModel):
    """Levels are counted from one too high, so that the level asked for lies among those that are given."""

    def hidden(self, codes: Any, *args: Any, **options: Any) -> Any:
        return super().hidden(torch.roll(codes, -1, -2), *args, **options)


@pytest.mark.parametrize(
    ("name", "model"),
    [("semantic", SeesItsTarget), ("semantic", SkipsOne), ("coarse", SeesItsFrame), ("fine", SeesItsLevel)],
)
def test_a_wrong_offset_is_named(name: str, model: Any, speech: Speech, request: pytest.FixtureRequest) -> None:
    found = faults(planted(request.getfixturevalue(name), model), speech)
    named = {finding for finding, said in found.items() if "wrong offset" in said}
    assert named and not faults_beside(found, named), found


def faults_beside(found: dict[str, str], named: set[str]) -> list[str]:
    """Findings that name another fault than those in `named`."""
    return [name for name in found if name not in named and "see what is named above" not in found[name]]


class DeafToText(SemanticModel):
    """All text ids are one."""

    def deafen(self) -> None:
        hidden = self.language_model.hidden
        self.language_model.hidden = lambda ids, **more: hidden(torch.where((ids >= 3) & (ids < 13), 3, ids), **more)


class DeafToSemantic(AlignedModel):
    def condition(self, *args: Any) -> Any:
        return super().condition(*args) * 0


class DeafToPrompt(AlignedModel):
    def step(self, before: Any, condition: Any, prompted: Any, **context: Any) -> Any:
        """The frame after the prompt is given the prompt's last one; it too is to be hidden."""
        after = torch.nn.functional.pad(prompted, (1, 0))[:, :-1]
        hide = prompted | after if before.shape[1] > 1 else prompted
        return super().step(before * (1 - hide)[..., None], condition, prompted, **context)


class DeafToCoarse(FineModel):
    def hidden(self, codes: Any, level: Any, prompted: Any, *args: Any) -> Any:
        return super().hidden(codes * prompted[:, None], level, prompted, *args)


@pytest.mark.parametrize(
    ("name", "model", "condition"),
    [
        ("semantic", DeafToText, "text"),
        ("coarse", DeafToSemantic, "semantic"),
        ("coarse", DeafToPrompt, "prompt"),
        ("fine", DeafToCoarse, "coarse"),
    ],
)
def test_a_dead_condition_is_named(
    name: str, model: Any, condition: str, speech: Speech, request: pytest.FixtureRequest
) -> None:
    found = faults(planted(request.getfixturevalue(name), model), speech, steps=40)
    assert f"another {condition} changes nothing: the condition is dead" in found[f"{condition} connected"], found
    assert {key for key in found if key.endswith("connected")} == {f"{condition} connected"}
    assert "wrong offset" not in str(found), found


@pytest.mark.parametrize(("step", "told"), [(7, r"hides 28 of"), (-1, r"lies on 4 places besides")])
def test_a_mask_over_the_semantic_target_is_named(
    semantic: SemanticStage, speech: Speech, step: int, told: str
) -> None:
    stage = planted(semantic, row=lambda row: replace(row, first_target=row.first_target + step))
    assert told in faults(stage, speech, steps=3)["targets"]


def test_a_mask_over_codes_is_named(coarse: CoarseStage, fine: FineStage, speech: Speech) -> None:
    moved = planted(coarse, row=lambda row: replace(row, prompt=row.prompt + 5))
    assert "hides 20 of" in faults(moved, speech, steps=3)["targets"]
    longer = planted(fine, row=lambda row: replace(row, span=replace(row.span, prompt=row.span.prompt + 5)))
    assert "hides 40 of" in faults(longer, speech, steps=3)["targets"]  # two levels of each of four clips


def test_what_differs_names_a_shift_of_time_and_of_ids() -> None:
    rng = np.random.default_rng(0)
    true = [rng.integers(5, 900, (2, 60)) for _ in range(3)]
    assert "2 frames late" in what_differs([(np.roll(one, 2, 1), one) for one in true])
    assert "1 frames early" in what_differs([(np.roll(one, -1, 1), one) for one in true])
    assert "each is -3 from" in what_differs([(one - 3, one) for one in true])
    assert "answer" in what_differs([(one[:, ::-1], one) for one in true])


def test_quiet_keeps_what_is_said_and_takes_the_noise() -> None:
    tree = {"transformer": {"dim": 8, "dropout": 0.3}, "code_noise": 0.1, "levels": 2}
    assert quiet(tree) == {"transformer": {"dim": 8, "dropout": 0.0}, "code_noise": 0.0, "levels": 2}


def test_the_command_says_it_line_by_line(starter_shards: Path) -> None:
    line = ["doctor", "overfit", "coarse", str(starter_shards), "--clips", "2"]
    result = CliRunner().invoke(app, [*line, "training.max_steps=2"])
    assert result.exit_code == 1
    assert "WRONG  memory" in result.stdout and "ok     first loss" in result.stdout
