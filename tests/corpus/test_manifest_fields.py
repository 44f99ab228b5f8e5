"""Manifests with wrong fields, explored: a line is a recording with fields of the right kinds, or refused in a line."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.corpus.manifest import SPLITS, Recording, cut_of_recording, read_manifest, recording_of_line
from triptych.corpus.reading import Reader
from triptych.corpus.shard_plan import Entry
from triptych.tokenizers.trio import Tokenizers

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "\0", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""whatever a JSON file may hold, and some that it should not"""


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of a JSON document."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path] * bool(path) + [place for key, value in inner for place in places(value, (*path, key))]


def changed(cut: dict[str, Any], place: tuple[Any, ...], value: Any, remove: bool) -> dict[str, Any]:
    cut = copy.deepcopy(cut)
    holder: Any = cut
    for key in place[:-1]:
        holder = holder[key]
    if remove:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return cut


@pytest.mark.parametrize("examples", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_any_field_may_be_anything(
    tmp_path: Path, recordings: list[Recording], one_pair: Tokenizers, examples: int
) -> None:
    cut = cut_of_recording(recordings[1], tmp_path)
    read = []

    with Reader(one_pair, 1, 1.0) as reader:

        @settings(max_examples=examples, deadline=None)
        @given(st.sampled_from(places(cut)), ANYTHING, st.booleans())
        def explore(place: tuple[Any, ...], value: Any, remove: bool) -> None:
            line = json.dumps(changed(cut, place, value, remove))
            try:
                recording = recording_of_line(line.encode(), tmp_path)
            except ValueError as error:
                assert "\n" not in str(error)
                (tmp_path / "m.jsonl").write_text(line)
                with pytest.raises(ValueError, match=r"m\.jsonl, line 1: "):
                    list(read_manifest(tmp_path / "m.jsonl"))
                return
            read.append(recording)
            assert 0 <= recording.seconds < math.inf and 0 <= recording.start < math.inf
            assert recording.split in SPLITS and isinstance(recording.id, str)
            assert isinstance(recording.text, str | None) and isinstance(recording.speaker, str | None)
            json.dumps([recording.id, recording.text, recording.speaker], ensure_ascii=False).encode()
            heard = reader.hear(Entry(recording.id, recording))
            if isinstance(heard, str):
                assert heard.encode() and "\n" not in heard

        explore()
    assert len(read) > examples // 10
