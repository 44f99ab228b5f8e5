"""Two hosts train with the launch files themselves, lose one another, and go on. Minutes; for root.

python -m pytest tests/cluster -m cluster -v
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 45
"""seconds without a step until a rank gives up"""


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hosts, tiny = load(Path(__file__).with_name("hosts.py")), load(ROOT / "tests" / "training" / "tiny.py")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
HAS_SSH = all(Path(path).exists() for path in ("/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/pdsh"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(not hosts.can_make_hosts(), reason="needs root, ip and unshare"),
]
SMALL = (
    "budget=256 training.device=cpu training.threads=1 training.log_every=1 training.validate_every=1000000 "
    f"training.checkpoint_every=2 training.warmup_steps=99 training.timeout={TIMEOUT} "
    "stage.transformer.dim=32 stage.transformer.layers=2 stage.transformer.heads=2"
).split()


class Cluster:
    """Two hosts, a folder that both see, and the launch files."""

    def __init__(self, pair: Any, home: Path, shards: Path) -> None:
        self.pair, self.home, self.shards = pair, home, shards
        self.port = 29500
        (home / "bin").mkdir()
        programs = {
            "torchrun": "torch.distributed.run",
            "deepspeed": "deepspeed.launcher.runner",
            "triptych": "triptych",
        }
        for name, module in programs.items():
            call = "from deepspeed.launcher.runner import main; main()" if name == "deepspeed" else ""
            line = f"-c '{call}'" if call else f"-m {module}"
            (home / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {line} "$@"\n')
            (home / "bin" / name).chmod(0o755)
        (home / "hostfile").write_text("".join(f"{hosts.address(host)} slots=1\n" for host in (0, 1)))
        # What ssh does not bring along, as a user would write it.
        mine = {"PATH": self.path, "GLOO_SOCKET_IFNAME": hosts.CABLE, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        (home / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in mine.items()))

    @property
    def path(self) -> str:
        return f"{self.home / 'bin'}:{os.environ['PATH']}"

    def train(self, launcher: str, stage: str, *more: str) -> list[Any]:
        """Starts the launch file on the hosts that it is to be started on."""
        self.port += 1
        own = [*SMALL, f"shards={self.shards}", *more]
        if stage == "fine":
            own.append("stage.transformer.causal=false")
        file = {"torchrun": "train-torchrun.sh", "no_ssh": "train-deepspeed-no-ssh.sh", "ssh": "train-deepspeed.sh"}
        before = [] if launcher == "torchrun" else [str(self.home / "hostfile")]
        command = [str(ROOT / "launch" / file[launcher]), *before, stage, str(self.home / "run"), *own]
        shared = {"PATH": self.path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        shared |= {"MASTER": hosts.address(0), "PORT": str(self.port), "NODES": "2", "PER_NODE": "1"}
        shared |= {"DS_ACCELERATOR": "cpu", "DS_ENV_FILE": str(self.home / ".deepspeed_env")}
        places = (0,) if launcher == "ssh" else (0, 1)
        started = []
        for host in places:
            shared["NODE_RANK"] = str(host)
            self.log(host).unlink(missing_ok=True)
            started.append(self.pair.start(host, command, shared, self.log(host)))
        return started

    def log(self, host: int) -> Path:
        return Path(self.home / f"host-{host}.log")

    def said(self, host: int) -> str:
        return self.log(host).read_text() if self.log(host).exists() else ""

    def everything(self) -> str:
        return "".join(f"--- host {host}\n{self.said(host)[-4000:]}\n" for host in (0, 1))

    def finish(self, started: list[Any], seconds: float = 300) -> list[int]:
        return [process.wait(seconds) for process in started]

    def losses(self) -> dict[int, float]:
        rows = map(json.loads, open(self.home / "run" / "metrics.jsonl"))
        return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}

    def latest(self) -> int:
        file = self.home / "run" / "latest"
        return int(file.read_text().removeprefix("step-")) if file.exists() else 0

    def wait_for_step(self, step: int, seconds: float = 240) -> None:
        give_up = time.monotonic() + seconds
        while self.latest() < step:
            assert time.monotonic() < give_up, self.everything()
            time.sleep(0.5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.tiny_shards(tmp_path_factory.mktemp("tiny") / "corpus"))


@pytest.fixture
def cluster(tmp_path: Path, shards: Path) -> Iterator[Cluster]:
    (tmp_path / "ssh").mkdir(mode=0o700)
    with hosts.TwoHosts(tmp_path / "ssh") as pair:
        yield Cluster(pair, tmp_path, shards)


def serve_ssh(cluster: Cluster) -> None:
    """A key for root, known on both hosts, and sshd on each; only these hosts see the folder as /root/.ssh."""
    folder = cluster.home / "ssh"
    Path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("id_ed25519", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "id_ed25519.pub", folder / "authorized_keys")
    (folder / "config").write_text(
        "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    options = [f"HostKey={folder / 'host_key'}", "PidFile=none", "UsePAM=no", "StrictModes=no", "PermitRootLogin=yes"]
    line = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *(f"-o{option}" for option in options)]
    for host in (0, 1):
        cluster.pair.start(host, line, {}, cluster.home / f"sshd-{host}.log")


LATIN = [
    (launcher, stage, 1 + (i + j) % 3)
    for i, launcher in enumerate(("torchrun", "no_ssh", "ssh"))
    for j, stage in enumerate(("semantic", "coarse", "fine"))
]
"""each stage meets each launcher and each stage of ZeRO, and so does each launcher"""


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")
@pytest.mark.parametrize(("launcher", "stage", "zero"), LATIN)
def test_two_hosts_train_write_a_checkpoint_and_go_on(cluster: Cluster, launcher: str, stage: str, zero: int) -> None:
    if launcher == "ssh":
        if not HAS_SSH:
            pytest.skip("needs openssh-server and pdsh")
        serve_ssh(cluster)
    for last in (4, 6):
        started = cluster.train(launcher, stage, f"training.deepspeed.zero={zero}", f"training.max_steps={last}")
        assert set(cluster.finish(started)) == {0}, cluster.everything()
        assert cluster.latest() == last
    assert list(cluster.losses()) == [1, 2, 3, 4, 5, 6]
    assert cluster.losses()[5] < cluster.losses()[1] + 0.5  # it did not begin anew
    read = json.loads(
        (cluster.home / "run" / "checkpoints" / "step-00000006" / "trainer" / "progress.json").read_text()
    )
    assert read == {"micro_batches": 12}  # of two ranks


@pytest.mark.parametrize("zero", ["null", *(["1", "3"] if HAS_DEEPSPEED else [])])
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_host_that_is_gone_is_named_and_the_run_goes_on(cluster: Cluster, how: str, zero: str) -> None:
    line = ("torchrun", "semantic", f"training.deepspeed.zero={zero}")
    first, second = cluster.train(*line, "training.max_steps=1000000")
    cluster.wait_for_step(4)
    began = time.monotonic()
    hosts.kill(second) if how == "killed" else cluster.pair.cut()
    assert first.wait(TIMEOUT + 60) != 0
    took = time.monotonic() - began
    assert "no sign of life from rank 1 on node-b (last at " in cluster.said(0), cluster.everything()
    if how == "cut off":
        assert second.wait(TIMEOUT + 60) != 0
        assert "rank 0's host does not answer at 10.77.0.1" in cluster.said(1), cluster.everything()
        cluster.pair.cut(mend=True)
    print(f"{how}, zero={zero}: named after {took:.0f} s (timeout {TIMEOUT} s)")
    at = cluster.latest()
    assert set(cluster.finish(cluster.train(*line, f"training.max_steps={at + 2}"))) == {0}, cluster.everything()
    assert cluster.latest() == at + 2
