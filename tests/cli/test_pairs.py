"""make-pairs: each pair in each voice, one seed for both texts, a folder that evaluations read; early refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.evaluation.pairs import read_pairs

Run = Callable[..., tuple[int, str, str]]
LINES = (
    {"test": "lexical", "right": "brick", "wrong": "blick", "frequency": 3},
    {"test": "story", "start": "It rained.", "right": "We got wet.", "wrong": "It was dry."},
)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_pairs_are_spoken_in_all_voices(tmp_path: Path, texts: Path, cascade: Any, run_line: Run) -> None:
    out = tmp_path / "pairs"
    code, said, _ = run_line("make-pairs", str(texts), "-o", str(out), "--seed", "7")
    assert code == 0
    assert said.splitlines() == [str(out / "lexical" / "dev" / "gold.csv"), str(out / "story" / "dev" / "gold.csv")]
    asked = [(text, how["voice"], how["settings"].seed) for job, text, how in cascade.asked if job == "speak"]
    assert asked[:4] == [("brick", "ada", 7), ("blick", "ada", 7), ("brick", "bob", 7), ("blick", "bob", 7)]
    assert [(test.name, len(test.pairs)) for test in read_pairs(out)] == [("sWUGGY dev", 2), ("StoryCloze dev", 2)]
    assert {pair.voice for pair in read_pairs(out)[0].pairs} == {"ada", "bob"}


def test_wavs_that_lie_there_are_not_made_again(tmp_path: Path, texts: Path, cascade: Any, run_line: Run) -> None:
    out = tmp_path / "pairs"
    line = ("make-pairs", str(texts), "-o", str(out), "--voice", "ada")
    assert run_line(*line)[0] == 0
    for gold in out.rglob("gold.csv"):
        gold.unlink()
    gone = next(out.rglob("1_*.wav"))
    gone.unlink()
    assert run_line(*line)[0] == 0 and gone.exists()
    assert len([job for job, *_ in cascade.asked if job == "speak"]) == 1
    code, _, said = run_line(*line)
    assert code == 1 and "gold.csv exists already" in said


def test_a_text_that_cannot_be_spoken_is_known_first(tmp_path: Path, texts: Path, cascade: Any, run_line: Run) -> None:
    with texts.open("a") as stream:
        stream.write('{"test": "lexical", "right": "snow", "wrong": "☃"}\n')
    code, _, said = run_line("make-pairs", str(texts), "-o", str(tmp_path / "pairs"))
    assert code == 1 and "pair 3" in said and "cannot speak ☃" in said
    assert not [job for job, *_ in cascade.asked if job == "speak"]
