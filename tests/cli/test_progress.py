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


def test_clips_are_counted_until_the_first_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar("fit encoder", "steps", 50) as bar:
        for _ in range(62):
            now[0] += 0.5
            bar.read()
        for step in range(1, 51):
            now[0] += 2.0
            bar.step(step, {"loss": 1.25})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fit encoder  61 clips read  2.0/s"
    assert lines[-1] == "fit encoder  50/50 steps  0.5/s  loss 1.250"


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    result_json({"a": "é\n[/b]"})
    assert capsys.readouterr().out == '{"a": "é\\n[/b]"}\n'
