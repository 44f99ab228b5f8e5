"""Means and rates between two lines of a log. Knows what is logged by name alone."""

import time
from collections.abc import Mapping


class Clock:
    """Means of the metrics since the last line, and rates."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.began, self.waited, self.count = time.monotonic(), 0.0, 0
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}  # a metric need not be there at every step

    def add(self, metrics: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self, rate: float) -> dict[str, float]:
        seconds = max(1e-9, time.monotonic() - self.began)
        values = {name: value / self.counts[name] for name, value in self.sums.items()}
        values |= {"learning_rate": rate, "seconds_per_step": seconds / max(1, self.count)}
        values["loader_wait_share"] = self.waited / seconds
        values["targets_per_second"] = self.sums.get("targets", 0.0) / seconds
        self.restart()
        return values
