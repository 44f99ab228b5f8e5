"""The inspection of a codec whose levels are known: 16-bit sound, its high and its low bytes."""

import json
import math
import sys
import types
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.corpus.manifest import Recording, write_manifest
from triptych.evaluation import codec as inspection
from triptych.evaluation import judge
from triptych.evaluation.codec import CodecInspectConfig, inspect_codec, load_codec
from triptych.evaluation.codec_report import Report
from triptych.evaluation.sound import PERFECT_DB
from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.waveform import Waveform

RATE = 4000
SPEC = WaveformSpec(RATE, loudness=None)


class Bytes:
    """Two levels a sample: the high byte, then the low one, so that both together are exact."""

    spec = TokenizerSpec("acoustic", "bytes", 256, RATE, 1, 2, "bytes-1")

    def encode(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        whole = np.round(waveform * 32767).astype(np.int64) + 32768
        return np.stack([whole // 256, whole % 256]).astype(np.uint16)

    def decode(self, codes: np.ndarray) -> Waveform:
        low = codes[1].astype(np.int64) if len(codes) > 1 else 128
        return ((codes[0].astype(np.int64) * 256 + low - 32768) / 32767).astype(np.float32)


class Ear:
    """Hears the same words in everything, and counts how often it listens."""

    heard = 0

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        self.heard += 1
        return "red cats sleep"


class Loudness:
    def embed(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        loud = float(np.abs(waveform).max())
        return np.array([loud, 1 - loud], dtype=np.float32)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number, (split, text, level) in enumerate(
        [("test", "Red cats jump.", 0.9), ("test", None, 0.3), ("test", "Red cats sleep!", 0.5), ("train", "no", 0.5)]
    ):
        times = np.arange(round((0.15 + 0.05 * number) * RATE)) / RATE
        wave = level * sum(np.sin(2 * np.pi * 110 * k * times + k) / k for k in range(1, 6)) / 2
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, wave, RATE, subtype="PCM_16")
        rows.append(Recording(str(number), path, len(wave) / RATE, text, f"speaker {number}", split))  # type: ignore[arg-type]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    return tmp_path / "manifest.jsonl"


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    one = Ear()
    monkeypatch.setattr(inspection, "load_recogniser", lambda name: one)
    monkeypatch.setattr(inspection, "load_speaker", Loudness)
    without(monkeypatch, "pesq", "speechmos", "pystoi", "swift_f0")  # their own tests call them
    return one


def without(monkeypatch: pytest.MonkeyPatch, *gone: str) -> None:
    monkeypatch.setattr(judge, "find_spec", lambda name: None if name in gone else find_spec(name))


def inspect(manifest: Path, **settings: object) -> Report:
    config = CodecInspectConfig(**({"mel_window": 256, "resamples": 50, "opus": False} | settings))  # type: ignore[arg-type]
    return inspect_codec(Bytes(), manifest, SPEC, config, lambda done, total, note: None)[0]  # type: ignore[arg-type]


def test_rows(manifest: Path, ear: Ear) -> None:
    report = inspect(manifest)
    recording, one, two = report.rows
    assert [row.name for row in report.rows] == ["recording", "1 level", "2 levels"]
    assert (one.kbps, two.kbps, recording.kbps) == (8 * RATE / 1000, 16 * RATE / 1000, None)
    assert one.ideal_kbps is not None and one.ideal_kbps < (two.ideal_kbps or 0) < two.kbps
    assert two.scores["si_sdr"].mean == PERFECT_DB and 20 < one.scores["si_sdr"].mean < 60
    assert two.scores["mel"].mean == 0 < one.scores["mel"].mean
    assert two.scores["voice"].mean == pytest.approx(1) and two.scores["voice"].clips == 3
    assert set(recording.scores) == {"words"}


def test_word_error_counts_words_and_texts(manifest: Path, ear: Ear) -> None:
    report = inspect(manifest)
    for row in report.rows:
        assert row.scores["words"].mean == pytest.approx(1 / 6) and row.scores["words"].clips == 2
    assert report.skipped["words"] == {"no text": 3}  # one clip, three ways


def test_what_is_absent_says_so_and_is_no_zero(manifest: Path, ear: Ear) -> None:
    report = inspect(manifest, recogniser="none", speaker="none")
    assert set(report.absent) == {"words", "voice", "pesq", "stoi", "estoi", "pitch", "voicing", "dnsmos"}
    assert report.absent["words"] == "recogniser=none" and "pip install" in report.absent["stoi"]
    assert all(set(row.scores) <= {"si_sdr", "mel"} for row in report.rows)
    assert ear.heard == 0 and report.other_voices is None


def test_what_needs_no_reference_judges_the_recordings_too(
    manifest: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(waveform: Waveform, sample_rate: int) -> dict[str, float]:
        assert sample_rate == judge.RATE and np.abs(waveform).max() <= 1
        return {"ovrl_mos": 3.5}

    fake: Any = types.ModuleType("speechmos")
    fake.dnsmos = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "speechmos", fake)
    monkeypatch.setattr(judge, "find_spec", lambda name: name not in ("pesq", "pystoi", "swift_f0") or None)
    for row in inspect(manifest).rows:
        assert row.scores["dnsmos"].mean == 3.5 and row.scores["dnsmos"].clips == 3


def test_no_speaker_encoder(manifest: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise ValueError("there is none")

    monkeypatch.setattr(inspection, "load_speaker", none)
    report = inspect(manifest)
    assert "resemblyzer" in report.absent["voice"] and "voice" not in report.rows[1].scores


def test_no_opus(manifest: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    report = inspect(manifest, opus=True)
    assert "apt install opus-tools" in report.absent["opus"] and len(report.rows) == 3


def test_opus_stands_beside(manifest: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection.opus, "absence", lambda: None)
    monkeypatch.setattr(inspection.opus, "through_opus", lambda wave, rate, kbps: (wave * np.float32(0.5), kbps + 1))
    *_, last = inspect(manifest, opus=True, opus_kbps=[6, 12]).rows
    assert (last.name, last.kind, last.kbps, last.levels) == ("opus 12", "opus", 13, None)
    assert last.scores["si_sdr"].mean == pytest.approx(PERFECT_DB)


def test_levels(manifest: Path, ear: Ear) -> None:
    report = inspect(manifest)
    high, low = report.levels
    assert high.above is None and low.above is not None
    assert high.capacity == 8 and high.ideal.mean < high.alone.mean
    for level in report.levels:
        assert 0 < level.usage <= 1 and 0 < level.entropy <= 8
    counted = sum(round((0.15 + 0.05 * number) * RATE) for number in range(3))
    assert report.frames == {"learned": round(0.3 * RATE), "counted": counted}
    assert inspect(manifest, learn_clips=0).frames["learned"] == 0
    assert inspect(manifest, learn_split="dev").frames["learned"] == 0


def test_other_voices_is_the_mean_of_pairs(manifest: Path, ear: Ear) -> None:
    levels = [soundfile.read(manifest.parent / f"{n}.wav")[0] for n in range(3)]
    made = [Loudness().embed(wave.astype(np.float32), RATE) for wave in levels]
    made = [one / np.linalg.norm(one) for one in made]
    wanted = (made[0] @ made[1] + made[0] @ made[2] + made[1] @ made[2]) / 3
    assert inspect(manifest).other_voices == pytest.approx(wanted, abs=1e-3)


def test_the_cache_listens_once(manifest: Path, ear: Ear, tmp_path: Path) -> None:
    first = inspect(manifest, cache=str(tmp_path / "cache"))
    heard = ear.heard
    assert heard == 6
    with (tmp_path / "cache" / "judged.jsonl").open("a") as stream:
        stream.write('{"key": "cut sh')
    assert inspect(manifest, cache=str(tmp_path / "cache")) == first
    assert ear.heard == heard
    inspect(manifest, cache=str(tmp_path / "cache"), recogniser="another")
    assert ear.heard > heard


def test_clips_are_taken_evenly(manifest: Path, ear: Ear) -> None:
    assert inspect(manifest, clips=2).clips == ("0", "1")
    assert inspect(manifest, clips=1).rows[1].scores["mel"].low is None
    assert inspection.evenly(range(100), 4) == [0, 25, 50, 75]
    assert inspection.evenly(range(3), 7) == [0, 1, 2]


def test_clips_that_cannot_be_heard_are_left_out_with_their_reasons(manifest: Path, ear: Ear) -> None:
    soundfile.write(manifest.parent / "1.wav", np.zeros(800), RATE)
    (manifest.parent / "3.wav").write_text("no audio")
    report = inspect(manifest)
    assert report.clips == ("0", "2") and report.frames["learned"] == 0
    assert report.left_out["1"] == "silence throughout" and report.left_out["3"].startswith("not an audio file")
    for name in ("0", "2"):
        (manifest.parent / f"{name}.wav").unlink()
    with pytest.raises(ValueError, match="none of 3 clips can be heard; the first is 0: no such file"):
        inspect(manifest)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": [3]}, "1 to 2 levels"),
        ({"levels": [0]}, "1 to 2 levels"),
        ({"opus_kbps": [4]}, "6 kbit/s or more"),
        ({"clips": 0}, "at least 1"),
        ({"longest_seconds": 0.1}, "raise longest_seconds"),
        ({"split": "dev"}, "no recordings of the split"),
    ],
)
def test_refused_with_a_remedy(manifest: Path, ear: Ear, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect(manifest, **settings)


def test_levels_can_be_chosen(manifest: Path, ear: Ear) -> None:
    report = inspect(manifest, levels=[2, 2])
    assert [row.name for row in report.rows] == ["recording", "2 levels"]
    full = inspect(manifest).rows[-1]
    assert report.rows[-1].ideal_kbps == full.ideal_kbps


def test_the_report_is_json(manifest: Path, ear: Ear) -> None:
    found = json.loads(json.dumps(asdict(inspect(manifest))))
    assert found["codec"]["name"] == "bytes" and found["config"]["clips"] == 30
    assert math.isfinite(found["rows"][1]["scores"]["si_sdr"]["mean"])


def test_a_codec_is_found_in_its_houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(source: Path | str) -> Bytes:
        loaded.append(str(source))
        return Bytes()

    monkeypatch.setattr(inspection.AcousticTokenizer, "load", load)
    house: Callable[[str], Path] = lambda name: tmp_path / name / "tokenizers" / "acoustic"  # noqa: E731
    house("bundle").mkdir(parents=True)
    (tmp_path / "bundle" / "tokenizers" / "waveform.json").write_text('{"sample_rate": 4000, "loudness": -20.0}')
    assert load_codec(str(tmp_path / "bundle"))[1] == WaveformSpec(RATE, -20.0)
    assert load_codec(str(tmp_path / "bundle" / "tokenizers"))[1] == WaveformSpec(RATE, -20.0)
    assert load_codec("owner/name")[1] == WaveformSpec(RATE)
    assert loaded == [str(house("bundle"))] * 2 + ["owner/name"]
