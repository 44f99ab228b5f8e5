"""The Slurm launch file under a real Slurm: two nodes on one machine, a task lost, the time limit. Minutes; for root.

apt install slurm-wlm munge
python -m pytest tests/cluster/test_slurm.py -m cluster -v
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = socket.gethostname().split(".")[0]
NODES = (HERE, f"{HERE}-other")
"""the first is a name that the machine knows: it becomes MASTER_ADDR"""
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "munge")
SMALL = [
    *("budget=256", "training.device=cpu", "training.threads=1", "training.log_every=1", "training.timeout=60"),
    *("training.validate_every=1000000", "training.checkpoint_every=5", "training.warmup_steps=99"),
    *("training.max_steps=1000000", "stage.transformer.dim=32", "stage.transformer.layers=2"),
    "stage.transformer.heads=2",
]


def has_slurm() -> bool:
    found = os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)
    return found and subprocess.run(["munge", "-n"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(not has_slurm(), reason="needs root, slurm-wlm, and munged running"),
]


class Slurm:
    """A controller and two nodes, of one configuration in a folder of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "state").mkdir()
        (home / "gpu").touch()
        settings = {
            "ClusterName": "triptych-test", "SlurmctldHost": f"{HERE}(127.0.0.1)", "SlurmUser": "root",
            "SlurmdUser": "root",
            "SlurmctldPort": "16817", "StateSaveLocation": home / "state", "SlurmdSpoolDir": home / "spool-%n",
            "SlurmctldPidFile": home / "controller.pid", "SlurmdPidFile": home / "%n.pid",
            "SlurmctldLogFile": home / "controller.log", "SlurmdLogFile": home / "%n.log",
            "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU", "MpiDefault": "none", "ReturnToService": "2", "GresTypes": "gpu",
            "SlurmdParameters": "config_overrides",
        }  # fmt: skip
        lines = [f"{key}={value}" for key, value in settings.items()]
        both, own = ",".join(NODES), f"NodeHostname={HERE} NodeAddr=127.0.0.1 Port=[16818-16819]"
        lines.append(f"NodeName={both} {own} CPUs=8 Gres=gpu:1")
        lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (home / "slurm.conf").write_text("\n".join(lines) + "\n")
        (home / "gres.conf").write_text(f"NodeName={both} Name=gpu File={home / 'gpu'}\n")
        (home / "bin").mkdir()
        (home / "bin" / "triptych").write_text(f'#!/bin/sh\nexec {sys.executable} -m triptych "$@"\n')
        (home / "bin" / "triptych").chmod(0o755)
        self.environment = dict(os.environ) | {
            "SLURM_CONF": str(home / "slurm.conf"),
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> "Slurm":
        self.call("slurmctld", "-i", "-c")
        for node in NODES:
            self.call("slurmd", "-N", node)
        self.until(lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(NODES)), 30)
        return self

    def __exit__(self, *_: object) -> None:
        self.call("scancel", "-u", "root")
        time.sleep(3)
        for file in self.home.glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGTERM)

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.everything()}"
        return done.stdout

    def until(self, come: Any, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while not come():
            assert time.monotonic() < give_up, self.everything()
            time.sleep(0.5)

    def everything(self) -> str:
        return "".join(f"--- {file.name}\n{file.read_text()[-3000:]}\n" for file in self.home.glob("*.log"))

    def latest(self) -> int:
        file = self.home / "run" / "latest"
        return int(file.read_text().removeprefix("step-")) if file.exists() else 0

    def tasks(self) -> dict[str, int]:
        """Rank to process."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                said, line = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            named = dict(part.split(b"=", 1) for part in said.split(b"\0") if b"=" in part)
            if named.get(b"SLURM_CONF") == self.environment["SLURM_CONF"].encode() and b"\0triptych\0train" in line:
                found[named[b"RANK"].decode()] = int(process.name)
        return found


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    with Slurm(tmp_path) as found:
        yield found


def test_a_job_goes_on_after_a_lost_task_and_after_its_time_limit(slurm: Slurm) -> None:
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests" / "training" / "tiny.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    shards = tiny.tiny_shards(slurm.home / "corpus")
    asked = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=1", "--time=30", "--parsable"]
    file = str(ROOT / "launch" / "train-slurm.sh")
    job = slurm.call("sbatch", *asked, file, "semantic", "run", f"shards={shards}", *SMALL).strip()

    slurm.until(lambda: slurm.latest() >= 10, 120)
    os.kill(slurm.tasks()["1"], signal.SIGKILL)
    slurm.until(lambda: "no sign of life from rank 1" in slurm.everything(), 120)
    lost_at = slurm.latest()
    slurm.until(lambda: slurm.latest() > lost_at, 300)  # requeued: Slurm waits two minutes

    slurm.call("scancel", "--batch", "--signal=USR1", job)  # what Slurm sends before the time limit
    slurm.until(lambda: "is whole, resume=true goes on from it" in slurm.everything(), 60)
    stopped_at = slurm.latest()
    slurm.until(lambda: slurm.latest() > stopped_at, 300)
    slurm.call("scancel", job)
    rows = map(json.loads, (slurm.home / "run" / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert set(steps) >= set(range(1, stopped_at + 1))
    assert steps[-1] > stopped_at and steps.count(1) == 1  # it did not begin anew
