"""One window schedule for speech longer than a stage was trained on, for speech whole and speech in the making alike.

    beats       0         1         2         3
    window 0    |voice|===new=====|
    window 1    |voice|      |tail|===new=====|          tail: the end of what is made already, heard again
    window 2    |voice|                  |tail|===new==|

With a short first window sound begins early: the window after it is twice as long, and so on up to the longest. Knows
the time grid only.
"""

from dataclasses import dataclass

from triptych.tokenizers.spec import TimeGrid


@dataclass(frozen=True)
class Window:
    """Beats [context, start) are heard again, [start, stop) are made."""

    context: int
    start: int
    stop: int


@dataclass(frozen=True)
class Schedule:
    """Where windows lie."""

    longest: int
    """beats of a window, with its tail"""
    tail: int
    """beats that are heard again, at most"""
    first: int = 0
    """beats of the first window; 0: the longest"""

    def __post_init__(self) -> None:
        assert 0 <= self.tail < self.longest, (
            f"a tail of {self.tail} beats leaves nothing of a window of {self.longest}"
        )

    def next(self, number: int, made: int, known: int, ended: bool) -> Window | None:
        """Window `number`, that goes on from beat `made`; None: the input up to beat `known` does not fill it yet, or,
        if that is all there is, nothing is left to make."""
        longest = min(self.longest, self.first << number) if self.first and number < 32 else self.longest
        tail = self.tail if longest == self.longest else min(self.tail, longest // 2)
        context = max(0, made - tail)
        stop = context + longest
        if made >= known or (known < stop and not ended):
            return None
        return Window(context, made, min(known, stop))

    @classmethod
    def of(cls, grid: TimeGrid, longest: int, tail_seconds: float, first_seconds: float = 0.0) -> "Schedule":
        """From seconds, but for `longest`, in beats; a tail is at most half of a window."""
        first = min(longest, max(2, grid.beats(first_seconds))) if first_seconds else 0
        return cls(longest, min(grid.beats(tail_seconds), longest // 2), first)


def windows(total: int, longest: int, tail: int, made: int = 0, first: int = 0) -> list[Window]:
    """Windows that make the beats from `made` to `total`."""
    schedule, found = Schedule(longest, tail, first), list[Window]()
    while (window := schedule.next(len(found), made, total, True)) is not None:
        found.append(window)
        made = window.stop
    return found
