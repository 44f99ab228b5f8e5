"""An evaluation as a whole: broken off and taken up, refused where it is another one, started by command."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.evaluation import evaluate as module
from triptych.evaluation.evaluate import check_given, chosen, claim, described, evaluate
from triptych.evaluation.report import Section
from triptych.evaluation.sections.speaking import sentences
from triptych.evaluation.subject import EvaluateConfig, Evaluation
from triptych.lm import native
from triptych.stages.utterance import Utterance


@contextmanager
def no_bar(name: str) -> Iterator[Any]:
    yield lambda done, total, note: None


def test_a_killed_evaluation_goes_on_and_comes_to_the_same(
    subject: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    killed = [True, False]

    def section(name: str) -> Any:
        def measure(inner: Evaluation) -> Section:
            if name == "b" and killed.pop(0):
                raise KeyboardInterrupt
            measured.append(name)
            return Section(name, name.upper(), "about")

        return measure

    monkeypatch.setattr(module, "SECTIONS", {name: section(name) for name in "abc"})
    with pytest.raises(KeyboardInterrupt):
        evaluate(subject, ["a", "b", "c"], {}, no_bar)
    report = evaluate(subject, ["a", "b", "c"], {}, no_bar)
    assert measured == ["a", "b", "c"] and [s.name for s in report.sections] == ["a", "b", "c"]
    assert evaluate(subject, ["c"], {}, no_bar) == report and len(measured) == 3


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "triptych": "1",
        "bundle": {"name": "a"},
        "manifest": {},
        "judges": {},
        "settings": {"seed": 0},
    }
    claim(tmp_path / "out", said)
    claim(tmp_path / "out", said | {"settings": {"seed": 0, "samples": 9}})
    with pytest.raises(ValueError, match="another seed: name another output"):
        claim(tmp_path / "out", said | {"settings": {"seed": 1}})
    with pytest.raises(ValueError, match="another bundle, seed"):
        claim(tmp_path / "out", said | {"bundle": {"name": "b"}, "settings": {"seed": 1}})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(ValueError, match="holds no evaluation"):
        claim(tmp_path / "other", said)


def test_what_is_said_of_an_evaluation_is_itself_after_a_round_trip(subject: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text('{"files": {"a": "1"}, "settings": {}}')
    for name in ("0_a.wav", "1_b.wav"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_text(name)
    settings = replace(subject.settings, codec_levels=(1, 2), sections=("codec",), pairs=(str(tmp_path / "tests"),))
    claimed = [described(replace(subject, settings=settings), tmp_path, "a") for _ in range(2)]
    for said in claimed:
        claim(tmp_path / "out", said)
    assert str(tmp_path) not in json.dumps(claimed[0]) and claimed[0]["settings"]["sentences_file"].startswith(
        "texts ("
    )
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "tests", tmp_path / "elsewhere" / "tests")
    moved = replace(settings, pairs=(str(tmp_path / "elsewhere" / "tests"),))
    claim(tmp_path / "out", described(replace(subject, settings=moved), tmp_path, "a"))
    (tmp_path / "elsewhere" / "tests" / "1_b.wav").write_text("another sound")
    with pytest.raises(ValueError, match="another pairs"):
        claim(tmp_path / "out", described(replace(subject, settings=moved), tmp_path, "a"))


def test_sections_are_chosen_by_name() -> None:
    assert chosen(("cost", "codec")) == ("codec", "cost")
    assert "speaking" in chosen(())
    with pytest.raises(ValueError, match="no section 'x': choose of codec"):
        chosen(("x",))


@pytest.mark.slow
def test_the_command_makes_the_starters_report(subject: Evaluation, tmp_path: Path) -> None:
    """The whole command on the starter, without judges; then again, against itself."""
    from triptych.cli.main import main

    line = [
        "evaluate",
        "starter",
        "--data",
        str(subject.manifest),
        "-o",
        str(tmp_path / "report"),
        "clips=2",
        "sentences=2",
    ]
    line += ["recogniser=none", "speaker=none", "naturalness=none", "sections=codec,speaking,converting,cost"]
    for again in ([], ["--against", str(tmp_path / "report")]):
        with pytest.raises(SystemExit) as stopped:
            main([*line, f"sentences_file={tmp_path / 'texts'}", "codec_levels=1,3", *again])
        assert not stopped.value.code
    record = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [section["name"] for section in record["sections"]] == ["codec", "speaking", "converting", "cost"]
    assert {d["verdict"] for d in record["against"]["differences"]} <= {"within chance", "too few to say"}
    assert "<audio" in (tmp_path / "report" / "report.html").read_text()


def evaluate_until(done: Callable[[Path], bool], line: Sequence[str], folder: Path) -> bool:
    """Starts the command in a process of its own and kills it, without a warning, once `done`; whether it was."""
    command = [sys.executable, "-m", "triptych", "evaluate", *line, "-o", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if done(folder):
                process.kill()
                process.wait()
                return True
            time.sleep(0.005)
    assert process.returncode == 0
    return False


def made(folder: Path) -> dict[Path, int]:
    """Files of what the cascade made, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "cache" / "made").glob("[!.]*.npz")}


@pytest.mark.slow
def test_an_evaluation_that_is_killed_anywhere_comes_to_the_same_report(subject: Evaluation, tmp_path: Path) -> None:
    """Killed before the first utterance, among them, in a section's last one and between two sections."""
    together = native.library() is not None  # other tiers may part at near ties
    line = ["starter", "--data", str(subject.manifest), f"sentences_file={tmp_path / 'texts'}", "resamples=50"]
    line += ["recogniser=none", "speaker=none", "naturalness=none", "clips=3", "sentences=2", "prompt_seconds=1"]
    line += ["continued_seconds=1", "samples=1", "sections=speaking,continuing,converting,blame"]
    line += [f"slots={2 if together else 1}"]
    assert not evaluate_until(lambda folder: False, line, tmp_path / "whole")
    whole = made(tmp_path / "whole")
    moments: list[Callable[[Path], bool]] = [
        lambda folder: (folder / "evaluation.json").exists(),
        *(lambda folder, count=count: len(made(folder)) >= count for count in (1, len(whole) // 2, len(whole) - 1)),
        lambda folder: (folder / "sections" / "blame.json").exists(),
    ]
    kept: dict[Path, int] = {}
    for moment in moments:
        assert evaluate_until(moment, line, tmp_path / "killed") or moment is moments[-1]  # which may come too late
        assert kept.items() <= made(tmp_path / "killed").items()
        kept = made(tmp_path / "killed")
    assert not evaluate_until(lambda folder: False, line, tmp_path / "killed")
    assert made(tmp_path / "killed") == kept and {path.name for path in kept} == {path.name for path in whole}
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")]
    assert reports[0] == reports[1]
    assert [section["name"] for section in reports[0]["sections"]] == ["speaking", "continuing", "converting", "blame"]
    for one, other in ((np.load(path), np.load(tmp_path / "killed" / "cache" / "made" / path.name)) for path in whole):
        assert all(np.array_equal(one[key], other[key]) for key in ("semantic", "codes"))


def test_what_cannot_be_spoken_is_known_before_anything_is_measured(subject: Evaluation, tmp_path: Path) -> None:
    class Deaf:
        def encode(self, text: str) -> list[int]:
            if "7" in text:
                raise ValueError("cannot speak '7'")
            return [0]

    subject.cascade.tokenizers.text = Deaf()  # type: ignore[misc]
    for lines, why in ((None, "no such file"), ("", "has no line"), ("Red.\n7 cats.", "cannot speak '7'")):
        path = tmp_path / f"lines{len(why)}"
        if lines is not None:
            path.write_text(lines)
        asked = replace(subject, settings=replace(subject.settings, sentences_file=str(path)))
        with pytest.raises(ValueError, match=why):
            check_given(asked, ["speaking"])
        check_given(asked, ["codec"])
    clips = tuple(replace(clip, text=text) for clip, text in zip(subject.clips, ("Red.", "7.", "Blue."), strict=False))
    asked = replace(subject, settings=replace(subject.settings, sentences_file=""))
    vars(asked)["clips"] = clips
    assert sentences(asked) == ["Red.", "Blue."][: len(clips)]


@pytest.mark.parametrize(
    ("section", "asked", "why"),
    [
        ("codec", {"codec_levels": (1, 3)}, r"codec_levels=\[1, 3\]: this codec has 1 to 2 levels"),
        ("continuing", {"continued_seconds": 61.0}, r"continued_seconds=61: give 0\.04 to 60"),
        ("continuing", {"continued_seconds": 0.01}, r"continued_seconds=0\.01: give 0\.04 to 60"),
        ("continuing", {"language_model": "/nowhere"}, "language_model /nowhere: cannot be loaded"),
    ],
)
def test_what_a_section_cannot_do_is_known_before_anything_is_measured(
    subject: Evaluation, section: str, asked: dict[str, Any], why: str
) -> None:
    changed = replace(subject, settings=replace(subject.settings, **asked))
    with pytest.raises(ValueError, match=why):
        check_given(changed, [section])
    check_given(changed, ["converting"])


@pytest.mark.parametrize("key", ["takes", "clips", "slots", "continued_seconds"])
def test_nothing_at_all_cannot_be_asked_for(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        EvaluateConfig(**{key: 0})


def test_what_is_made_once_sounds_the_same_from_disk(subject: Evaluation) -> None:
    """Codes alone do not say it, where the codec was given a shift of its latent beside them."""
    codes = np.random.default_rng(0).integers(0, 256, (2, 50)).astype(np.uint16)
    tokens, decode = np.zeros(25, np.uint16), subject.cascade.tokenizers.acoustic.decode
    for name, shift in (("plain", None), ("shifted", np.full((1, 50), 0.25, np.float32))):
        made = Utterance(
            decode(codes, shift), subject.cascade.sample_rate, tokens, codes, "text", {"coarse": 0.5}, ("note",), shift
        )
        first, again = (subject.make(name, lambda made=made: made) for _ in range(2))
        assert first is made and again is not made and again.notes == made.notes
        assert np.array_equal(again.waveform, made.waveform)
        assert np.array_equal(decode(again.codes, again.shift), made.waveform)
