"""Tells a whole audio file from one whose end is missing, where decoders pass that over in silence.

    WAV, AIFF    the size in the first eight bytes is more than there is
    Ogg, Opus    the file ends inside a page; an ID3v1 tag may follow the last one

A copy that was broken off would else train as speech whose last words are never said. Reads a few kilobytes.
"""

from pathlib import Path

UNKNOWN_SIZE = 0x7FFF0000
"""writers that cannot go back (pipes) leave this size or more"""
LONGEST_PAGE = 65307
"""bytes, of an Ogg page (RFC 3533)"""
TAG_BYTES = 128
"""of an ID3v1 tag, which begins with TAG"""


def check_whole(path: Path) -> None:
    """
    Raises:
        ValueError: `path` is missing, a folder, not to be read, or cut short; names it.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path}: a folder, not an audio file")
        if is_cut_short(path):
            raise ValueError(f"{path}: cut short, its end is missing; copy or record it again")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def is_cut_short(path: Path) -> bool:
    """True if bytes are missing at the end of `path`; False if not, or if its format does not say."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(8)
        if head[:4] in (b"RIFF", b"FORM"):
            said = int.from_bytes(head[4:], "little" if head[:4] == b"RIFF" else "big")
            if said == size:  # some writers count these eight bytes too
                return False
            return said < UNKNOWN_SIZE and said + 8 > size + 1  # some leave out the last padding byte
        if head[:4] == b"OggS":
            stream.seek(max(0, size - 2 * LONGEST_PAGE))
            tail = stream.read()
            return not _ends_with_page(tail[:-TAG_BYTES] if tail[-TAG_BYTES:].startswith(b"TAG") else tail)
    return False


def _ends_with_page(tail: bytes) -> bool:
    """Walks from each page header that is found, the last first, to the end of the bytes."""
    at = tail.rfind(b"OggS")
    while at >= 0:
        segments = tail[at + 26 : at + 27]
        table = tail[at + 27 : at + 27 + (segments[0] if segments else 0)]
        if segments and len(table) == segments[0] and at + 27 + len(table) + sum(table) == len(tail):
            return True
        at = tail.rfind(b"OggS", 0, at)
    return False
