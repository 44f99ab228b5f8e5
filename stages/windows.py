"""One window schedule for speech longer than a stage was trained on.

    beats       0         1         2         3
    window 0    |voice|===new=====|
    window 1    |voice|      |tail|===new=====|          tail: the end of what is made already, heard again
    window 2    |voice|                  |tail|===new==|

Knows beats only.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Beats [context, start) are heard again, [start, stop) are made."""

    context: int
    start: int
    stop: int


def windows(total: int, longest: int, tail: int, made: int = 0) -> list[Window]:
    """Windows that make the beats from `made` to `total`, each at most `longest` with its tail of at most `tail`."""
    assert 0 <= tail < longest, f"a tail of {tail} beats leaves nothing of a window of {longest}"
    found, start = [], made
    while start < total:
        context = max(0, start - tail)
        stop = min(total, context + longest)
        found.append(Window(context, start, stop))
        start = stop
    return found
