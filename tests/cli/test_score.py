"""score: what is printed of a list, a line a recording and a line for all; or JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

Run = Callable[..., tuple[int, str, str]]


class Judge:
    """Hears the same in everything, and finds it as natural as it is loud."""

    def hear(self, waveform: Any, sample_rate: int) -> str:
        return "two"

    def rate(self, waveform: Any, sample_rate: int) -> float:
        return 1.0 + float(waveform.max())


def test_score_says_words_and_naturalness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_line: Run) -> None:
    monkeypatch.setattr("triptych.evaluation.naturalness.load_naturalness", lambda name: Judge())
    monkeypatch.setattr("triptych.evaluation.recogniser.load_recogniser", lambda name: Judge())
    soundfile.write(tmp_path / "in.wav", [0.0, 0.1] * 4000, 8000)
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"audio": "in.wav", "text": "Two."}) + "\n")
    code, said, _ = run_line("score", str(listed), "--naturalness", "dnsmos")
    first, last = said.splitlines()
    assert (code, last) == (0, "word error 0.000: 0 of 1 words, 1 recordings; dnsmos 1.10")
    assert first.startswith("0/1  dnsmos 1.10  ")
    _, said, _ = run_line("score", str(listed), "--naturalness", "dnsmos", "--json")
    found = json.loads(said)
    assert found["naturalness"] == found["rows"][0]["naturalness"] == pytest.approx(1.1, abs=1e-3)
