"""Word error: numbers count as heard, every kind of error counts once, bad lists are refused before listening."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from triptych.evaluation.naturalness import load_naturalness
from triptych.evaluation.recogniser import load_recogniser
from triptych.evaluation.score import Total, count_errors, normaliser, read_list, word_errors
from triptych.tokenizers.waveform import Waveform


class Ear:
    """Hears the same words in everything."""

    def __init__(self, words: str) -> None:
        self.words = words

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        assert waveform.ndim == 1 and sample_rate == 8000
        return self.words


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"audio": "a.wav", "text": "Twenty-two cats won't sleep."}) + "\n")
    return path


@pytest.mark.parametrize(
    ("heard", "errors"),
    [
        ("22 cats will not sleep", 0),
        ("twenty two cats won't sleep!", 0),
        ("22 dogs will not sleep", 1),
        ("22 cats will not", 1),
        ("22 cats will not sleep now", 1),
        ("", 5),
    ],
)
def test_errors(listed: Path, heard: str, errors: int) -> None:
    (judged,) = word_errors(read_list(listed), Ear(heard))
    assert (judged.errors, judged.words) == (errors, 5)
    assert Total.of([judged]).word_error == errors / 5


class Rater:
    def rate(self, waveform: Waveform, sample_rate: int) -> float:
        return 1.0 + float(np.abs(waveform).max())


def test_naturalness_is_a_mean_over_what_sounds_where_it_is_asked_for(listed: Path) -> None:
    for loud in (1.0, 0.5):
        name = f"{loud}.wav"
        soundfile.write(listed.parent / name, np.full(800, loud), 8000, subtype="FLOAT")
        listed.write_text(listed.read_text() + json.dumps({"audio": name, "text": "Two."}) + "\n")
    rows = list(word_errors(read_list(listed), Ear("2"), naturalness=Rater()))
    assert [row.naturalness for row in rows] == [None, 2.0, 1.5] and Total.of(rows).naturalness == 1.75
    assert Total.of(list(word_errors(read_list(listed), Ear("2")))).naturalness is None
    assert load_naturalness("none") is None
    with pytest.raises(ValueError, match="choose dnsmos or none"):
        load_naturalness("dnsmoss")


def test_normalising_twice_changes_nothing() -> None:
    normalise = normaliser()
    for text in ("Mr. Brown paid $4.50 — twice!", "I'm the 1st.", "a4 and A 4"):
        assert normalise(normalise(text)) == normalise(text)
    assert normalise("A four") == normalise("a4")
    assert normalise("The grey harbours") == normalise("the gray harbors")


def test_nothing_wanted_counts_what_is_heard() -> None:
    assert count_errors("", "a b") == 2
    assert count_errors("a b", "a b") == 0


@pytest.mark.parametrize(
    "line", ["x", "[]", '{"audio": "a.wav"}', '{"audio": "a.wav", "text": "?!"}', '{"audio": "b.wav", "text": "hi"}']
)
def test_bad_lists_name_the_line(listed: Path, line: str) -> None:
    listed.write_text(listed.read_text() + "\n" + line)
    with pytest.raises(ValueError, match="line 3"):
        read_list(listed)


def test_a_line_ends_where_json_says(listed: Path) -> None:
    row = {"audio": "a.wav", "text": "one\u2028two\x85three"}
    listed.write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n", newline="")
    assert [found.text for found in read_list(listed)] == [row["text"]]


def test_an_empty_list(listed: Path) -> None:
    listed.write_text("\n")
    with pytest.raises(ValueError, match="no line"):
        read_list(listed)


def test_the_extra_is_asked_for_at_once(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ModuleNotFoundError):
        read_list(listed)


def test_recognisers_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_recogniser(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_recogniser(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ValueError, match="pip install faster-whisper"):
        load_recogniser(str(tmp_path))


class Loudness:
    """A speaker encoder that knows loud from quiet."""

    def embed(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        loud = float(np.abs(waveform).max())
        return np.array([loud, 1 - loud], dtype=np.float32)


def test_only_rows_that_name_a_voice_are_compared(tmp_path: Path) -> None:
    for name, level in (("loud", 0.9), ("quiet", 0.1)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(800, level), 8000)
    rows = [("loud", "loud"), ("loud", "quiet"), ("quiet", None)]
    lines = [{"audio": f"{a}.wav", "text": "hi", "voice": v and f"{v}.wav"} for a, v in rows]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = list(word_errors(read_list(path), Ear("hi"), Loudness()))
    assert judged[0].similarity == pytest.approx(1.0) and judged[2].similarity is None
    assert judged[1].similarity is not None and judged[1].similarity < 0.5
    total = Total.of(judged)
    assert total.similarity == pytest.approx((judged[0].similarity + judged[1].similarity) / 2)
    assert Total.of(judged[2:]).similarity is None


def test_a_voice_that_is_missing_is_named(listed: Path) -> None:
    listed.write_text(json.dumps({"audio": "a.wav", "text": "hi", "voice": "gone.wav"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1: no file .*gone\.wav"):
        read_list(listed)
