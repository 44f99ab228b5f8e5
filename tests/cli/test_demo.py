"""The demo writes four wavs and one picture, and says where they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.cli.demo import FILES
from triptych.cli.picture import colour, power_db

Run = Callable[..., tuple[int, str, str]]


def test_demo(tmp_path: Path, cascade: Any, run_line: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    code, said, _ = run_line("demo", "-o", str(out), "--text", "It costs $4.")
    assert code == 0
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert all(str(out / name) in said for name in FILES if name != "prompt.wav")
    assert [job for job, *_ in cascade.asked] == ["load", "speak", "continue", "convert"]
    assert cascade.asked[1][2]["voice"] != cascade.asked[3][2]["voice"]
    assert soundfile.info(out / "prompt.wav").duration <= 3.0

    assert run_line("demo", "-o", str(out))[0] == 1
    monkeypatch.setattr(cascade, "names", {})
    code, said, err = run_line("demo", "-o", str(out), "--force", "--json")
    assert code == 0 and "not converted" in err
    assert len(json.loads(said)["utterances"]) == 2


def test_colours_tell_neighbours_apart() -> None:
    colours = colour(np.arange(1024))
    assert (colours >= 0).all() and (colours < 1).all()
    assert np.abs(np.diff(colours)).min() > 0.3


def test_spectrogram_finds_a_tone() -> None:
    rate, hertz = 8000, 1000
    power = power_db(np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32))
    middle = power[:, power.shape[1] // 2]
    assert middle.argmax() == round(hertz / rate * 512)
    assert power.max() <= 0.1
