"""The evaluation of a cascade whose faults are known: each is counted, nothing is measured twice, nothing is zero."""

import json
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.corpus.manifest import Recording, write_manifest
from triptych.evaluation import evaluate as module
from triptych.evaluation import judge
from triptych.evaluation.evaluate import chosen, claim, described, evaluate
from triptych.evaluation.judges import Judges, Memory, RememberingRecogniser
from triptych.evaluation.report import Section, Table
from triptych.evaluation.sections import measures
from triptych.evaluation.sections.codec import codec_section
from triptych.evaluation.sections.continuing import continuing_section
from triptych.evaluation.sections.converting import converting_section
from triptych.evaluation.sections.speaking import NAMED, speaking_section
from triptych.evaluation.subject import EvaluateConfig, Evaluation
from triptych.lm import native
from triptych.stages.bundle import Voice
from triptych.stages.request import REACHED_LONGEST, Settings, Utterance
from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.waveform import Waveform

RATE, FRAMES = 4000, 25
TEXT = "red cats sleep under old trees"
SAID = {
    "good": (TEXT, TEXT),
    "loops": (TEXT + " now", "red cats sleep under old trees trees trees trees now"),
    "stops": (TEXT + " again", "red cats sleep"),
    "runs on": (TEXT + " today", TEXT + " today and then some more words"),
    "is silent": (TEXT + " here", ""),
}
"""what an utterance does -> its text, and what is heard"""


class Codec:
    """Two levels a sample: the high byte, then the low one; all samples of a frame are one code each."""

    spec = TokenizerSpec("acoustic", "bytes", 256, RATE, 1, 2, "bytes-1")

    def encode(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        whole = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int64) + 32768
        return np.stack([whole // 256, whole % 256]).astype(np.uint16)

    def decode(self, codes: np.ndarray) -> Waveform:
        low = codes[1].astype(np.int64) if len(codes) > 1 else 128
        return ((codes[0].astype(np.int64) * 256 + low - 32768) / 32767).astype(np.float32)


CODEC = Codec()
HEAVY = ("swift_f0", "pystoi", "pesq")


def hum(seconds: float, level: float = 0.5) -> Waveform:
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * sum(np.sin(2 * np.pi * 110 * k * times + k) / k for k in range(1, 6)) / 2).astype(np.float32)


class Cascade:
    """Says what SAID says, an utterance of its own length each, and counts what it is asked."""

    sample_rate = RATE
    settings = Settings()
    grid = types.SimpleNamespace(semantic_rate=FRAMES)
    stages: Any = {  # noqa: RUF012
        "semantic": (types.SimpleNamespace(expected_frames=lambda letters: FRAMES * 2), None),
        "fine": (types.SimpleNamespace(config=types.SimpleNamespace(coarse_levels=1)), None),
    }

    def __init__(self) -> None:
        self.asked = 0
        self.tokenizers: Any = types.SimpleNamespace(
            text=types.SimpleNamespace(encode=lambda text: np.zeros(len(text), np.uint16)),
            acoustic=CODEC,
            waveform=WaveformSpec(RATE, loudness=None),
        )

    def voices(self) -> dict[str, str]:
        return {"ada": "hello"}

    def named_voice(self, name: str) -> Voice:
        return Voice(np.zeros(25, np.uint16), CODEC.encode(hum(1.0, 0.9), RATE), "hello")

    def _made(
        self, waveform: Waveform, text: str | None = None, notes: tuple[str, ...] = (), loop: bool = False
    ) -> Utterance:
        self.asked += 1
        frames = len(waveform) * FRAMES // RATE
        tokens = np.arange(frames) % 10 if loop else np.arange(frames)
        stages = {"semantic": 0.1, "coarse": 0.2, "fine": 0.0, "codec": 0.1}
        codes = CODEC.encode(waveform, RATE)
        return Utterance(CODEC.decode(codes), RATE, tokens.astype(np.uint16), codes, text, stages, notes)

    def speak(self, text: str, **asked: Any) -> Utterance:
        (kind,) = [kind for kind, (wanted, _) in SAID.items() if wanted == text]
        seconds = 2 + 0.1 * list(SAID).index(kind)
        waveform = hum(seconds) if kind != "is silent" else np.zeros(round(seconds * RATE), np.float32)
        return self._made(waveform, text, (REACHED_LONGEST,) if kind == "runs on" else ())

    def speak_all(self, texts: Sequence[str], **asked: Any) -> Iterator[Utterance]:
        return (self.speak(text) for text in texts)

    def continue_all(self, prompts: Sequence[Path], *, seconds: float, **asked: Any) -> Iterator[Utterance]:
        for prompt in prompts:
            given = soundfile.read(prompt, dtype="float32")[0]
            yield self._made(np.concatenate([given, hum(seconds - 1), np.zeros(RATE, np.float32)]), loop=True)

    def convert_all(self, sources: Sequence[Path], **asked: Any) -> Iterator[Utterance]:
        for source in sources:
            yield self._made(soundfile.read(source, dtype="float32")[0] * np.float32(0.9 / 0.5))


class Ear:
    """Knows utterances by their length; everything else says 'red cats'."""

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        known = {round((2 + 0.1 * place) * RATE): heard for place, (_, heard) in enumerate(SAID.values())}
        return known.get(len(waveform), "red cats")


class ManyEar(Ear):
    """Hears several at once, and counts what it is asked one by one."""

    alone = 0

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        self.alone += 1
        return super().hear(waveform, sample_rate)

    def hear_all(self, waveforms: Sequence[Waveform], sample_rate: int) -> Iterator[tuple[str, float | None]]:
        return ((super(ManyEar, self).hear(one, sample_rate), None) for one in waveforms)


class Loudness:
    def embed(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        loud = float(np.abs(waveform).max())
        return np.array([loud, 1 - loud], dtype=np.float32)


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """Its pitch, PESQ and STOI are not measured: their own tests call them."""
    for place in (measures, judge):
        monkeypatch.setattr(place, "find_spec", lambda name: None if name in HEAVY else find_spec(name))
    rows = []
    for number, (split, speaker, seconds, level) in enumerate(
        [("train", "bob", 1.6, 0.5), ("test", "bob", 4.5, 0.5), ("test", "eve", 4.7, 0.2), ("test", None, 0.6, 0.5)]
    ):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, hum(seconds, level), RATE, subtype="PCM_16")
        rows.append(Recording(str(number), path, seconds, "Red cats." if number < 3 else None, speaker, split))  # type: ignore[arg-type]
    rows.append(replace(rows[1], id="part", start=1.0, seconds=2.5, speaker="eve", custom={"origin": "human"}))
    write_manifest(tmp_path / "manifest.jsonl", rows)
    (tmp_path / "texts").write_text("\n".join(text for text, _ in SAID.values()))
    settings = EvaluateConfig(
        sentences_file=str(tmp_path / "texts"), resamples=50, prompt_seconds=1.0, continued_seconds=3.0, samples=1
    )
    judges = Judges(Ear(), Loudness(), None, {"recogniser": "ear"}, {"naturalness": "no nose"})
    cascade: Any = Cascade()
    return Evaluation(cascade, tmp_path / "manifest.jsonl", settings, judges, tmp_path / "out", lambda *said: None)


def table(section: Section, name: str) -> Table:
    (found,) = [one for one in section.tables if one.name == name]
    return found


def test_planted_failures_are_counted(subject: Evaluation) -> None:
    failed = table(speaking_section(subject), "failures").values[NAMED]
    found = {
        kind: {column for column, values in failed.items() if values[f"ada: {text}"][0] and column != "any"}
        for kind, (text, _) in SAID.items()
    }
    assert found["good"] == set() and found["loops"] == {"loop"} and found["stops"] == {"early"}
    assert found["runs on"] == {"overrun"} and {"silence", "early"} == found["is silent"]
    assert sum(value for value, _ in failed["any"].values()) == 4


def test_speaking_counts_words_and_compares_voices(subject: Evaluation) -> None:
    spoken = table(speaking_section(subject), "spoken")
    named = spoken.values[NAMED]
    assert named["words"][f"ada: {TEXT}"] == (0.0, 6.0)
    assert named["words"][f"ada: {TEXT} here"] == (1.0, 7.0)  # silence: every word is missing
    lost = 4 / 7  # 'under old trees again'
    assert named["words"][f"ada: {TEXT} again"] == (pytest.approx(lost), 7.0)
    assert len(named["voice-takes"]) == 4 and all(v == pytest.approx(1) for v, _ in named["voice-takes"].values())
    assert set(spoken.rows) == {
        NAMED, "known voices", "held-out voices", "held-out voices, human", "recordings: known voices",
        "recordings: held-out voices", "recordings: unnamed voices", "recordings: held-out voices, human",
        "recordings: two speakers",
    }  # fmt: skip


def test_what_is_not_measured_has_no_number(subject: Evaluation) -> None:
    spoken = table(speaking_section(subject), "spoken")
    natural = [row["natural"] for row in spoken.rows.values() if "natural" in row]
    assert natural and all(figure.estimate is None and figure.why == "no nose" for figure in natural)
    pitch = table(speaking_section(subject), "manner").rows[NAMED]["pitch"]
    assert pitch.estimate is None and "pip install 'triptych[eval]'" in pitch.why
    unnamed = spoken.rows["recordings: unnamed voices"]
    assert unnamed["words"].estimate is None and unnamed["words"].why == "no text"
    assert unnamed["voice"].estimate is None and unnamed["voice"].why == "no other recording of the speaker"


def test_without_judges_there_are_reasons_and_what_needs_none(subject: Evaluation) -> None:
    deaf = replace(subject, judges=Judges(absent={k: f"no {k}" for k in ("recogniser", "speaker", "naturalness")}))
    section = speaking_section(deaf)
    assert all(figure.estimate is None for row in table(section, "spoken").rows.values() for figure in row.values())
    assert table(section, "spoken").rows[NAMED]["words"].why == "no recogniser"
    silent = table(section, "failures").rows[NAMED]["silence"].estimate
    assert silent is not None and silent.mean == pytest.approx(1 / 5)
    for other in (codec_section, continuing_section, converting_section):
        assert other(deaf).tables


def test_continuing(subject: Evaluation) -> None:
    section = continuing_section(subject)
    row = table(section, "continued").rows["continued: known voices"]
    figures = {key: figure.estimate.mean for key, figure in row.items() if figure.estimate}
    assert figures["length"] == pytest.approx(2 / 3, abs=0.02) and figures["silent"] == pytest.approx(1 / 3, abs=0.02)
    assert figures["voice"] == pytest.approx(1.0) and figures["loop"] == 1.0 and figures["copied"] > 0.9
    assert "recordings: known voices" in table(section, "drift").rows
    words = table(section, "words").rows["continued: known voices"]
    assert words["heard-pace"].estimate is not None and words["heard-sense"].why == "language_model=none"
    clip = soundfile.info(subject.folder / section.samples[0].audio)
    assert clip.duration == pytest.approx(4.0, abs=0.1)


def test_converting_is_nearer_the_target(subject: Evaluation) -> None:
    converted = table(converting_section(subject), "converted")
    row = converted.rows["from known voices"]
    assert row["voice-nearer"].estimate is not None and row["voice-nearer"].estimate.mean == 1.0
    assert row["words"].estimate is not None and row["words"].estimate.mean == 0.0
    assert converted.rows["recordings: unnamed voices"]["words"].estimate is not None  # what is heard is its text


def test_the_codec_level_by_level(subject: Evaluation) -> None:
    rows = table(codec_section(replace(subject, settings=replace(subject.settings, clips=2))), "levels").rows
    assert list(rows) == ["recording", "1 level", "2 levels"]
    one, two = (rows[label]["si_sdr"].estimate for label in ("1 level", "2 levels"))
    assert one is not None and two is not None and one.mean < two.mean
    assert rows["2 levels"]["characters"].estimate is not None and "si_sdr" not in rows["recording"]


def test_groups_and_parts(subject: Evaluation) -> None:
    assert [subject.group(clip) for clip in subject.clips] == [
        "known voices", "held-out voices", "unnamed voices", "held-out voices, human",
    ]  # fmt: skip
    part = subject.clips[-1]
    assert part.id == "part" and subject.file(part) != part.path
    assert soundfile.info(subject.file(part)).duration == pytest.approx(2.5, abs=0.01)
    assert subject.file(subject.clips[0]) == subject.clips[0].path


@pytest.mark.parametrize("section", [speaking_section, continuing_section, converting_section])
def test_nothing_is_made_twice_and_what_was_made_is_the_same(subject: Evaluation, section: Any) -> None:
    """Of what was made in part, too: only the rest is asked for."""
    first = section(subject)
    asked = subject.cascade.asked  # type: ignore[attr-defined]
    again = section(replace(subject, progress=lambda *said: None))
    assert subject.cascade.asked == asked > 1 and again == first  # type: ignore[attr-defined]
    _, *lost = sorted((subject.cache / "made").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in lost:
        path.unlink()
    assert section(subject) == first and subject.cascade.asked == asked + len(lost)  # type: ignore[attr-defined]


@pytest.mark.parametrize("section", [codec_section, speaking_section, continuing_section, converting_section])
def test_what_is_heard_side_by_side_is_reported_alike(subject: Evaluation, section: Any) -> None:
    def measured(ear: Ear) -> Section:
        heard = RememberingRecogniser(ear, "ear", Memory(subject.folder / type(ear).__name__))
        found: Section = section(replace(subject, judges=replace(subject.judges, recogniser=heard)))
        (subject.cache / "codec.jsonl").unlink(missing_ok=True)
        return found

    many = ManyEar()
    assert measured(Ear()) == measured(many) and not many.alone


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
    settings = replace(subject.settings, codec_levels=(1, 2), sections=("codec",))
    claimed = [described(replace(subject, settings=settings), tmp_path, "a") for _ in range(2)]
    for said in claimed:
        claim(tmp_path / "out", said)
    assert str(tmp_path) not in json.dumps(claimed[0]) and claimed[0]["settings"]["sentences_file"] == "texts"


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
    together = native.library(allow_build=True) is not None  # other tiers may part at near ties
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
