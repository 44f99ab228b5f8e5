"""info and verify tell what kind of folder it is; voices of a bundle come from a list."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from triptych.cli.bundles import kind_of, outline, over_bundle, read_voices
from triptych.stages.bundle import STARTER, find_bundle
from triptych.stages.three import read_stage
from triptych.tokenizers.trio import Tokenizers

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"stage": "coarse", "step": 2, "config": {"model": {"width": 8}}}))
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, folder / "model.safetensors")
    (tmp_path / "run" / "latest").write_text("step-00000002")
    return folder


def test_info_of_a_run(checkpoint: Path, run_line: Run) -> None:
    run = checkpoint.parents[1]
    code, out, _ = run_line("info", str(run), "--json")
    record = json.loads(out)
    assert code == 0
    assert (record["holds"], record["stage"], record["step"], record["parameters"]) == ("checkpoint", "coarse", 2, 17)
    assert "width  8" in run_line("info", str(checkpoint))[1]
    assert "whole" in run_line("verify", str(run))[1]


def test_a_cut_file_is_not_whole(checkpoint: Path, run_line: Run) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    code, out, err = run_line("verify", str(checkpoint))
    assert (code, out) == (1, "")
    assert "model.safetensors is not whole" in err


def test_kinds(tmp_path: Path) -> None:
    for name, kind in [("plan.json", "shards"), ("stage.json", "checkpoint"), ("tokenizer.json", "tokenizer")]:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / name).write_text("{}")
        assert kind_of(tmp_path / kind) == kind
    assert kind_of(tmp_path) == "bundle"
    with pytest.raises(ValueError, match="no such folder"):
        kind_of(tmp_path / "none")


def test_outline_is_short() -> None:
    lines = outline({"a": {"b": 1, "c": {}}, "d": list(range(1000)), "e": "[/b]"})
    assert lines[:3] == ["a", "  b  1", "  c  {}"]
    assert len(lines[3]) < 120 and lines[4] == "e  [/b]"


def test_voices_from_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    rows = tmp_path / "voices.jsonl"
    rows.write_text('{"name": "ada", "audio": "a.wav", "text": "Hi."}\n\n{"name": "bob", "audio": "a.wav"}\n')
    assert read_voices(rows) == {"ada": (tmp_path / "a.wav", "Hi."), "bob": (tmp_path / "a.wav", None)}
    for line in ("[]", "{}", "x", '{"name": "eve", "audio": "none.wav"}', '{"name": "ada", "audio": "a.wav"}'):
        rows.write_text('{"name": "ada", "audio": "a.wav"}\n' + line)
        with pytest.raises(ValueError, match="line 2"):
            read_voices(rows)


def test_a_checkpoint_whose_weights_are_no_numbers_is_not_whole(checkpoint: Path, run_line: Run) -> None:
    save_file({"a": np.full((3, 4), np.nan, np.float32)}, checkpoint / "model.safetensors")
    code, _, err = run_line("verify", str(checkpoint))
    assert code == 1 and "a is not all numbers" in err


@pytest.mark.parametrize(("part", "lost"), [("semantic", "centroids.safetensors"), ("acoustic", "config.json")])
def test_a_tokenizer_without_its_weights_is_not_whole(part: str, lost: str, tmp_path: Path, run_line: Run) -> None:
    copytree(find_bundle(STARTER) / "tokenizers" / part, tmp_path / part)
    assert run_line("verify", str(tmp_path / part))[0] == 0
    (tmp_path / part / lost).unlink()
    code, out, err = run_line("verify", str(tmp_path / part))
    assert (code, out) == (1, "") and err.count("\n") == 1


@pytest.mark.parametrize("other", ["semantic", "acoustic", "text"])
def test_voices_that_other_tokenizers_heard_are_left_out(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    starter = find_bundle(STARTER)
    specs = vars(read_stage(starter / "stages" / "coarse").specs)
    new = specs | {other: replace(specs[other] or specs["semantic"], fingerprint="another")}
    monkeypatch.setattr(Tokenizers, "load", lambda folder: SimpleNamespace(specs=new))
    parts: dict[str, Any] = {name: None for name in ("semantic", "coarse", "fine")} | {"voices": {}, "settings": {}}
    kept = over_bundle(starter, parts | {"tokenizers": tmp_path})["more_voices"]
    assert "af_heart" in over_bundle(starter, parts | {"tokenizers": None})["more_voices"]
    assert ("af_heart" in kept) == (other == "text")  # a voice's text is text
    assert ("other tokenizers heard them: af_heart" in capfd.readouterr().err) == (other != "text")


def test_voices_are_named_in_texts(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    for row in ('{"name": 225, "audio": "a.wav"}', '{"name": "ada", "audio": "a.wav", "text": 5}'):
        (tmp_path / "voices.jsonl").write_text(row)
        with pytest.raises(ValueError, match="line 1: give"):
            read_voices(tmp_path / "voices.jsonl")


def test_nothing_is_measured_without_data(tmp_path: Path, run_line: Run) -> None:
    code, _, err = run_line("evaluate", "no-such-bundle", "-o", str(tmp_path / "report"), "clips=500")
    assert code != 0 and "--data MANIFEST" in err
