"""A run folder: one place that a training run owns, and all that it leaves there.

    runs/semantic/
      config.yaml               resolved: what was said, with every default
      metrics.jsonl             a line each log, validation and checkpoint
      events.out.tfevents…      the same for TensorBoard, with sound
      lock                      host and pid of the process that writes here
      latest, best              name of a checkpoint, replaced atomically
      checkpoints/step-00001000/
        stage.json              what the model is; written by its owner
        model.safetensors       its weights and buffers; with `training.average`, the averaged ones
        trainer/                for resuming: optimiser moments, and with `training.average` the weights themselves

Two runs cannot write one folder. Of several ranks, the first alone writes. Knows nothing of what is trained.
"""

import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file, save_model
from torch import nn

from triptych.training.average import Average
from triptych.training.distributed import before_leaving, rank, wait_for_all
from triptych.training.files import atomic_file, atomic_folder, read_json, write_json

TRAINED = "trainer/weights.safetensors"
"""in a checkpoint whose model.safetensors holds averages: the weights that are trained"""


class RunFolder:
    """Owns `path` until closed.

    Raises:
        ValueError: another living process owns it.
    """

    def __init__(self, path: Path, config: Mapping[str, Any] | None = None) -> None:
        self.path, self.writes = path, rank() == 0
        self._writer: Any = None
        if self.writes:
            self._open(config)
        wait_for_all()  # the others read here what the first has written

    def _open(self, config: Mapping[str, Any] | None) -> None:
        path = self.path
        path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        before_leaving((path / "lock").unlink)
        for left in path.rglob(".*.part*"):  # of a process that was killed; the lock says that it is gone
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if config is not None:
            import yaml

            with atomic_file(path / "config.yaml") as beside:
                beside.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
        self._begin_log()

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
                json.dump(mine, stream)
            return
        except FileExistsError:
            owner = read_json(lock)
        here = owner.get("host") == mine["host"]
        if not here or _alive(int(owner["pid"])):
            raise ValueError(
                f"{self.path} belongs to process {owner['pid']} on {owner['host']}: "
                f"choose another run folder, or remove {lock} if that process is gone"
            )
        write_json(lock, mine)

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


def write_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    record: Mapping[str, Any],
    *,
    best: bool,
    average: Average | None = None,
    gathered: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None = None,
    read: int | None = None,
) -> Path:
    """Writes `checkpoints/step-N` whole, then points `latest` (and `best`) at it; the first rank does, for all.

    Args:
        gathered: weights and moments by name, where ranks hold parts of them; `model`, `optimizers` are not read then.
        read: micro-batches of all ranks so far.
    Raises:
        OSError: the disk is full, or gone; `latest` and `best` are what they were, and whole.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    if rank() != 0:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as beside:
        write_json(beside / "stage.json", {**record, "step": step})
        (beside / "trainer").mkdir()
        try:
            with average.in_place() if average else nullcontext():
                _save_weights(model, gathered[0] if gathered else None, beside / "model.safetensors")
            if average:
                save_model(model, str(beside / TRAINED))
            moments = gathered[1] if gathered else _moments(model, optimizers)
            save_file(moments, beside / "trainer" / "optimizer.safetensors")
        except SafetensorError as error:
            raise OSError(str(error)) from None
        if read is not None:
            write_json(beside / "trainer" / "progress.json", {"micro_batches": read})
    for pointer in ("best", "latest") if best else ("latest",):  # killed in between, a run resumes before both
        with atomic_file(run / pointer) as beside:
            beside.write_text(folder.name)
    return folder


def _save_weights(model: nn.Module, gathered: dict[str, torch.Tensor] | None, file: Path) -> None:
    if gathered is None:
        save_model(model, str(file))  # tied weights are kept once
    else:
        save_file(gathered, file)


def prune_checkpoints(run: Path, keep_last: int) -> None:
    """Removes all but the newest `keep_last` checkpoints and the best one."""
    if rank() != 0:
        return
    names = sorted(folder.name for folder in (run / "checkpoints").glob("step-*"))
    best = (run / "best").read_text() if (run / "best").exists() else None
    for name in names[: -max(1, keep_last)]:
        if name != best:
            shutil.rmtree(run / "checkpoints" / name)


def find_checkpoint(path: Path, which: str = "latest") -> Path:
    """The checkpoint folder that `path` means: itself, or the `latest` or `best` one of a run folder.

    Raises:
        ValueError: there is none.
    """
    if (path / "stage.json").exists():
        return path
    for pointer in (which, "latest"):
        if (path / pointer).exists():
            folder = path / "checkpoints" / (path / pointer).read_text().strip()
            if (folder / "stage.json").exists():
                return folder
    raise ValueError(f"{path} holds no checkpoint: name a run folder, or one of its checkpoints/step-…")


def restore(folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Loads weights and moments in place; returns the step that they were saved after.

    A model may name beginnings of states in `may_be_new`: those keep their initial values where the file has none.

    Raises:
        ValueError: weights that are not this model's.
    """
    trained = folder / TRAINED
    _load_weights(trained if trained.exists() else folder / "model.safetensors", model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    with safe_open(folder / "trainer" / "optimizer.safetensors", "pt") as stored:
        keys = set(stored.keys())
        for optimizer in optimizers:
            for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
                name = names[parameter]
                if f"exp_avg.{name}" in keys:
                    optimizer.state[parameter] = {  # all on the parameter's device: fused AdamW keeps its steps there
                        key: stored.get_tensor(f"{key}.{name}").to(parameter.device)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
    return int(read_json(folder / "stage.json")["step"])


def average_of(model: nn.Module, keep: float, folder: Path) -> Average | None:
    """The averaged weights of a run that is new, or was just restored from `folder`; None where `keep` is 0."""
    if not keep:
        return None
    average = Average(model, keep)
    if (folder / TRAINED).exists():
        average.restore(folder / "model.safetensors")
    return average


def _load_weights(file: Path, model: nn.Module) -> None:
    may_be_new: tuple[str, ...] = getattr(model, "may_be_new", ())
    try:
        missing, unexpected = load_model(model, file, strict=False)
    except RuntimeError as error:  # a size that does not fit
        raise ValueError(f"{file} does not fit this config: {str(error).splitlines()[-1].strip()}") from None
    absent = sorted(name for name in missing if not name.startswith(may_be_new))
    if absent or unexpected:
        name = (absent or sorted(unexpected))[0]
        found = "lacks" if absent else "has"
        raise ValueError(
            f"{file} is not of this model: it {found} {name}; resume with the config that it was made with"
        )


def _moments(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    moments = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                moments[f"{key}.{name}"] = value.detach().cpu().contiguous().clone()
    return moments
