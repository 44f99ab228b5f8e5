"""Safe writing: beside, fsync, rename.

Invariant: a reader sees the old file, or the whole new one, never a part of it. Knows nothing of what is written.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def fingerprint_of(record: Any) -> str:
    """16 hex digits over a JSON-able record, independent of the order of its keys."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _me() -> str:
    """In the names of unfinished files, since processes of several machines may write one shared folder."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _short(name: str) -> str:
    """A long name cut, with its digest: a file system takes 255 bytes, and the name beside has more to say."""
    whole = os.fsencode(name)
    return name if len(whole) <= 100 else whole[:80].decode(errors="ignore") + hashlib.sha256(whole).hexdigest()[:16]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; renames it over `path` when the block ends well, else removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{_short(path.stem)}.{_me()}.part{path.suffix}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_file`, for a folder that must not exist yet.

    Raises:
        ValueError: `path` exists and is not an empty folder.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{_me()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.is_dir():
            path.rmdir()
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raises ValueError where `path` is a file, or a folder with something in it."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} exists already: name another output, or move it away first")


def write_json(path: Path, record: Any) -> None:
    """Writes a JSON file whole or not at all."""
    with atomic_file(path) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: no such file, or not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
