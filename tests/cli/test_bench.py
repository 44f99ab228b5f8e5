"""`triptych bench` on the starter: a figure for each stage, alone and in a batch, and two streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "triptych", "bench", *words]
    environment = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_every_stage_has_a_figure() -> None:
    run = bench("--batch", "2", "--json")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {(row["stage"], row["requests"]) for row in found["stages"]} == {
        (stage, requests) for stage in ("semantic", "coarse", "fine", "codec") for requests in (1, 2)
    }
    assert all(row["tokens_per_second"] > 0 for row in found["stages"])
    assert len(found["streams"]) == 2 and all(0 < one["first"] <= one["work"] for one in found["streams"].values())


def test_no_request_is_refused_in_a_line() -> None:
    run = bench("--batch", "0")
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "--batch 0" in run.stderr
