"""Freed memory that stays: the blocks of one step are those of the next, without new pages of the system."""

import platform
import subprocess
import sys

import pytest

from triptych.training import memory

STEPS = """
import resource, torch
from triptych.training.memory import keep_freed_memory
assert keep_freed_memory()

def step():
    blocks = [torch.ones(6 << 20) for _ in range(8)]  # 24 MiB each

for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_a_step_takes_the_pages_of_the_step_before() -> None:
    run = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 6144  # of 196608: what one block costs


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
