"""speak, continue, convert, resynthesise: what is asked of the cascade, what is written and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "in[/b].wav"
    path.parent.mkdir()
    soundfile.write(path, [0.0, 0.1] * 4000, 8000)
    return path


def test_speak_writes_and_reports(tmp_path: Path, cascade: Any, run_line: Run) -> None:
    out = tmp_path / "deep" / "take[/b].wav"
    code, said, _ = run_line(
        "speak", "Hello.", "-o", str(out), "--voice", "bob", "--seed", "7", "semantic.temperature=0.5"
    )
    assert code == 0
    assert soundfile.info(out).duration == 2.0
    assert str(out) in said and "2.00 s" in said and "coarse 0.20" in said and "a note [/b]" in said
    job, text, asked = cascade.asked[-1]
    assert (job, text, asked["voice"], asked["voice_text"]) == ("speak", "Hello.", "bob", None)
    settings = asked["settings"]
    assert (settings.seed, settings.semantic.temperature) == (7, 0.5)
    assert settings.semantic.top_p == 0.9  # the bundle's own word where the line says nothing


def test_rate_and_precision_reach_the_cascade(tmp_path: Path, cascade: Any, run_line: Run) -> None:
    line = ["speak", "Hi.", "-o", str(tmp_path / "out.wav"), "--rate", "1.2", "--precision", "int8", "seed=3"]
    assert run_line(*line)[0] == 0
    assert cascade.asked[0] == ("load", None, {"precision": "int8"})
    assert (cascade.asked[1][2]["settings"].rate, cascade.asked[1][2]["settings"].seed) == (1.2, 3)


def test_a_file_of_lines_gives_a_list_for_score(tmp_path: Path, cascade: Any, run_line: Run) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("One.\n\nThree.\n")
    code, said, _ = run_line("speak", "--file", str(lines), "-o", str(tmp_path / "out"), "seed=3", "--json")
    assert code == 0
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row["text"] for row in rows] == ["One.", "Three."]
    assert [Path(row["audio"]).name for row in rows] == ["001.wav", "003.wav"]
    assert all(Path(row["audio"]).is_file() for row in rows)
    assert cascade.asked[-1][2]["settings"].seed == 3


def test_a_line_that_cannot_be_spoken_stops_before_the_first(tmp_path: Path, cascade: Any, run_line: Run) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("One.\n☃\n", encoding="utf-8")
    code, said, err = run_line("speak", "--file", str(lines), "-o", str(tmp_path / "out"))
    assert (code, said) == (1, "")
    assert "lines.txt, line 2: cannot speak" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", ["continue", "convert", "resynthesise"])
def test_jobs_on_a_recording(job: str, tmp_path: Path, wav: Path, cascade: Any, run_line: Run) -> None:
    more = {"continue": ["--seconds", "1.5"], "convert": ["--voice", str(wav)], "resynthesise": ["--from", "coarse"]}[
        job
    ]
    code, said, _ = run_line(job, str(wav), "-o", str(tmp_path / "out.wav"), "--json", *more)
    assert code == 0
    assert json.loads(said)["seconds"] == (1.5 if job == "continue" else 2.0)
    asked = cascade.asked[-1]
    assert asked[:2] == (job, wav)
    assert asked[2].get("voice") == (str(wav) if job == "convert" else None)


def test_refusals_come_before_any_work(tmp_path: Path, wav: Path, cascade: Any, run_line: Run) -> None:
    cascade.asked = []
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    out = ["-o", str(tmp_path / "out.wav")]
    for line, word in [
        (["speak", "Hi", "-o", str(wav)], "exists already"),
        (["speak", "Hi", "-o", str(tmp_path / "out.mp3")], "out.wav"),
        (["speak", "Hi", "-o", str(tmp_path)], "is a folder"),
        (["speak", "Hi", "-o", str(tmp_path / "file" / "a.wav")], "not a folder"),
        (["speak", *out], "nothing to say"),
        (["speak", "Hi", "--best-of", "0", *out], "--best-of 0"),
        (["speak", "Hi", "--recogniser", "any/one", *out], "at least 2"),
        (["speak", "--file", str(tmp_path / "none.txt"), *out], "No such file"),
        (["speak", "--file", str(tmp_path / "file"), *out], "no line of text"),
        (["speak", "--file", __file__, "-o", str(tmp_path / "full")], "exists already"),
        (["continue", str(tmp_path / "none.wav"), *out], "no such file"),
        (["resynthesise", str(wav), "--from", "loud", *out], "codes, coarse, semantic"),
    ]:
        code, said, err = run_line(*line)
        assert (code, said, err.count("\n")) == (1, "", 1), line
        assert word in err, line
        assert cascade.asked == [], line
    assert not (tmp_path / "out.wav").exists()


def test_unknown_voices_and_keys_are_named(tmp_path: Path, cascade: Any, run_line: Run) -> None:
    out = ["-o", str(tmp_path / "deep" / "out.wav")]
    assert "ada, bob" in run_line("speak", "Hi", "--voice", "eve", *out)[2]
    assert "'seed'" in run_line("speak", "Hi", "sead=3", *out)[2]
    assert "key=value" in run_line("speak", "Hi", "loud", *out)[2]
    assert run_line("speak", " ", *out)[::2] == (1, "triptych: nothing to speak (TRIPTYCH_TRACEBACK=1 shows where)\n")
    assert list(tmp_path.iterdir()) == []


def test_force_overwrites(wav: Path, cascade: Any, run_line: Run) -> None:
    assert run_line("speak", "Hi", "-o", str(wav), "--force")[0] == 0
    assert soundfile.info(wav).duration == 2.0


def test_voices(cascade: Any, run_line: Run) -> None:
    assert run_line("voices")[1] == "ada  Good morning.\nbob  Good night.\n"
    assert json.loads(run_line("voices", "--json", "--bundle", "b")[1])[1] == {"name": "bob", "text": "Good night."}
    assert cascade.asked[0] == ("load", "b", {})
