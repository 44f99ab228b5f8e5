"""The sections that make sound, of a cascade whose faults are known: each is counted, nothing is made twice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.evaluation.judges import Judges, Memory, RememberingRecogniser
from triptych.evaluation.recogniser import Recogniser
from triptych.evaluation.report import Section, Table
from triptych.evaluation.sections.codec import codec_section
from triptych.evaluation.sections.continuing import continuing_section
from triptych.evaluation.sections.converting import converting_section
from triptych.evaluation.sections.speaking import NAMED, sentences, speak_together, speaking_section, voices
from triptych.evaluation.subject import Evaluation
from triptych.tokenizers.waveform import Waveform

Said = Mapping[str, tuple[str, str]]


class ManyEar:
    """Hears several at once, and counts what it is asked one by one."""

    def __init__(self, ear: Recogniser) -> None:
        self.ear, self.alone = ear, 0

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        self.alone += 1
        return self.ear.hear(waveform, sample_rate)

    def hear_all(self, waveforms: Sequence[Waveform], sample_rate: int) -> Iterator[tuple[str, float | None]]:
        return ((self.ear.hear(one, sample_rate), None) for one in waveforms)


def table(section: Section, name: str) -> Table:
    (found,) = [one for one in section.tables if one.name == name]
    return found


def test_planted_failures_are_counted(subject: Evaluation, said: Said) -> None:
    failed = table(speaking_section(subject), "failures").values[NAMED]
    found = {
        kind: {column for column, values in failed.items() if values[f"ada: {text}"][0] and column != "any"}
        for kind, (text, _) in said.items()
    }
    assert found["good"] == set() and found["loops"] == {"loop"} and found["stops"] == {"early"}
    assert found["runs on"] == {"overrun"} and {"silence", "early"} == found["is silent"]
    assert sum(value for value, _ in failed["any"].values()) == 4


def test_a_voice_of_two_groups_is_made_for_each(subject: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    make_all = Evaluation.make_all

    def noted(self: Evaluation, names: Sequence[str], make: Any) -> Any:
        keys.extend(names)
        return make_all(self, names, make)

    monkeypatch.setattr(Evaluation, "make_all", noted)
    ada = voices(subject)[NAMED]
    for group in (NAMED, "known voices"):
        speak_together(subject, group, sentences(subject), ada)
    assert keys and len(keys) == len(set(keys))


def test_speaking_counts_words_and_compares_voices(subject: Evaluation, said: Said) -> None:
    text, _ = said["good"]
    spoken = table(speaking_section(subject), "spoken")
    named = spoken.values[NAMED]
    assert named["words"][f"ada: {text}"] == (0.0, 6.0)
    assert named["words"][f"ada: {text} here"] == (1.0, 7.0)  # silence: every word is missing
    lost = 4 / 7  # 'under old trees again'
    assert named["words"][f"ada: {text} again"] == (pytest.approx(lost), 7.0)
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
    assert converted.rows["from unnamed voices"]["words"].estimate is not None  # what is heard is its text
    unnamed = converted.rows["recordings: unnamed voices"]["words"]
    assert unnamed.estimate is None and unnamed.why == "no text"  # which says nothing of the recording


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


@pytest.mark.parametrize("section", [codec_section, speaking_section, continuing_section, converting_section])
def test_a_clip_that_cannot_be_heard_is_left_out_with_its_reason(subject: Evaluation, section: Any) -> None:
    silent = subject.clips[1]
    soundfile.write(silent.path, np.zeros(round(silent.seconds * 4000)), 4000)
    found = section(subject)
    assert f"Of 4 clips, left out as they cannot be heard: 1 ({silent.id}: silence throughout)." in found.about
    values = [cell for table in found.tables for row in table.values.values() for cell in row.values()]
    assert any("1" in cell for cell in values) and not any(silent.id in cell for cell in values)


def test_clips_of_which_none_can_be_heard_are_refused(subject: Evaluation) -> None:
    for clip in subject.clips:
        clip.path.write_text("no audio")
    with pytest.raises(ValueError, match="none of its 4 judged clips can be heard; the first is 1: not an audio file"):
        _ = subject.heard


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
    def measured(ear: Recogniser) -> Section:
        heard = RememberingRecogniser(ear, "ear", Memory(subject.folder / type(ear).__name__))
        found: Section = section(replace(subject, judges=replace(subject.judges, recogniser=heard)))
        (subject.cache / "codec.jsonl").unlink(missing_ok=True)
        return found

    ear = subject.judges.recogniser
    assert ear is not None
    many = ManyEar(ear)
    assert measured(ear) == measured(many) and not many.alone
