"""Names are checked before any work, and a check leaves nothing behind."""

import os
from pathlib import Path

import pytest

from triptych.cli.paths import check_folder, check_wav, find_config, read_lines, shipped_configs


def test_good_outputs_are_not_made_yet(tmp_path: Path) -> None:
    check_wav(tmp_path / "a" / "b" / "c.wav", force=False)
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        check_wav(tmp_path / "a" / "c.wav", force=False)


def test_a_place_that_takes_no_files() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        check_wav(Path("/proc/none/c.wav"), force=False)


def test_configs_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\n")
    assert find_config(str(mine)) == mine
    assert find_config(None) is None
    for name, path in shipped_configs().items():
        assert find_config(name) == path == find_config(name + ".yaml")
    with pytest.raises(ValueError, match="no config file or name 'semantic/hugee'"):
        find_config("semantic/hugee")


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\ufeffa\n\n b \n", encoding="utf-8")
    assert read_lines(path) == [(1, "a"), (3, "b")]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_lines(path)
