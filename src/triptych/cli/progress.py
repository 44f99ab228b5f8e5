"""How far a long work is and how fast it goes, on stderr; results, on stdout.

    terminal        tokenize  ━━━━━━━━╸────  312/1200  8.4 clips/s  0:01:46
    anything else   the same numbers, as a plain line every half minute

File names are printed as they are: markup is off everywhere, so `take[/b].wav` is only a name. Knows no work.
"""

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

QUIET_SECONDS = 30.0
"""between two lines where stderr is not a terminal"""
SETTLED_SECONDS = 0.1
"""before that a rate says nothing"""
SHOWN_METRICS = ("loss", "accuracy", "perplexity", "gradient_norm")


def log(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def result(line: str) -> None:
    """One line on stdout."""
    print(line, flush=True)


def result_json(record: Any) -> None:
    """One JSON document on one line of stdout."""
    print(json.dumps(record, ensure_ascii=False, default=str), flush=True)


class Bar:
    """Progress of one work; calling it moves it."""

    def __init__(self, title: str, unit: str, total: int | None = None) -> None:
        self.title, self.unit, self.total = title, unit, total
        self._steps = unit, total
        self.done = 0
        self.note = ""
        self._rich: Any = None

    def __enter__(self) -> "Bar":
        self._first: tuple[int, float] | None = None
        self._printed = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._rich = Progress(
                TextColumn(self.title, markup=False),
                BarColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True, markup=False, highlight=False),
                # Results on the same screen go above the bar; results into a file or pipe stay where they belong.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._rich.add_task(self.title, total=None, count="", note="")
            self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._rich:
            self._rich.stop()
        elif self.done and kind is None:
            log(self.line())

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """`done` of `total` units are ready."""
        now = time.monotonic()
        if self._first is None or done < self.done:  # the first call, or that of another pass
            self._first = (done - 1, self._printed if self._first is None else now)
        self.done, self.total, self.note = done, total if total is not None else self.total, note
        if self._rich:
            self._rich.update(self._task, completed=done, total=self.total, count=self.count(), note=note)
        elif now - self._printed > QUIET_SECONDS:
            self._printed = now
            log(self.line())

    def read(self) -> None:
        """One more clip is read, before the first step."""
        if self.unit != "clips read":
            self.unit, self.total, self.done = "clips read", None, 0
        self(self.done + 1)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """As `triptych.training.loop.train` calls it."""
        if (self.unit, self.total) != self._steps:
            self.unit, self.total = self._steps
            self._first = None
        shown = [name for name in SHOWN_METRICS if name in metrics]
        self(step, note="  ".join(f"{name} {metrics[name]:.3f}" for name in shown))

    def rate(self) -> float:
        """Units a second since the first call; a resumed work counts only what it did itself."""
        if self._first is None:
            return 0.0
        began, at = self._first
        elapsed = time.monotonic() - at
        return (self.done - began) / elapsed if elapsed > SETTLED_SECONDS else 0.0

    def count(self) -> str:
        of = f"/{self.total}" if self.total is not None else ""
        return f"{self.done}{of} {self.unit}  {self.rate():.1f}/s"

    def line(self) -> str:
        return "  ".join(part for part in (self.title, self.count(), self.note) if part)
