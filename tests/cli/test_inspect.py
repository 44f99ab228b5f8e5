"""`inspect codec`: what is written, what is shown, and that a dash stands where nothing was measured."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.cli.levels_table import BEGIN, END, csv_text, markdown
from triptych.evaluation import codec as inspection
from triptych.evaluation.codec_report import Example, Level, Report, Row
from triptych.evaluation.estimate import Estimate

Run = Callable[..., tuple[int, str, str]]
RATE = 8000


def number(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.25, mean + 0.25, 4)


def level(place: int) -> Level:
    above = number(6.5) if place else None
    return Level(place, 8.0, 0.75, 7.5, number(7.25), above, number(6.25), number(6.0 - place))


REPORT = Report(
    codec={"name": "bytes", "levels": 2, "size": 256, "sample_rate": RATE, "hop": 160},
    config={"split": "test", "learn_split": "train", "recogniser": "/some/where/ear-base"},
    clips=("a", "b"),
    frames={"learned": 100, "counted": 50},
    rows=(
        Row("recording", "recording", None, None, None, {"words": number(0.125)}),
        Row("1 level", "codec", 1, 0.4, 0.3, {"words": number(0.5), "si_sdr": number(0.0)}),
        Row("2 levels", "codec", 2, 0.8, 0.55, {"words": Estimate(0.25, None, None, 1), "si_sdr": number(7.5)}),
        Row("opus 6", "opus", None, 6.1, None, {"si_sdr": number(3.0)}),
    ),
    levels=(level(0), level(1)),
    absent={"pesq": "no package pesq: pip install 'triptych[pesq]'", "opus": "apt install opus-tools"},
    skipped={"words": {"no text": 3}},
    other_voices=0.5,
)


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An inspection that is done at once; gives what it was asked."""
    asked: list[Any] = []
    tone = np.sin(np.arange(RATE) * 0.3).astype(np.float32) * 0.5
    example = Example("a", RATE, {row.name: tone for row in REPORT.rows})

    def inspect(codec: Any, manifest: Path, spec: Any, config: Any, progress: Any) -> tuple[Report, Example]:
        asked.append(config)
        progress(1, 1, "judged")
        return REPORT, example

    monkeypatch.setattr(inspection, "load_codec", lambda source: (None, None))
    monkeypatch.setattr(inspection, "inspect_codec", inspect)
    return asked


def test_the_folder_the_tables_and_the_page(tmp_path: Path, inspected: list[Any], run_line: Run) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    line = ("inspect", "codec", "codec", "m.jsonl", "-o", str(out), "--markdown", str(page), "clips=7", "levels=[1,2]")
    code, said, err = run_line(*line)
    assert code == 0, err
    assert (inspected[0].clips, inspected[0].levels) == (7, (1, 2))
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    wavs = {f"example/{name}.wav" for name in ("recording", "1-level", "2-levels", "opus-6")}
    assert names == {"report.json", "table.csv", "table.md", "levels.png"} | wavs
    assert (out / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "report.json").read_text())["rows"][2]["scores"]["si_sdr"]["mean"] == 7.5
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert markdown(REPORT) in text
    assert "2 levels" in said and "7.25–7.75" not in said and "7.2–7.8" in said
    assert "PESQ: not measured" in err and "Opus: not measured: apt install opus-tools" in err
    assert "PESQ" not in said

    assert run_line(*line)[0] == 1  # the folder is full
    code, said, _ = run_line("inspect", "codec", "codec", "m.jsonl", "-o", str(tmp_path / "new"), "--json")
    assert code == 0 and len(json.loads(said)["levels"]) == 2


@pytest.mark.parametrize("text", [None, "nothing", f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_marks_is_refused_first(
    tmp_path: Path, inspected: list[Any], run_line: Run, text: str | None
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    code, _, err = run_line("inspect", "codec", "c", "m", "-o", str(tmp_path / "out"), "--markdown", str(page))
    assert code == 1 and str(page) in err and len(err.splitlines()) == 1 and not inspected


def test_an_unknown_key_names_the_nearest(tmp_path: Path, inspected: list[Any], run_line: Run) -> None:
    code, _, err = run_line("inspect", "codec", "c", "m", "-o", str(tmp_path / "out"), "clip=3")
    assert code == 1 and "did you mean 'clips'?" in err


def test_markdown_has_dashes_for_what_is_missing() -> None:
    lines = markdown(REPORT).splitlines()
    rows = {line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")] for line in lines}
    assert rows["kept"] == ["kept", "kbit/s", "ideal kbit/s", "SI-SDR dB", "word error"]
    assert rows["recording"][1:] == ["–", "–", "–", "0.125<br>-0.125 to 0.375"]
    assert rows["1 level"][3] == "0.0<br>-0.2 to 0.2"  # a zero that was measured is one
    assert rows["2 levels"][4] == "0.250"  # one clip: no interval
    assert rows["opus 6"][2] == rows["opus 6"][4] == "–"
    assert rows["0"][5] == "–" and rows["1"][-1] == "38%"
    assert "- word error: no number for 3 waveforms (no text), which are not counted" in lines


def test_csv_leaves_what_is_missing_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(REPORT))))
    assert [row["kept"] for row in rows] == [row.name for row in REPORT.rows]
    assert rows[0]["si_sdr_mean"] == rows[0]["kbps"] == "" and rows[0]["words_clips"] == "4"
    assert rows[1]["si_sdr_mean"] == "0.0" and rows[2]["words_low"] == ""
