"""What a stage says of true tokens: the training loss token by token, calibration, and gaps that mean something."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from triptych.evaluation.calibration import BINS, calibration_error
from triptych.evaluation.held_out import HeldOut, held_out
from triptych.evaluation.report import Column, Sheet
from triptych.evaluation.sections.stages import COLUMNS, by_clip, measure_stage, stages_section
from triptych.evaluation.stage_scores import ALONE, OWN, Scored, draw, score, why_not
from triptych.evaluation.subject import Evaluation
from triptych.stages.cascade import Cascade
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.semantic.tasks import TaskConfig

Changed = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def clips(evaluation: Evaluation) -> HeldOut:
    return held_out(evaluation)


def stage_of(starter: Cascade, name: str) -> tuple[Any, Any]:
    if name != "flattened":
        return starter.stages[name]
    tiny = starter.stages["coarse"][0].config
    shape = replace(tiny.transformer, dim=32, layers=1, heads=2)
    stage = CoarseStage(
        CoarseConfig(layout="flattened", levels=2, transformer=shape), starter.stages["coarse"][0].specs
    )
    torch.manual_seed(0)
    return stage, stage.model().eval()


@pytest.mark.parametrize("name", ["semantic", "coarse", "flattened", "fine"])
def test_the_mean_over_tokens_is_the_training_loss(starter: Cascade, clips: HeldOut, name: str) -> None:
    stage, model = stage_of(starter, name)
    rows, of = draw(stage, clips.speech, clips.judged, OWN)
    assert of == list(clips.judged)
    found = score(stage, model, rows)
    with torch.no_grad():
        loss, metrics = model.loss(stage.collate(rows))
    assert found.nats.mean() == pytest.approx(float(loss), rel=1e-4)
    for level in np.unique(found.level) if name != "semantic" else ():
        where = found.level == level
        assert found.nats[where].mean() == pytest.approx(float(metrics[f"loss_{level}"]), rel=1e-4)
        assert found.right[where].mean() == pytest.approx(float(metrics[f"accuracy_{level}"]), abs=1e-6)
    if name == "semantic":
        assert found.illegal is not None
        assert found.illegal.mean() == pytest.approx(float(metrics["illegal_mass"]), rel=1e-4)


@pytest.mark.parametrize("name", ["semantic", "coarse", "flattened", "fine"])
def test_rows_are_told_apart_and_their_frames_are_counted(starter: Cascade, clips: HeldOut, name: str) -> None:
    stage, model = stage_of(starter, name)
    rows, _ = draw(stage, clips.speech, clips.judged, OWN)
    together, alone = score(stage, model, rows), [score(stage, model, [row]) for row in rows]
    for number, one in enumerate(alone):
        mine = together.pick(together.row == number)
        for level in np.unique(one.level):
            ours, theirs = mine.pick(mine.level == level), one.pick(one.level == level)
            assert ours.place.tolist() == list(range(len(theirs)))
            assert ours.nats == pytest.approx(theirs.nats, abs=1e-3)


def test_an_untrained_stage_does_not_listen_and_the_starter_does(starter: Cascade, evaluation_of: Changed) -> None:
    cascade = stages_section(evaluation_of(starter))
    gaps = next(table for table in cascade.tables if table.name == "gaps").rows
    assert gaps["semantic"]["text"].estimate is not None and gaps["semantic"]["text"].estimate.mean > 0.5
    assert gaps["coarse"]["semantic"].estimate is not None and gaps["coarse"]["semantic"].estimate.mean > 1.0
    stages = next(table for table in cascade.tables if table.name == "stages").rows
    assert stages["semantic"]["bits"].estimate.mean < stages["semantic, without text"]["bits"].estimate.mean  # type: ignore[union-attr]
    assert stages["coarse"]["illegal"].estimate is None and "legal" in stages["coarse"]["illegal"].why
    assert {plot.name for plot in cascade.plots} == {"places", "calibration"}
    places = next(table for table in cascade.tables if table.name == "places")
    counted = sum(
        w for row in places.values if row.startswith("coarse,") for _, w in places.values[row]["bits"].values()
    )
    whole = next(table for table in cascade.tables if table.name == "stages").values["coarse"]["bits"]
    assert counted == sum(weight for _, weight in whole.values())  # each token has its place
    untrained = (starter.stages["coarse"][0], starter.stages["coarse"][0].model().eval())
    rows, _ = draw(untrained[0], held_out(evaluation_of(starter)).speech, [0, 1], OWN)
    assert score(*untrained, rows).nats.mean() == pytest.approx(np.log(starter.tokenizers.acoustic.spec.size), rel=0.05)


def test_a_condition_that_cannot_be_swapped_has_no_gap(starter: Cascade, clips: HeldOut) -> None:
    stage = starter.stages["coarse"][0]
    assert not why_not(stage, clips.speech, clips.judged[0], "prompt")
    lonely = np.zeros_like(clips.speech.shards.speaker_of)
    clips.speech.shards.speaker_of, before = lonely, clips.speech.shards.speaker_of
    try:
        assert "speaker" in why_not(stage, clips.speech, clips.judged[0], "prompt")
        assert draw(stage, clips.speech, clips.judged, "prompt") == ([], [])
    finally:
        clips.speech.shards.speaker_of = before
    assert not why_not(starter.stages["semantic"][0], clips.speech, clips.judged[0], ALONE)


def test_a_lone_clip_has_no_gap(starter: Cascade, clips: HeldOut) -> None:
    (clip, *_), before = clips.judged, clips.speech.indices
    clips.speech.indices = np.array([clip])
    try:
        for name, given in (("semantic", "text"), ("coarse", "semantic"), ("fine", "coarse")):
            assert why_not(starter.stages[name][0], clips.speech, clip, given) == "there is no other clip"
            assert not why_not(starter.stages[name][0], clips.speech, clip, OWN)
    finally:
        clips.speech.indices = before


def test_a_task_beside_speaking_has_no_even_guess(starter: Cascade, clips: HeldOut) -> None:
    """Its legal ids change from text to speech."""
    stage, model = starter.stages["semantic"]
    gaps = {condition: Column(condition) for condition in stage.conditions}
    both = replace(stage, config=replace(stage.config, tasks=TaskConfig(recognise=1.0)))
    sheets = [Sheet(name, "", {**COLUMNS, **gaps}) for name in ("stages", "levels", "gaps")]
    measure_stage((both, model), clips, *sheets)
    cells = sheets[0].values
    assert {"semantic", "semantic, recognise"} <= set(cells)
    assert cells["semantic, recognise"]["bits"] and not cells["semantic, recognise"].get("chance")
    assert cells["semantic"]["chance"]


def scored(confidence: Any, right: Any, rows: int = 4) -> Scored:
    count = len(confidence)
    zeros = np.zeros(count, np.int64)
    return Scored(np.arange(count) % rows, zeros, zeros, np.zeros(count), right, confidence, None)


def test_calibration_error_is_that_of_the_slow_reference(rng: np.random.Generator) -> None:
    confidence = rng.random(400)
    right = (rng.random(400) < confidence**2).astype(float)
    slow = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (confidence >= low) & (confidence < low + 1 / BINS)
        if inside.any():
            slow += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = calibration_error(scored(confidence, right), ["a", "b", "c", "d"], 100, 0)
    assert found.mean == pytest.approx(slow)
    assert found.low is not None and found.low > 0.1  # squares are too sure
    honest = calibration_error(scored(np.full(400, 1.0), np.ones(400)), ["a", "b", "c", "d"], 10, 0)
    assert honest.mean == 0.0


def test_means_of_a_clip_are_over_all_of_its_rows() -> None:
    values, row = np.array([1.0, 2.0, 6.0, 5.0]), np.array([0, 0, 1, 2])
    assert by_clip(values, row, ["one", "one", "two"]) == [("one", 3.0, 3.0), ("two", 5.0, 1.0)]
