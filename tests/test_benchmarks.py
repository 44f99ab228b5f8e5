"""Each benchmark of a step runs to its end; at these sizes its figures mean nothing."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ("--dim", "32", "--heads", "2", "--layers", "1", "--rows", "2", "--steps", "32", "--rounds", "1", "--busy")


def test_training_steps_are_compared() -> None:
    line = [sys.executable, ROOT / "benchmarks" / "train.py", *TINY, "--budget", "2600", "--dtype", "fp32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("losses equal") == 2
    for stage in ("semantic", "coarse", "fine"):
        assert f"  {stage} " in run.stdout
