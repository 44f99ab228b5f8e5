"""From any of four layouts to a manifest; nothing is dropped without its reason."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.corpus.clips import part_of
from triptych.corpus.manifest import Recording, json_lines, read_manifest, write_manifest
from triptych.corpus.prepare import deal_splits, prepare, rejected_path
from triptych.corpus.readers import Found, read_cuts, read_jsonl, read_ljspeech
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.waveform import load_prepared


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def reasons(manifest: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in rejected_path(manifest).read_text().splitlines()]


def test_jsonl(tmp_path: Path, write_tone: Any) -> None:
    write_tone("a/take[/b] 1.opus", seconds=0.75, rate=24000, format="OGG", subtype="OPUS")
    outside = write_tone("b.wav", seconds=0.5)
    rows = [
        {"audio": "a/take[/b] 1.opus", "text": " Hi. ", "speaker": 7, "seconds": 99, "split": "val", "mood": "calm"},
        {"audio": str(outside), "id": "x", "text": None, "speaker": None, "split": "train", "deep": {"a": [1]}},
    ]
    summary = prepare(write_lines(tmp_path / "c.jsonl", rows), tmp_path / "m.jsonl")
    first, second = read_manifest(tmp_path / "m.jsonl")
    assert (first.id, first.text, first.speaker, first.split) == ("a/take[/b] 1", "Hi.", "7", "dev")
    assert first.custom == {"mood": "calm"}
    assert first.seconds == pytest.approx(0.75, abs=0.01)  # the header's, not the hint's
    assert (second.id, second.text, second.speaker, second.custom) == ("x", None, None, {"deep": {"a": [1]}})
    assert (summary.recordings, summary.rejected, summary.with_text, summary.speakers) == (2, 0, 1, 1)
    assert not rejected_path(tmp_path / "m.jsonl").exists()


def test_unusable_entries_are_listed_with_reasons(tmp_path: Path, write_tone: Any) -> None:
    write_tone("good.wav")
    write_tone("short.wav", seconds=0.05)
    cut = write_tone("cut.wav", seconds=1.0)
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "text.wav").write_text("no audio")
    rows = [
        {"audio": "good.wav"},
        {"audio": "absent.wav"},
        {"audio": "text.wav"},
        {"audio": "short.wav"},
        {"audio": "cut.wav"},
        {"audio": "good.wav"},
        {"audio": "good.wav", "id": "2", "split": "later"},
        {"audio": "good.wav", "id": "3", "text": 5},
        {"text": "no audio key"},
        "{broken",
        "5",
    ]
    source = write_lines(tmp_path / "c.jsonl", rows)
    summary = prepare(source, tmp_path / "m.jsonl.gz")
    assert (summary.recordings, summary.rejected) == (1, len(rows) - 1)
    expected = [
        "no such file",
        "not an audio file",
        "too short",
        "cut short",
        "its id 'good' is that of c.jsonl, line 1",
    ]
    expected += ["split is 'later'", "text is 5", "the key 'audio'", "not JSON", "not a JSON object"]
    for reason, what in zip(reasons(tmp_path / "m.jsonl.gz"), expected, strict=True):
        assert what in reason
    with pytest.raises(ValueError, match=r"10 of 11 entries cannot be used, the first is c.jsonl, line 2"):
        prepare(source, tmp_path / "strict.jsonl", strict=True)
    assert not (tmp_path / "strict.jsonl").exists()


def test_strict_hears_what_headers_do_not_say(tmp_path: Path, write_tone: Any) -> None:
    path = write_tone("a.wav", subtype="FLOAT")
    tone, rate = soundfile.read(path)
    soundfile.write(path, np.full_like(tone, np.nan), rate, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", 0 * tone, rate)
    for name, what in (("a", "not numbers"), ("b", "silence")):
        source = write_lines(tmp_path / f"{name}.jsonl", [{"audio": f"{name}.wav"}])
        assert prepare(source, tmp_path / f"m-{name}.jsonl").recordings == 1
        with pytest.raises(ValueError, match=what):
            prepare(source, tmp_path / f"strict-{name}.jsonl", strict=True)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "c.jsonl", [{"audio": "absent.wav"}] * 3)
    with pytest.raises(ValueError, match=r"3 of 3 entries cannot be used.*absent.wav: no such file"):
        prepare(source, tmp_path / "m.jsonl")
    assert len(reasons(tmp_path / "m.jsonl")) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no audio"):
        prepare(tmp_path / "empty", tmp_path / "n.jsonl")


def test_a_manifest_is_never_overwritten(tmp_path: Path, write_tone: Any) -> None:
    write_tone("wavs/a.wav")
    prepare(tmp_path / "wavs", tmp_path / "m.jsonl")
    before = (tmp_path / "m.jsonl").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        prepare(tmp_path / "wavs", tmp_path / "m.jsonl")
    assert (tmp_path / "m.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "absent", "empty.jsonl", "supervisions.jsonl"])
def test_sources_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.jsonl").write_text("\n")
    write_lines(tmp_path / "supervisions.jsonl", [{"id": "a", "recording_id": "b"}])
    with pytest.raises(ValueError, match=name):
        prepare(tmp_path / name, tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="name the manifest"):
        prepare(tmp_path, tmp_path / "m.txt")


def test_ljspeech(tmp_path: Path, write_tone: Any) -> None:
    write_tone("LJ/wavs/LJ001-0001.wav")
    write_tone("LJ/wavs/LJ001-0002.flac")
    lines = [
        "LJ001-0001|In 1455.|In fourteen fifty-five.",
        'LJ001-0002|"Quoted" text',
        "LJ001-0003|absent",
        "broken line",
    ]
    write_lines(tmp_path / "LJ" / "metadata.csv", lines)
    for source in (tmp_path / "LJ", tmp_path / "LJ" / "metadata.csv"):
        manifest = tmp_path / f"{source.name}.jsonl"
        assert prepare(source, manifest).rejected == 2
        first, second = read_manifest(manifest)
        assert (first.id, first.text, first.speaker) == ("LJ001-0001", "In 1455.", "LJ")
        assert (second.path.name, second.text) == ("LJ001-0002.flac", '"Quoted" text')


def test_folder(tmp_path: Path, write_tone: Any) -> None:
    for name in ("c/anna/1.wav", "c/anna/take[/b] 2.WAV", "c/top.flac", "c/ben/deep/x.mp3", "c/anna/._1.wav"):
        write_tone(name, format="WAV" if name.endswith("WAV") else None)
    (tmp_path / "c/anna/1.txt").write_text("Two\nlines. ")
    (tmp_path / "c/notes.md").write_text("not audio")
    prepare(tmp_path / "c", tmp_path / "m.jsonl")
    found = {r.id: r for r in read_manifest(tmp_path / "m.jsonl")}
    assert set(found) == {"anna/1", "anna/take[/b] 2", "top", "ben/deep/x"}
    assert {name: r.speaker for name, r in found.items()} == {
        "anna/1": "anna", "anna/take[/b] 2": "take[", "top": None, "ben/deep/x": "deep",
    }  # fmt: skip
    assert found["anna/1"].text == "Two lines."
    assert found["top"].text is None


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_lhotse_recordings_with_supervisions(tmp_path: Path, write_tone: Any, packed: str) -> None:
    from lhotse import Recording as LhotseRecording
    from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

    names = ("long", "unsaid")
    sounds = [LhotseRecording.from_file(write_tone(f"{n}.wav", seconds=2.0), recording_id=n) for n in names]
    said = [SupervisionSegment(f"long-{i}", "long", i * 0.5, 0.5, text=f"part {i}", speaker="p") for i in range(3)]
    RecordingSet.from_recordings(sounds).to_file(tmp_path / f"x_recordings_all.jsonl{packed}")
    source = tmp_path / f"x_recordings_all.jsonl{packed}"
    assert prepare(source, tmp_path / "whole.jsonl").recordings == 2
    SupervisionSet.from_segments(said).to_file(tmp_path / f"x_supervisions_all.jsonl{packed}")
    assert prepare(source, tmp_path / "m.jsonl").rejected == 1
    read = list(read_manifest(tmp_path / "m.jsonl"))
    assert [(r.id, r.start, r.seconds, r.text) for r in read] == [
        (f"long-{i}", i * 0.5, 0.5, f"part {i}") for i in range(3)
    ]


def test_lhotse_cuts(tmp_path: Path, write_tone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lhotse import CutSet, MonoCut
    from lhotse import Recording as LhotseRecording

    write_tone("data/x.wav", seconds=1.0)
    monkeypatch.chdir(tmp_path)  # lhotse keeps the path as it was given, here relative to the working folder
    sound = LhotseRecording.from_file("data/x.wav", recording_id="x")
    cuts = [MonoCut("a", 0, 1.0, 0, recording=sound), MonoCut("b", 0.5, 0.25, 0, recording=sound)]
    cuts += [cuts[0].perturb_speed(1.1).with_id("fast"), cuts[1].perturb_speed(0.8).with_id("slow")]
    cuts += [cuts[0].perturb_tempo(1.1).with_id("tempo"), cuts[0].append(cuts[1]).with_id("mixed")]
    (tmp_path / "manifests").mkdir()
    CutSet.from_cuts(cuts).to_file(tmp_path / "manifests" / "cuts.jsonl")
    prepare(tmp_path / "manifests" / "cuts.jsonl", tmp_path / "m.jsonl")
    read = list(read_manifest(tmp_path / "m.jsonl"))
    assert [(r.id, r.start, r.speed) for r in read] == [
        ("a", 0, 1),
        ("b", 0.5, 1),
        ("fast", 0, 1.1),
        ("slow", 0.625, 0.8),
    ]
    assert [r.seconds for r in read] == pytest.approx([1.0, 0.25, 1 / 1.1, 0.25 / 0.8], abs=1e-4)
    assert ["transforms" in r or "MixedCut" in r for r in reasons(tmp_path / "m.jsonl")] == [True, True]


def test_copies_at_other_speeds(tmp_path: Path, write_tone: Any) -> None:
    rows: list[Any] = [
        {"audio": str(write_tone(f"{i}.wav", seconds=1.0)), "text": f"Text {i}", "speaker": "s", "split": split}
        for i, split in enumerate(["train", "dev", "test"])
    ]
    rows.append({"audio": str(write_tone("short.wav", seconds=0.1)), "text": "Oh", "split": "train"})
    rows[0]["alignment"] = {"phone": [["t", 0.1, 0.2]]}
    source = write_lines(tmp_path / "c.jsonl", rows)
    summary = prepare(source, tmp_path / "m.jsonl", speeds=[0.8, 1.0, 1.25])
    assert (summary.recordings, summary.splits) == (9, {"train": 7, "dev": 1, "test": 1})  # one would be too short
    first, *_, slow, short, same, _, fast = read = list(read_manifest(tmp_path / "m.jsonl"))
    assert len({r.id for r in read}) == 9
    assert [r.speaker for r in (slow, same, fast)] == ["s_sp0.8", "s_sp1", "s_sp1.25"]
    assert [r.speed for r in (first, slow, same, fast)] == [1, 0.8, 1, 1.25]
    assert ("alignment" in first.custom, "alignment" in slow.custom) == (True, False)
    assert [r.stop for r in (slow, same, fast)] == pytest.approx([1.25, 1.0, 0.8], abs=1e-4)
    assert len({r.start for r in (slow, same, fast)}) == 3
    assert all(0 < r.start < 0.04 for r in (slow, same, fast))
    assert short.seconds >= 0.1 - 1e-9
    for recording, hertz in ((first, 200), (slow, 160), (same, 200), (fast, 250)):
        heard = load_prepared(recording.path, WaveformSpec(16000), part_of(recording))
        assert len(heard) == pytest.approx(recording.seconds * 16000, abs=2)
        assert np.abs(np.fft.rfft(heard)).argmax() / len(heard) * 16000 == pytest.approx(hertz, abs=2)
    again = tmp_path / "again.jsonl"
    assert prepare(tmp_path / "m.jsonl", again).rejected == 0
    assert [(r.id, r.start, r.speed) for r in read_manifest(again)] == [(r.id, r.start, r.speed) for r in read]
    with pytest.raises(ValueError, match=r"has copies already, as .*_sp0\.8: give it without them"):
        prepare(again, tmp_path / "twice.jsonl", speeds=[0.8])
    prepare(again, tmp_path / "more.jsonl", speeds=[0.6])
    assert min(r.speed for r in read_manifest(tmp_path / "more.jsonl")) == pytest.approx(0.6)  # 0.48 would be too slow


def test_copies_without_a_text_stay_in_one_split() -> None:
    names = [f"{i}{copy}" for i in range(300) for copy in ("", "_sp0.9", "_sp1.1")]
    entries = [Found(name, Recording(name, Path("x"), 1.0)) for name in names]
    dealt = {r.id: r.split for r in deal_splits(entries)}
    assert set(dealt.values()) == {"train", "dev", "test"}
    assert all(dealt[f"{i}"] == dealt[f"{i}_sp0.9"] == dealt[f"{i}_sp1.1"] for i in range(300))


@pytest.mark.parametrize("speeds", [[0.9, 0.9], [0.9, 0.90000001], [0.0], [3.0], [float("nan")]])
def test_speeds_that_are_none(tmp_path: Path, write_tone: Any, speeds: list[float]) -> None:
    write_tone("wavs/a.wav")
    with pytest.raises(ValueError, match=r"speeds are .*, and must be different numbers from 0\.5 to 2"):
        prepare(tmp_path / "wavs", tmp_path / "m.jsonl", speeds=speeds)
    assert not (tmp_path / "m.jsonl").exists()


def test_a_name_that_is_no_unicode_and_a_kind_that_is_not_read_are_rejected_alone(
    tmp_path: Path, write_tone: Any
) -> None:
    write_tone("clips/a.wav")
    (tmp_path / "clips" / "b.m4a").write_bytes(b"x")
    (tmp_path / "clips" / "a.m4a").write_bytes(b"x")  # which a.wav was made of
    try:
        (tmp_path / "clips" / "caf\udce9.wav").write_bytes((tmp_path / "clips" / "a.wav").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    summary = prepare(tmp_path / "clips", tmp_path / "m.jsonl")
    assert (summary.recordings, summary.rejected) == (1, 2)
    reasons = [json.loads(line)["reason"] for line in rejected_path(tmp_path / "m.jsonl").read_text().splitlines()]
    assert "convert it" in reasons[0] and "not Unicode" in reasons[1]


def test_lines_of_ljspeech_end_where_they_are_broken(tmp_path: Path, write_tone: Any) -> None:
    write_tone("wavs/L0.wav")
    text = "Hello there.\x85 Good\u2028 morning."
    (tmp_path / "metadata.csv").write_text(f"L0|{text}\r\n", encoding="utf-8", newline="")
    (entry,) = read_ljspeech(tmp_path)
    assert entry.recording and entry.recording.text == text


def test_a_packed_source(tmp_path: Path, write_tone: Any) -> None:
    write_tone("a.wav")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"audio": "a.wav"}\n'))
    assert prepare(tmp_path / "c.jsonl.gz", tmp_path / "m.jsonl").recordings == 1


def test_a_lost_recording_is_not_another_of_its_name(
    tmp_path: Path, write_tone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data/s1/001.wav", "data/s2/001.wav", "work/001.wav"):
        write_tone(name, seconds=0.5)
    rows = [Recording(f"s{i}", tmp_path / f"data/s{i}/001.wav", 1.0, f"text {i}", f"s{i}") for i in (1, 2)]
    write_manifest(tmp_path / "cuts.jsonl", [replace(row, seconds=0.5) for row in rows])
    (tmp_path / "data/s2/001.wav").unlink()
    monkeypatch.chdir(tmp_path / "work")
    found = list(read_cuts(tmp_path / "cuts.jsonl"))
    assert [one.recording.path.exists() for one in found if one.recording] == [True, False]


def test_a_line_of_no_unicode_is_rejected_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.wav", "text": "a \\ud800 b"}\n{"audio": "b.wav"}\n')
    bad, good = read_jsonl(tmp_path / "rows.jsonl")
    assert "not Unicode" in str(bad.reason) and good.recording is not None


def test_a_damaged_gz_is_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"audio": "a.wav"}\n' * 2000))
    packed[20:40] = bytes(20)
    (tmp_path / "rows.jsonl.gz").write_bytes(bytes(packed))
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz is not a JSONL file that can be read"):
        list(json_lines(tmp_path / "rows.jsonl.gz"))
