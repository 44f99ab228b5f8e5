"""Reports: a table is the means of its values, nothing is zero for want of a number, and JSON keeps everything."""

import json

import numpy as np
import pytest

from triptych.evaluation.estimate import estimate
from triptych.evaluation.report import Column, Sample, Section, Sheet, plot

COLUMNS = {"words": Column("word error", "", 3, False), "voice": Column("voice", "cosine", 2, True)}


def sheet() -> Sheet:
    filled = Sheet("spoken", "Spoken", COLUMNS, {"voice": "no speaker encoder"})
    for number in range(5):
        filled.put("known voices", "words", f"u{number}", number / 5, weight=number + 1)
    filled.lack("known voices", "words", "no text")
    filled.lack("held-out voices", "words", "no text")
    filled.put("recordings", "words", "u0", float("nan"))
    return filled


def test_figures_are_weighted_means_with_intervals() -> None:
    found = sheet().table(200, 3).rows["known voices"]["words"]
    values, weights = [n / 5 for n in range(5)], [n + 1 for n in range(5)]
    assert found.estimate == estimate(values, weights, 200, np.random.default_rng(3))
    assert found.estimate is not None and found.estimate.mean == pytest.approx(np.average(values, weights=weights))
    assert found.why == "1 without: no text"


def test_what_is_missing_has_a_reason_and_no_number() -> None:
    rows = sheet().table(200, 3).rows
    assert rows["known voices"]["voice"].estimate is None
    assert rows["known voices"]["voice"].why == "no speaker encoder"
    assert (rows["held-out voices"]["words"].estimate, rows["held-out voices"]["words"].why) == (None, "no text")
    assert (rows["recordings"]["words"].estimate, rows["recordings"]["words"].why) == (None, "not finite")


def test_json_keeps_everything() -> None:
    drawn = plot("line", "A line", lambda axes: axes.plot([0, 1], [1, 0]))
    heard = Sample("one", "samples/one.ogg", "<b>Hello</b>", {"semantic": [1, 2, 3]}, ("cut",))
    section = Section("speaking", "Speaking", "Lower is better.", (sheet().table(50, 0, "a note"),), (drawn,), (heard,))
    assert Section.from_json(json.loads(json.dumps(section.to_json()))) == section


def test_plots_are_the_same_each_time_and_need_no_network() -> None:
    first, second = (plot("line", "A line", lambda axes: axes.plot([0, 1], [1, 0])).svg for _ in range(2))
    assert first == second and "<svg" in first
    assert 'href="http' not in first and "<script" not in first
