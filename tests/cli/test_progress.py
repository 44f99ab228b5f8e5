"""Progress: rates count one's own work; nothing is printed to stdout."""

import time

import pytest

from triptych.cli.progress import Bar, result_json


def test_rate_of_a_resumed_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar("train [/b]", "steps", 2000) as bar:
        for step in range(1001, 1101):
            now[0] += 1.0
            bar.step(step, {"loss": 1.25, "other": 3.0})
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 3 <= len(lines) <= 5
    assert lines[-1] == "train [/b]  1100/2000 steps  1.0/s  loss 1.250"


def test_another_pass_begins_its_rate_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar("tokenize", "clips") as bar:
        for done in range(1, 51):
            now[0] += 1.0
            bar(done, 50)
        bar(1, 9)
        assert bar.rate() == 0.0  # nothing is known of it yet
        now[0] += 2.0
        bar(5, 9)
        assert bar.rate() == 2.5


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    result_json({"a": "é\n[/b]"})
    assert capsys.readouterr().out == '{"a": "é\\n[/b]"}\n'
