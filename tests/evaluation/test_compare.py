"""Two reports: what was planted is found, what is chance is not called a difference, other judges are not compared."""

from typing import Any

import numpy as np
import pytest

from triptych.evaluation.compare import compare, judges_of
from triptych.evaluation.evaluate import Report
from triptych.evaluation.report import Column, Section, Sheet

COLUMNS = {"words": Column("word error", "", 3, False), "voice": Column("voice", "", 3, True), "pace": Column("pace")}


def subject(**changed: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "bundle": {"name": "a", "fingerprint": "1"},
        "manifest": {"name": "m", "fingerprint": "1"},
        "settings": {"seed": 0, "clips": 3, "samples": 1},
        "judges": {"names": {"recogniser": "ear 1", "speaker": "voice 1"}, "absent": {}},
    }
    return said | changed


def report(values: dict[str, list[float]], names: str = "u", **changed: Any) -> Report:
    sheet = Sheet("spoken", "Spoken", COLUMNS)
    for key, numbers in values.items():
        for place, value in enumerate(numbers):
            sheet.put("known voices", key, f"{names}{place}", value, 1 + place % 3)
    return Report(subject(**changed), (Section("speaking", "Speaking", "", (sheet.table(50, 0),)),))


NOISE = np.random.default_rng(0).normal(size=40)


@pytest.mark.parametrize(
    ("moved", "key", "verdict"),
    [
        (0.05, "words", "worse"),
        (-0.05, "words", "better"),
        (0.05, "voice", "better"),
        (-0.05, "pace", "lower"),
        (0.0, "words", "within chance"),
    ],
)
def test_pairs_see_small_differences(moved: float, key: str, verdict: str) -> None:
    here, there = (
        report({key: list(NOISE + moved)}),
        report({key: list(NOISE)}, bundle={"name": "b", "fingerprint": "2"}),
    )
    (found,) = compare(here, there, 500, 0).differences
    assert found.paired and found.verdict == verdict
    assert found.difference.mean == pytest.approx(moved, abs=1e-9)


def test_other_utterances_are_not_paired() -> None:
    here, there = report({"words": list(NOISE + 0.05)}), report({"words": list(NOISE)}, names="v")
    (found,) = compare(here, there, 500, 0).differences
    assert not found.paired and found.verdict == "within chance"
    assert found.difference.low is not None and found.difference.low < 0.05 < (found.difference.high or 0)
    (far,) = compare(report({"words": list(NOISE + 5)}), there, 500, 0).differences
    assert far.verdict == "worse"


def test_too_few_is_said() -> None:
    (found,) = compare(report({"words": [1.0, 1.1]}), report({"words": [0.0, 0.1]}), 500, 0).differences
    assert found.verdict == "too few to say"


def test_figures_of_another_judge_are_left_out() -> None:
    judges = {"names": {"recogniser": "ear 2", "speaker": "voice 1"}, "absent": {}}
    values = {key: list(NOISE) for key in COLUMNS}
    found = compare(report(values), report(values, judges=judges), 50, 0)
    assert {d.column.title for d in found.differences} == {"voice", "pace"}
    assert any("recogniser" in remark for remark in found.remarks)


def test_words_of_other_language_models_are_left_out() -> None:
    def heard(model: str, ear: str = "ear 1") -> Report:
        sheet = Sheet("words", "Words", {"heard-sense": Column("language model"), "heard-pace": Column("words heard")})
        for place, value in enumerate(NOISE):
            for key in sheet.columns:
                sheet.put("known voices", key, str(place), value)
        settings = {"seed": 0, "clips": 3, "samples": 1, "language_model": model}
        said = subject(settings=settings, judges={"names": {"recogniser": ear}, "absent": {}})
        return Report(said, (Section("continuing", "", "", (sheet.table(50, 0),)),))

    for other, titles in (("small", {"words heard", "language model"}), ("large", {"words heard"})):
        found = compare(heard("small"), heard(other), 50, 0)
        assert {d.column.title for d in found.differences} == titles
    assert not compare(heard("small"), heard("small", "ear 2"), 50, 0).differences  # which reads other words


def test_cost_is_compared_on_one_machine_alone() -> None:
    def spent(machine: str) -> Report:
        sheet = Sheet("cost", "Cost", {"rtf": Column("time")})
        for place, value in enumerate(NOISE):
            sheet.put("codec", "rtf", str(place), value)
        return Report(subject(machine=machine), (Section("cost", "Cost", "", (sheet.table(50, 0),)),))

    alike, apart = (compare(spent("old, 2 threads"), spent(f"{other}, 2 threads"), 50, 0) for other in ("old", "new"))
    assert len(alike.differences) == 1 and not alike.remarks[1:]
    assert not apart.differences and any("old, 2 threads; new, 2 threads" in remark for remark in apart.remarks)


def test_what_one_report_lacks_is_not_compared() -> None:
    assert compare(report({"words": [1.0] * 9}), report({"voice": [1.0] * 9}), 50, 0).differences == ()


def test_chance_is_seldom_called_a_difference() -> None:
    rng, beyond = np.random.default_rng(1), 0
    for _ in range(100):
        here, there = (report({"words": list(rng.normal(size=30))}) for _ in range(2))
        (found,) = compare(here, there, 200, 0).differences
        beyond += found.verdict != "within chance"
    assert beyond <= 15


def test_failures_are_the_recognisers_and_loops_of_tokens_are_not() -> None:
    assert {judges_of("speaking", kind) for kind in ("loop", "early", "overrun", "any")} == {("recogniser",)}
    assert judges_of("continuing", "loop") == judges_of("speaking", "silence") == ()
    assert judges_of("speaking", "voice-takes") == ("speaker",)
