"""Names that a person types, checked before any work begins: outputs, configs, lists of lines.

Invariant: a check leaves nothing behind. Parent folders are made by whoever writes, at the end. Knows no model.
"""

import os
import tempfile
from importlib.resources import files
from pathlib import Path

from triptych.training.files import refuse_existing


def check_wav(path: Path, force: bool) -> Path:
    """A wav that can be written.

    Raises:
        ValueError: it exists (without `force`), has another suffix, or its folder cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it, such as {path / 'out.wav'}")
    if path.suffix.lower() != ".wav":
        raise ValueError(f"{path}: the sound is written as WAV; name it {path.with_suffix('.wav').name}")
    if path.exists() and not force:
        raise ValueError(f"{path} exists already: name another output, or add --force")
    check_writable(path)
    return path


def check_folder(path: Path, force: bool = False) -> Path:
    """A folder that can be made.

    Raises:
        ValueError: it exists with something in it (without `force`), is a file, or cannot be written.
    """
    if not force or path.is_file():
        refuse_existing(path)
    check_writable(path / "x")
    return path


def check_writable(path: Path) -> None:
    """Raises ValueError where `path`, with its missing parents, could not be made."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be written: {folder} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {folder}: {error.strerror}") from None


def find_config(name: str | None) -> Path | None:
    """The yaml file that a name means: a path, or a name among the package's configs, such as semantic/base.

    Raises:
        ValueError: there is neither; lists what exists.
    """
    if name is None:
        return None
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    found = shipped.get(name.removesuffix(".yaml"))
    if found is None:
        raise ValueError(f"no config file or name '{name}': the names are {', '.join(sorted(shipped)) or 'none'}")
    return found


def shipped_configs() -> dict[str, Path]:
    """name -> file, of all configs in the package."""
    folder = Path(str(files("triptych"))) / "configs"
    found = (Path(base) / name for base, _, names in os.walk(folder) for name in names if name.endswith(".yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers from 1.

    Raises:
        ValueError: missing, not text, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no line of text")
    return lines
