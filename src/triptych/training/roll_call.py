"""Who is here: ranks sign a store as they come and at every step, so that a hang names the rank that is missing.

    a 1 s beat, by a thread of each rank     present/3 = {"host": "node-2", "pid": 411, "beat": 57, "at": "step 812"}

A rank whose collective fails, or that stands still for `timeout` seconds, asks the store who is there: a beat that
stands still is a process or host that is gone; one that goes on at an earlier step is a rank that hangs. It says so in
one line and ends, whatever library the wait is in. Knows no model and no backend.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # not in its __all__

BEAT = 1.0
"""seconds between two signs of life"""
LOST = 75
"""exit code where a rank is missing: EX_TEMPFAIL of sysexits.h, 'try again'"""
ANSWER = 5.0
"""seconds that the store has to answer"""


class RankLost(ConnectionError):
    """Another rank is gone or hangs. The message is one line for the user."""


def open_store(timeout: float) -> Store:
    """The store that the launcher's variables name; rank 0 serves it, unless torchrun's agent does.

    Raises:
        RankLost: nobody answers there.
        ValueError: MASTER_ADDR or MASTER_PORT is not set.
    """
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as missing:
        raise ValueError(f"WORLD_SIZE is set, but {missing} is not: start with torchrun, deepspeed or srun") from None
    serves = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(host, port, None, serves, timedelta(seconds=timeout), wait_for_workers=False)
    except (DistError, RuntimeError) as error:
        raise RankLost(
            f"rank {os.environ['RANK']}: nobody answers at {host}:{port} (MASTER_ADDR, MASTER_PORT), {timeout:g} s: "
            f"is rank 0 running, and may this host reach it? ({str(error).splitlines()[0][:120]})"
        ) from None
    return PrefixStore(f"triptych-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


class RollCall:
    """This rank's entry in the store, and its sight of the others.

    Args:
        timeout: seconds without a micro-batch after which `end` is called with a line that names who is missing.
    """

    def __init__(
        self, store: Store, rank: int, world: int, timeout: float, end: Callable[[str], None] | None = None
    ) -> None:
        self.store: Any = store
        self.rank, self.world, self.timeout = rank, world, timeout
        self._end = end or self._leave
        self._mine: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "beat": 0, "at": "the start"}
        self._moved = time.monotonic()
        self._done = threading.Event()
        self.before_leaving: list[Callable[[], None]] = []
        """called before the process ends for want of another: a lock to give back"""

    def everyone(self) -> None:
        """Signs, and returns once all ranks have.

        Raises:
            RankLost: some have not within `timeout` seconds; it names them.
        """
        began, missing = time.monotonic(), list(range(self.world))
        try:
            self._sign(self.store)
            while missing:
                missing = [other for other in missing if not self.store.check([f"present/{other}"])]
                if missing and time.monotonic() - began > self.timeout:
                    there = sorted({self._read(r)["host"] for r in range(self.world) if r not in missing})
                    raise RankLost(
                        f"rank {self.rank}: after {self.timeout:g} s still missing: {_ranks(missing)} of "
                        f"{self.world}; the others are on {', '.join(there)}"
                    )
                if missing:
                    time.sleep(0.05)
        except (DistError, RuntimeError) as error:
            raise RankLost(f"rank {self.rank}: rank 0's store is gone ({str(error).splitlines()[0][:120]})") from None

    def start(self) -> "RollCall":
        """Begins the beat."""
        self._beat = threading.Thread(target=self._run, name="roll-call", daemon=True)
        self._beat.start()
        return self

    def stop(self) -> None:
        """Ends the beat: no rank is missed from now on."""
        self._done.set()

    def reached(self, what: str) -> None:
        """This rank goes on with `what`, such as "step 812": it does not stand still."""
        self._mine["at"], self._moved = what, time.monotonic()

    def missing(self) -> str:
        """One line: who is silent, or who is behind; takes a few seconds."""
        answer: list[str] = []
        asking = threading.Thread(target=lambda: answer.append(self._ask()), daemon=True)
        asking.start()
        asking.join(3 * ANSWER)
        at = self._mine["at"]
        return f"rank {self.rank} on {self._mine['host']} waited at {at}: " + (
            answer[0] if answer else self._no_store()
        )

    def _ask(self) -> str:
        try:
            store = self.store.clone()
            store.set_timeout(timedelta(seconds=ANSWER))
            first = [json.loads(store.get(f"present/{other}")) for other in range(self.world)]
            time.sleep(2.5 * BEAT)
            second = [json.loads(store.get(f"present/{other}")) for other in range(self.world)]
        except (DistError, RuntimeError):
            return self._no_store()
        others = [other for other in range(self.world) if other != self.rank]
        silent = [other for other in others if first[other]["beat"] == second[other]["beat"]]
        if silent:
            named = ", ".join(f"rank {r} on {second[r]['host']} (last at {second[r]['at']})" for r in silent[:8])
            more = f" and {len(silent) - 8} more" if len(silent) > 8 else ""
            return f"no sign of life from {named}{more}: its process or host is gone"
        places = {other: second[other]["at"] for other in others}
        elsewhere = [other for other in others if places[other] != self._mine["at"]] or others
        named = ", ".join(f"rank {other} on {second[other]['host']} is at {places[other]}" for other in elsewhere[:8])
        return f"all ranks live, but {named}: it hangs, or is far slower"

    def _no_store(self) -> str:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        return f"rank 0's host does not answer at {address}: it is gone, or cut off"

    def _read(self, rank: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.get(f"present/{rank}"))
        return found

    def _sign(self, store: Store) -> None:
        self._mine["beat"] += 1
        store.set(f"present/{self.rank}", json.dumps(self._mine))

    def _run(self) -> None:
        store, store_lives = self.store.clone(), True  # a connection of its own: the main thread may wait in the other
        while not self._done.wait(BEAT):
            if store_lives:
                try:
                    self._sign(store)
                except (DistError, RuntimeError):
                    store_lives = False
            if time.monotonic() - self._moved > self.timeout:
                line = self.missing()
                if not self._done.is_set():
                    self._end(f"{line}; gave up after {self.timeout:g} s without progress (training.timeout)")
                return

    def _leave(self, line: str) -> None:
        """The main thread sits in a library's wait and hears nothing: the process ends from here."""
        for act in self.before_leaving:
            with suppress(OSError):
                act()
        print(f"triptych: {line}", file=sys.stderr, flush=True)
        os._exit(LOST)


def is_of_collective(error: BaseException) -> bool:
    """Whether an error came out of a collective whose other side is gone, as gloo, nccl and the store word it."""
    if isinstance(error, DistError):
        return True
    words = ("connection closed by peer", "connection reset", "gloo", "nccl", "timed out waiting", "broken pipe")
    return type(error) is RuntimeError and any(word in str(error).lower() for word in words)


def _ranks(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:16]) + (", …" if len(numbers) > 16 else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"
