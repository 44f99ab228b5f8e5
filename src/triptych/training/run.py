"""A run folder: one place that a training run owns, and all that it leaves there.

    runs/semantic/
      config.yaml               resolved: what was said, with every default
      metrics.jsonl             a line each log, validation and checkpoint
      events.out.tfevents…      the same for TensorBoard, with sound
      lock                      host and pid of the process that writes here
      latest, best, checkpoints/        see checkpoint.py

Two runs cannot write one folder. Of several ranks, the first alone writes. Knows nothing of what is trained.
"""

import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from triptych.training.distributed import before_leaving, rank, wait_for_all
from triptych.training.files import atomic_file, read_json, write_json

_held: set[Path] = set()
"""locks of this very process"""


def refuse_run(path: Path) -> None:
    """Raises ValueError where `path` holds a run: to be asked before anything of it is written."""
    if (path / "latest").exists():
        raise ValueError(f"{path} holds a run already: add resume=true to go on with it, or name another folder")


class RunFolder:
    """Owns `path` until closed.

    Raises:
        ValueError: another living process owns it.
    """

    def __init__(self, path: Path, config: Mapping[str, Any] | None = None) -> None:
        self.path, self.writes, self.config = path, rank() == 0, config
        self._writer: Any = None
        if self.writes:
            self._open()
        wait_for_all()  # the others read here what the first has written

    def _open(self) -> None:
        path = self.path
        path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        before_leaving((path / "lock").unlink)
        for left in path.rglob(".*.part*"):  # of a process that was killed; the lock says that it is gone
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not (path / "latest").exists():  # else the old one stays until `rewind`: going on may still be refused
            self._write_config()
        self._begin_log()

    def _write_config(self) -> None:
        if self.config is not None:
            import yaml

            with atomic_file(self.path / "config.yaml") as beside:
                beside.write_text(yaml.safe_dump(dict(self.config), sort_keys=False), encoding="utf-8")

    def _begin_log(self, after: int | None = None) -> None:
        """Opens both logs; TensorBoard forgets what it knows of the steps after `after`."""
        self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path), purge_step=None if after is None else after + 1)
        except ImportError:  # TensorBoard is part of the extra `train`; metrics.jsonl holds the same numbers
            pass

    def rewind(self, step: int) -> None:
        """Drops what a killed process logged after `step`, which is taken again, and a line that it did not finish."""
        file = self.path / "metrics.jsonl"
        if self.writes:
            self._write_config()
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            if kept != lines:
                self._end_log()
                with atomic_file(file) as beside:
                    beside.write_text("".join(kept), encoding="utf-8")
                self._begin_log(step)
        wait_for_all()

    def _end_log(self) -> None:
        with suppress(OSError):  # a full disk: what could not be logged was said when it was to be
            self._metrics.close()
        if self._writer:
            with suppress(OSError):
                self._writer.close()

    def _take_lock(self) -> None:
        lock = self.path / "lock"
        mine = {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            with open(lock, "x", encoding="utf-8") as stream:
                try:
                    stream.write(json.dumps(mine))
                    stream.flush()
                except OSError:  # a full disk
                    lock.unlink()
                    raise
            _held.add(lock.resolve())
            return
        except FileExistsError:
            try:
                owner = read_json(lock)
            except ValueError as error:
                raise ValueError(f"{error}: remove it, if no process trains there") from None
        pid, here = int(owner["pid"]), owner.get("host") == mine["host"]
        # a container that began anew gives the same number again
        alive = lock.resolve() in _held if pid == mine["pid"] else _alive(pid)
        if not here or alive:
            raise ValueError(
                f"{self.path} belongs to process {owner['pid']} on {owner['host']}: "
                f"choose another run folder, or remove {lock} if that process is gone"
            )
        write_json(lock, mine)
        _held.add(lock.resolve())

    def log(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Appends one line to metrics.jsonl, and the same scalars to TensorBoard."""
        if not self.writes:
            return
        self._metrics.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._metrics.flush()
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def sound(self, step: int, name: str, waveform: torch.Tensor, sample_rate: int) -> None:
        """A mono waveform [N] in [-1, 1] for TensorBoard's audio tab."""
        if self._writer:
            self._writer.add_audio(name, waveform.detach().cpu()[None].clamp(-1, 1), step, sample_rate)

    def picture(self, step: int, name: str, pixels: torch.Tensor) -> None:
        """Pixels [3, H, W] in [0, 1] for TensorBoard's images tab."""
        if self._writer:
            self._writer.add_image(name, pixels, step)

    def warn(self, step: int, line: str) -> None:
        """A line that a person should read: on stderr, in metrics.jsonl (kind warning), in TensorBoard's text tab."""
        if not self.writes:
            return
        print(line, file=sys.stderr, flush=True)
        self._metrics.write(json.dumps({"step": step, "kind": "warning", "line": line}) + "\n")
        self._metrics.flush()
        if self._writer:
            self._writer.add_text("warning", line, step)

    def close(self) -> None:
        if not self.writes:
            return
        self._end_log()
        _held.discard((self.path / "lock").resolve())
        (self.path / "lock").unlink(missing_ok=True)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
