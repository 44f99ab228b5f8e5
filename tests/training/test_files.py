"""Safe writing: whole or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.training.files import atomic_file, atomic_folder, fingerprint_of, read_json, write_json


def test_a_broken_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_file(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    names = [f"{'ü' * 122}{n}.json" for n in range(2)]
    with atomic_file(tmp_path / names[0]) as one, atomic_file(tmp_path / names[1]) as other:
        one.write_text("0")
        other.write_text("1")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict(zip(names, "01", strict=True))


def test_a_broken_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as beside:
        (beside / "part").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("dear")
    with pytest.raises(ValueError, match="exists already"), atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "dear"


@given(st.dictionaries(st.text(), st.integers() | st.text(), max_size=5))
def test_fingerprints_know_content_not_order(record):
    assert fingerprint_of(record) == fingerprint_of(dict(reversed(record.items())))
    assert fingerprint_of(record) != fingerprint_of({**record, "one more": 1, "and": 2})


def test_json_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not a JSON file"):
        read_json(tmp_path / "bad.json")
