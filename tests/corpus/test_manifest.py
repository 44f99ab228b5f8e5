"""The manifest: what is written is read, by this reader and by lhotse's own."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.corpus.manifest import Recording, read_header, read_manifest, write_manifest


def recordings(write_tone: Any) -> list[Recording]:
    mono = write_tone("wavs/take[/b] 1.wav", seconds=0.5)
    other = write_tone("wavs/b.flac", seconds=1.0, rate=24000)
    return [
        Recording("a/1", mono, 0.5, "Good morning, é.", "s1", "train", {"origin": "human", "score": -0.5}),
        Recording("b", other, 1.0, None, None, "dev"),
        Recording("b-part", other, 0.25, "part", "s2", "test", {"mood": None}, start=0.5),
        Recording("b-fast", other, 0.75, "fast", "s3", start=0.05, speed=1.25),
    ]


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz"])
def test_written_is_read(tmp_path: Path, write_tone: Any, name: str) -> None:
    given = recordings(write_tone)
    assert write_manifest(tmp_path / name, given) == 4
    read = list(read_manifest(tmp_path / name))
    assert [replace(r, header=None) for r in read] == given
    assert [r.header.sample_rate for r in read if r.header] == [16000, 24000, 24000, 24000]
    write_manifest(tmp_path / f"again-{name}", read)
    assert list(read_manifest(tmp_path / f"again-{name}")) == read


def test_paths_below_the_manifest_move_with_it(tmp_path: Path, write_tone: Any) -> None:
    write_manifest(tmp_path / "m.jsonl", recordings(write_tone))
    source = json.loads((tmp_path / "m.jsonl").read_text().splitlines()[1])["recording"]["sources"][0]["source"]
    assert source == "wavs/b.flac"
    write_manifest(tmp_path / "elsewhere" / "m.jsonl", recordings(write_tone))
    assert [r.path.is_file() for r in read_manifest(tmp_path / "elsewhere" / "m.jsonl")] == [True] * 4


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz"])
def test_lhotse_opens_what_is_written(
    tmp_path: Path, write_tone: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lhotse import CutSet

    given = recordings(write_tone)
    write_manifest(tmp_path / name, given)
    monkeypatch.chdir(tmp_path)  # lhotse resolves relative paths from there
    cuts = list(CutSet.from_file(tmp_path / name))
    assert [c.id for c in cuts] == [r.id for r in given]
    assert [c.supervisions[0].text for c in cuts] == [r.text for r in given]
    assert [c.supervisions[0].speaker for c in cuts] == [r.speaker for r in given]
    assert [c.custom["split"] for c in cuts] == [r.split for r in given]
    assert [c.load_audio().shape for c in cuts] == [(1, 8000), (1, 24000), (1, 6000), (1, 18000)]


def test_what_lhotse_writes_is_read(tmp_path: Path, write_tone: Any) -> None:
    from lhotse import CutSet, MonoCut, SupervisionSegment
    from lhotse import Recording as LhotseRecording

    sound = LhotseRecording.from_file(write_tone("x.wav", seconds=1.0), recording_id="x")
    said = SupervisionSegment("s", "x", 0.0, 0.4, text="hi", speaker="p", language="en", custom={"mood": "calm"})
    cut = MonoCut("c", 0.25, 0.5, 0, supervisions=[said], recording=sound, custom={"split": "dev"})
    CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl.gz")
    (read,) = read_manifest(tmp_path / "cuts.jsonl.gz")
    assert (read.id, read.start, read.seconds, read.text, read.speaker, read.split) == (
        "c",
        0.25,
        0.5,
        "hi",
        "p",
        "dev",
    )
    assert read.custom == {"mood": "calm", "language": "en"}
    assert read.path == tmp_path / "x.wav"


def test_two_channels_stay_two(tmp_path: Path, write_tone: Any) -> None:
    import soundfile
    from lhotse import CutSet

    path = write_tone("s.wav")
    tone, rate = soundfile.read(path)
    soundfile.write(path, np.stack([tone, 0 * tone], axis=1), rate)
    given = [
        Recording("both", path, 0.5),
        Recording("left", path, 0.5, channel=0),
        Recording("right", path, 0.5, channel=1),
    ]
    write_manifest(tmp_path / "m.jsonl", given)
    assert [r.channel for r in read_manifest(tmp_path / "m.jsonl")] == [None, 0, 1]
    assert [c.num_channels for c in CutSet.from_file(tmp_path / "m.jsonl")] == [2, 1, 1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"audio": "a.wav", "text": "hi"}', "line 1: not a manifest line.*triptych prepare"),
        ("not json", "line 1: not JSON"),
        ("[1, 2]", "line 1: not a JSON object"),
        ('{"type": "MonoCut", "id": "a"}', "line 1: not a lhotse cut"),
        ('{"type": "MonoCut", "recording": 5}', "line 1: not a lhotse cut"),
        ('{"type": "MixedCut", "id": "a"}', "its type is 'MixedCut'"),
    ],
)
def test_other_files_are_refused_by_line(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=what):
        list(read_manifest(path))


def test_a_flac_that_does_not_say_its_length_is_refused(write_tone: Any) -> None:
    path = write_tone("piped.flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the last 36 bits of these eight bytes of STREAMINFO count the samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"piped\.flac: does not say how long it is, .*: encode it once more"):
        read_header(path)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        list(read_manifest(tmp_path / "absent.jsonl"))
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:-10])
    for name in ("a.jsonl.gz", "b.jsonl", "c.jsonl.gz"):
        with pytest.raises(ValueError, match=name):
            list(read_manifest(tmp_path / name))
