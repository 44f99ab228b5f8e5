"""The machine that a benchmark runs on: how busy it is, how fast it reads memory, and works taken in turns.

Knows no model.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from triptych.lm import native

Work = Callable[[], float]
"""does something once; returns how much of it: tokens, or seconds of sound"""


class Bench:
    """The clock, the machine, and what was found."""

    def __init__(self, said: argparse.Namespace) -> None:
        self.said = said
        library = native.library()
        if library is None:
            sys.exit("no C++ compiler here: nothing of the native tier can be measured")
        self.library, self.memory = library, torch.ones(1 << 28)
        self.found: dict[str, Any] = {}

    def read_rate(self) -> float:
        """Bytes a second, once through a gigabyte."""
        began = time.perf_counter()
        self.library.read_all(self.memory.data_ptr(), self.memory.numel(), torch.get_num_threads())
        return self.memory.numel() * 4 / (time.perf_counter() - began)

    def turns(self, works: dict[str, Work], rounds: int | None = None) -> dict[str, dict[str, float]]:
        """Of each: the median of amount / seconds, the least and the most of it, and the read rate beside it."""
        rates: dict[str, list[float]] = {name: [] for name in works}
        reads: dict[str, list[float]] = {name: [] for name in works}
        for turn in range((rounds or self.said.rounds) + 1):
            for name, work in works.items():
                before = self.read_rate()
                began = time.perf_counter()
                amount = work()
                taken = time.perf_counter() - began - OFF.pop("seconds", 0.0)
                if turn:
                    rates[name].append(amount / taken)
                    reads[name].append(max(before, self.read_rate()))
        return {
            name: {
                "median": statistics.median(each),
                "least": min(each),
                "most": max(each),
                "read_GBps": statistics.median(reads[name]) / 1e9,
            }
            for name, each in rates.items()
        }

    def say(self, part: str, unit: str, found: dict[str, dict[str, float]], against: str | None = None) -> None:
        print(f"\n{part}")
        for name, rate in found.items():
            if against and name != against and against in found:
                rate["ratio"] = rate["median"] / found[against]["median"]
            more = f"  ×{rate['ratio']:.2f}" if "ratio" in rate else ""
            more += f"  {rate['share']:.0%} of the read rate" if "share" in rate else ""
            spread = f"{rate['least']:,.2f} to {rate['most']:,.2f}"
            print(f"  {name:<34} {rate['median']:10,.2f} {unit} ({spread}; read {rate['read_GBps']:.0f} GB/s){more}")
        self.found[part] = {"unit": unit, **found}


OFF: dict[str, float] = {}
"""seconds of a work that do not count: its prefill"""


def taken_by_others(seconds: float = 1.0) -> float:
    """Share of all processors that is at work while this process sleeps."""

    def ticks() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    try:
        (total, idle), _ = ticks(), time.sleep(seconds)
        after, idle_after = ticks()
    except OSError:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    return 1 - (idle_after - idle) / max(1, after - total)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
