"""What is the user's to mend leaves as one line and exit code 1; a bug leaves as a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.cli import main as door

NAMES = ("take[/b].wav", "[bold]a.wav", "ü \udcff.wav", "a\nb.wav")


def leave(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int = 1) -> None:
    def verb(**_: Any) -> None:
        raise error

    monkeypatch.setattr(door, "app", verb)
    with pytest.raises(SystemExit) as stopped:
        door.main(["info"])
    assert stopped.value.code == code


def test_the_users_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import SafetensorError

    from triptych.training.step import TrainingError

    for error in (
        SafetensorError("a b"),
        ValueError("a\n  b"),
        TrainingError("a b"),
        PermissionError(13, "Permission denied", "a b"),
        OSError("a b"),
        ModuleNotFoundError("No module named 'jiwer'", name="jiwer"),
    ):
        leave(monkeypatch, error)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("triptych: ") and err.count("\n") == 1
        assert "a b" in err or "triptych[eval]" in err


def test_a_bug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (RuntimeError("x"), KeyError("x"), AssertionError(), ModuleNotFoundError(name="nothing")):
        leave(monkeypatch, error)
        assert "Traceback" in capsys.readouterr().err


def test_a_stopped_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from triptych.training.loop import TrainingStopped

    leave(monkeypatch, TrainingStopped("stopped at step 3"), code=door.STOPPED)
    assert capsys.readouterr().err.startswith("triptych: stopped at step 3")


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRIPTYCH_TRACEBACK", "1")
    leave(monkeypatch, ValueError("x"))
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("x (TRIPTYCH_TRACEBACK=1 shows where)\n")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ["info", "verify", "continue", "prepare"])
def test_any_file_name_survives(verb: str, name: str, tmp_path: Path, run_line: Callable[..., Any]) -> None:
    output = [] if verb in ("info", "verify") else ["-o", str(tmp_path / ("m.jsonl" if verb == "prepare" else "o.wav"))]
    code, out, err = run_line(verb, str(tmp_path / name), *output)
    assert (code, out) == (1, "")
    assert err.startswith("triptych: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
