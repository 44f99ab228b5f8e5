"""The page: all text is escaped, it needs nothing else, and it says what is missing; a browser finds it whole."""

import base64
import importlib.util
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.evaluation.compare import compare
from triptych.evaluation.evaluate import Report, read_report, write_report
from triptych.evaluation.page import page, strip
from triptych.evaluation.report import Column, Sample, Section, Sheet, plot

NASTY = "<script>alert('x')</script> & \"quoted\" </style>"
SUBJECT: dict[str, Any] = {
    "triptych": "0.1.0",
    "bundle": {"name": NASTY, "fingerprint": "1", "settings": {}},
    "manifest": {"name": NASTY, "fingerprint": "2"},
    "settings": {"clips": 3, "split": "test", "resamples": 50, "seed": 0},
    "judges": {"names": {"recogniser": NASTY}, "absent": {"speaker": NASTY}},
    "machine": "a machine",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    tone = 0.3 * np.sin(np.arange(24_000) * 0.1)
    soundfile.write(tmp_path / "samples" / "a.ogg", tone, 24_000, format="OGG", subtype="OPUS")
    return tmp_path


def report() -> Report:
    columns = {"words": Column(NASTY, "", 3, False), "voice": Column("voice", NASTY, 2, True)}
    sheet = Sheet("spoken", NASTY, columns, {"voice": NASTY})
    for number in range(8):
        sheet.put(NASTY, "words", NASTY + str(number), number / 8)
    drawn = plot("line", NASTY, lambda axes: axes.set_title(NASTY) and axes.plot([0, 1], [1, 0]))
    heard = Sample(NASTY, "samples/a.ogg", NASTY, {NASTY: [3, 3, 1, 2, 2]}, (NASTY,))
    gone = Sample("gone", "samples/gone.ogg")
    section = Section("speaking", NASTY, NASTY, (sheet.table(50, 0, NASTY),), (drawn,), (heard, gone))
    return Report(SUBJECT, (section, Section("cost", "Cost", "about")))


class Reader(HTMLParser):
    """Notes every element, and every address that an attribute names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "poster", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_text_is_escaped_and_nothing_is_fetched(folder: Path) -> None:
    found = compare(report(), report(), 50, 0)
    written = page(folder, report(), found)
    reader = read(written)
    assert "script" not in reader.tags and "alert('x')" not in written
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert not re.search(r"url\(|@import|https?://", written)
    assert reader.tags.count("audio") == 1 and reader.tags.count("img") == 1
    assert [a[1:] for a in reader.addresses if a.startswith("#")] == reader.ids == ["against", "speaking", "cost"]


def test_the_policy_forbids_what_the_page_does_not_need(folder: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page(folder, report()))
    assert policy is not None and "default-src 'none'" in policy[1] and "script" not in policy[1]


def test_what_is_missing_is_said(folder: Path) -> None:
    written = page(folder, report())
    assert ">–</td>" in written and "samples/gone.ogg is gone" in written
    assert "0.438<small>" in written  # the mean of 0/8 to 7/8


def test_plots_and_sounds_are_within(folder: Path) -> None:
    addresses = read(page(folder, report())).addresses
    (drawn,) = [a for a in addresses if a.startswith("data:image/svg")]
    (heard,) = [a for a in addresses if a.startswith("data:audio")]
    assert base64.b64decode(drawn.split(",")[1]).decode() == report().sections[0].plots[0].svg
    assert base64.b64decode(heard.split(",")[1]) == (folder / "samples" / "a.ogg").read_bytes()


def test_a_strip_has_a_block_for_every_token() -> None:
    ids = np.random.default_rng(0).integers(0, 30, 100).tolist()
    wide = [int(n) for n in re.findall(r"h(\d+)v1", strip("semantic", ids))]
    assert sum(wide) == 100 and len(wide) == 1 + sum(a != b for a, b in pairwise(ids))
    assert "<path" not in strip("semantic", [])


def test_a_report_is_read_as_it_was_written(folder: Path) -> None:
    write_report(folder, report(), report())
    assert read_report(folder) == report()
    with pytest.raises(ValueError, match="holds no report"):
        read_report(folder / "samples")


PATH = Path(__file__).with_name("browser.py")
SPEC = importlib.util.spec_from_file_location("browser", PATH)
assert SPEC is not None and SPEC.loader is not None
browser = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(browser)
needs_browser = pytest.mark.skipif(browser.find_browser() is None, reason="no chromium here: apt install chromium")

SOUNDS = """Promise.all(Array.from(document.querySelectorAll("audio")).map(a =>
  a.error ? "error" : a.readyState ? a.duration : new Promise(done => {
    a.onloadedmetadata = () => done(a.duration); a.onerror = () => done("error"); })))"""
PICTURES = "Array.from(document.images).map(i => i.complete ? i.naturalWidth : 0)"
STARTER_REPORT = Path(__file__).parents[2] / "docs" / "starter-report"


def open_page(file: Path, scratch: Path) -> tuple[list[float], list[int], list[str], list[str]]:
    """Seconds of each player, width of each plot, requests but for the page and what is in it, complaints."""
    with browser.Browser(scratch) as window:
        window.open(file.as_uri())
        sounds, pictures = window.evaluate(SOUNDS), window.evaluate(PICTURES)
        asked = [url for url in window.requests if url != file.as_uri() and not url.startswith("data:")]
        return sounds, pictures, asked, window.errors


@needs_browser
def test_a_browser_finds_it_whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write_report(folder, report(), report())
    sounds, pictures, asked, errors = open_page(folder / "report.html", tmp_path_factory.mktemp("profile"))
    assert sounds == [pytest.approx(1.0, abs=0.05)] and len(pictures) == 1 and pictures[0] > 100
    assert (asked, errors) == ([], [])


@needs_browser
def test_the_browser_would_tell(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<audio src='data:audio/ogg;base64,AAAA'></audio><img src='http://127.0.0.1:9/x.png'><script>y()</script>"
    )
    sounds, pictures, asked, errors = open_page(bad, tmp_path_factory.mktemp("profile"))
    assert isinstance(sounds[0], str) and pictures == [0]
    assert asked == ["http://127.0.0.1:9/x.png"] and any("y is not defined" in error for error in errors)


@needs_browser
@pytest.mark.skipif(not (STARTER_REPORT / "report.html").is_file(), reason="no docs here")
def test_the_starters_report_in_a_browser(tmp_path_factory: pytest.TempPathFactory) -> None:
    page_file = STARTER_REPORT / "report.html"
    sounds, pictures, asked, errors = open_page(page_file, tmp_path_factory.mktemp("profile"))
    assert len(sounds) >= 5 and all(isinstance(s, float | int) and s > 0.3 for s in sounds)
    assert len(pictures) >= 3 and min(pictures) > 100
    assert (asked, errors) == ([], [])
