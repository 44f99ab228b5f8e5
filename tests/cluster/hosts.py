"""Two hosts on one machine: a network namespace each, joined by a cable (a veth pair), each with processes of its own.

    node-a  10.77.0.1  net0 ════════ net0  10.77.0.2  node-b

A command runs in a host's network and in a process namespace of its own: to kill it is to kill all that it started.
Needs root and iproute2. Knows no training.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

NAMES = ("node-a", "node-b")
CABLE = "net0"
"""of the same name on both hosts, as GLOO_SOCKET_IFNAME wants it"""


def can_make_hosts() -> bool:
    """Whether this user may make namespaces here."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    try_out = "ip netns add triptych-try && ip netns del triptych-try && unshare --pid --fork --mount-proc --uts true"
    return subprocess.run(["sh", "-c", try_out], capture_output=True).returncode == 0


def address(host: int) -> str:
    return f"10.77.0.{host + 1}"


class TwoHosts:
    """The hosts while the block lasts.

    Args:
        home: where /root/.ssh of both hosts lies, should they have one.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "TwoHosts":
        self._remove()
        for host, name in enumerate(NAMES):
            ip("netns", "add", name)
            ip("link", "add", "peer0", "type", "veth", "peer", "name", "peer1") if host == 0 else None
        for host, name in enumerate(NAMES):
            ip("link", "set", f"peer{host}", "netns", name)
            ip("-n", name, "link", "set", f"peer{host}", "name", CABLE)
            ip("-n", name, "addr", "add", f"{address(host)}/24", "dev", CABLE)
            for interface in ("lo", CABLE):
                ip("-n", name, "link", "set", interface, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            kill(process)
        self._remove()

    def _remove(self) -> None:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", "peer0"], capture_output=True)

    def start(
        self, host: int, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> "subprocess.Popen[str]":
        """Starts a command on a host; its output goes to `log`."""
        own = [
            "ip",
            "netns",
            "exec",
            NAMES[host],
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--uts",
        ]
        inside = f'hostname {NAMES[host]}; [ ! -d /root/.ssh ] || mount --bind {self.home} /root/.ssh; exec "$@"'
        with open(log, "a") as stream:
            process = subprocess.Popen(
                [*own, "sh", "-c", inside, "sh", *command],
                env={**os.environ, "GLOO_SOCKET_IFNAME": CABLE, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.running.append(process)
        return process

    def cut(self, *, mend: bool = False) -> None:
        """Takes node-b off the network, without a word to anybody; or puts it back."""
        ip("-n", NAMES[1], "link", "set", CABLE, "up" if mend else "down")


def kill(process: "subprocess.Popen[str]") -> None:
    """Ends a host's command and all that it started, at once."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)  # unshare's --kill-child takes the first process of the namespace along
        process.wait()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
