"""Who is trained on and who is held out: by text, whoever says it, and as the source says."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.corpus.manifest import Recording
from triptych.corpus.prepare import deal_splits
from triptych.corpus.readers import Found


def found(count: int, texts: int) -> list[Found]:
    return [Found(str(i), Recording(str(i), Path("x"), 1.0, text=f"Text {i % texts}")) for i in range(count)]


def test_splits_are_dealt_by_text() -> None:
    dealt = deal_splits(found(6000, 3000))
    shares = Counter(r.split for r in dealt)
    assert 0.94 < shares["train"] / 6000 < 0.98
    assert 0.01 < shares["dev"] / 6000 < 0.03
    by_text: dict[str | None, set[str]] = {}
    for r in dealt:
        by_text.setdefault(r.text, set()).add(r.split)
    assert all(len(splits) == 1 for splits in by_text.values())
    assert deal_splits(found(6000, 3000)[::-1])[::-1] == dealt


@pytest.mark.parametrize("count", [3, 4, 10, 30])
def test_a_small_corpus_has_every_split(count: int) -> None:
    assert {r.split for r in deal_splits(found(count, count))} == {"train", "dev", "test"}


@pytest.mark.parametrize("name", ["interview", *map(str, range(60))])
def test_a_lone_recording_is_trained_on(name: str) -> None:
    (alone,) = deal_splits([Found(name, Recording(name, Path("x"), 1.0))])
    assert alone.split == "train"


def test_what_the_source_holds_out_stays_held_out() -> None:
    """Whoever else says it, in whatever order."""
    held = [replace(entry, recording=replace(entry.recording, split="dev"), has_split=True) for entry in found(40, 40)]
    others = [replace(entry, recording=replace(entry.recording, id=f"o{entry.where}")) for entry in found(400, 200)]
    for entries in (held + others, others + held):
        dealt = {r.id: r.split for r in deal_splits(entries)}
        assert all(dealt[f"o{i}"] == "dev" for i in range(400) if i % 200 < 40)
        assert "train" in dealt.values()
    everything = [replace(entry, has_split=True, recording=replace(entry.recording, split="dev")) for entry in others]
    again = [replace(entry, recording=replace(entry.recording, id=f"a{entry.where}")) for entry in found(400, 200)]
    dealt = {r.id: r.split for r in deal_splits(everything + again)}
    assert sum(dealt[f"a{i}"] == "train" for i in range(400)) > 300  # else nothing could be trained on


def test_what_the_source_trains_on_is_trained_on_whoever_says_it() -> None:
    named = [replace(entry, has_split=True) for entry in found(200, 200)]
    others = [replace(entry, recording=replace(entry.recording, id=f"o{entry.where}")) for entry in found(400, 400)]
    for entries in (named + others, others + named):
        dealt = {r.id: r.split for r in deal_splits(entries)}
        assert {dealt[f"o{i}"] for i in range(200)} == {"train"}
        assert {"train", "dev", "test"} == {dealt[f"o{i}"] for i in range(200, 400)}
