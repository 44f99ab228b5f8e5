"""What is worth knowing before step 1: versions, devices, how fast ranks reach each other, whether they share a folder.

Each question is asked of all ranks together, and each is marked on the roll call first: a rank that does not come is
named. Invariant: answers are the same on all ranks. Knows no stage.
"""

import os
import platform
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import distributed as torch_distributed
from torch import nn

import triptych
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig
from triptych.training.distributed import collective_device, of_all_ranks, rank, reached, wait_for_all, world

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "deepspeed")


@dataclass(frozen=True)
class Speed:
    """Of an all-reduce."""

    megabytes: float
    """of the largest message"""
    seconds: float
    """of one, the median"""
    gigabytes_per_second: float
    """bytes that each rank must send, 2 (W - 1) / W of the message, a second: comparable whatever W"""


@dataclass(frozen=True)
class Memory:
    """Of one rank, in bytes, by arithmetic; activations are measured on one row."""

    parameters: int
    """numbers in the model"""
    weights: int
    gradients: int
    optimiser: int
    activations: int
    """of one micro-batch of `budget` positions"""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations


def versions() -> dict[str, str]:
    """Package or program to version; "absent" where there is none."""
    found = {
        "triptych": triptych.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    found["cuda of torch"] = str(torch.version.cuda or "none")
    found["driver"] = _driver()
    if torch.cuda.is_available() and torch_distributed.is_nccl_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def differing(records: list[dict[str, str]]) -> list[str]:
    """A line for each name whose value is not the same on all ranks."""
    lines = []
    for name in records[0]:
        values: dict[str, list[int]] = {}
        for number, record in enumerate(records):
            values.setdefault(record.get(name, "absent"), []).append(number)
        if len(values) > 1:
            told = "; ".join(f"{value} on rank {', '.join(map(str, who))}" for value, who in values.items())
            lines.append(f"{name} differs: {told}")
    return lines


def device_row(device: torch.device) -> dict[str, str]:
    """This rank in the table of ranks."""
    row = {"rank": str(rank()), "host": socket.gethostname(), "pid": str(os.getpid()), "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        row |= {"name": properties.name, "free": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB"}
    else:
        row |= {"name": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads", "free": _free_memory()}
    return row


def all_reduce_speed(megabytes: float = 16.0, seconds: float = 5.0) -> Speed | None:
    """Sums a growing message over all ranks, for about `seconds`; None for one rank alone."""
    if world() == 1:
        return None
    began, size, took = time.monotonic(), 0.25, 0.0
    while size < megabytes and time.monotonic() - began < seconds / 2:
        size *= 4
        took = _median_time(torch.zeros(int(size * 2**18), device=collective_device()))
        size, took = (float(each) for each in _from_first((size, took)))  # all go on, or none
        if took > seconds / 8:
            break
    return Speed(size, took, 2 * (world() - 1) / world() * size * 2**20 / took / 1e9)


def shared_folder(folder: Path) -> list[str]:
    """What is wrong with `folder` as one that all ranks see: a line for each rank that does not see rank 0's file."""
    token = of_all_ranks(f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")[0]
    file = folder / f".doctor-{token}"
    problem = None
    if rank() == 0:
        problem = _try(lambda: file.write_text(token))
    wait_for_all()
    if rank() != 0:
        problem = _try(lambda: _read_soon(file, token))
    problems = of_all_ranks(problem)
    if rank() == 0:
        file.unlink(missing_ok=True)
    return [f"rank {number}: {line}" for number, line in enumerate(problems) if line]


def equal(what: str, value: Any) -> list[str]:
    """A line where `value` is not the same on all ranks."""
    every = of_all_ranks(value)
    if all(other == every[0] for other in every):
        return []
    return [f"{what} differs: " + ", ".join(f"{theirs} on rank {number}" for number, theirs in enumerate(every))]


def disjoint(mine: list[int], accumulation: int, steps: int) -> list[str]:
    """A line for what is wrong with the micro-batches that ranks would read in the first steps."""
    every = of_all_ranks(mine)
    lines = []
    for number, theirs in enumerate(every):
        for other in range(number):
            both = sorted(set(theirs) & set(every[other]))
            if both:
                lines.append(f"ranks {other} and {number} would both read micro-batches {both[:4]}")
    counts = [len(theirs) for theirs in every]
    if set(counts) != {accumulation * steps}:
        lines.append(f"micro-batches in {steps} steps: {counts} by rank, and not {accumulation * steps} for all")
    return lines


def memory(model: nn.Module, config: TrainingConfig, activations: int) -> Memory:
    """What a rank will hold: fp32 weights and gradients and AdamW's two moments, less what ZeRO deals out."""
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    zero = config.deepspeed.zero or 0

    def share(numbers: int, from_stage: int) -> int:
        return 4 * (-(-numbers // world()) if zero >= from_stage else numbers)

    optimiser = 0 if config.deepspeed.offload else 2 * share(trained, 1)
    if config.deepspeed.zero in (1, 2):  # its own flat copy of the share that it steps
        optimiser += 0 if config.deepspeed.offload else share(trained, 1)
    return Memory(count, share(count, 3), share(trained, 2), optimiser, activations)


def saved_bytes(loss: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that a loss keeps for its backward pass, besides the weights."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept.append(loss())  # alive, so that no two tensors share an address
    return sum(seen.values())


def resumable(run: Path) -> str | None:
    """What a run folder holds already, in a line; None for nothing."""
    if not (run / "latest").exists():
        return None
    return f"{run} holds {find_checkpoint(run).name}: resume=true goes on from it"


def ask(what: str) -> None:
    """Marks a question, so that a rank that does not come to it is named."""
    reached(f"the question of {what}")


def _from_first(values: tuple[float, ...]) -> list[float]:
    numbers = torch.tensor(values, dtype=torch.float64, device=collective_device())
    torch_distributed.broadcast(numbers, 0)
    return [float(number) for number in numbers]


def _median_time(message: torch.Tensor) -> float:
    times = []
    for _ in range(4):
        wait_for_all()
        began = time.monotonic()
        torch_distributed.all_reduce(message)
        if message.is_cuda:
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    return max(1e-9, sorted(times[1:])[1])  # the first one opens connections


def _read_soon(file: Path, token: str) -> None:
    """A network file system may show a new file a little later."""
    for _ in range(20):
        if file.exists() and file.read_text() == token:
            return
        time.sleep(0.25)
    raise ValueError(f"{file.parent} on {socket.gethostname()} is not the folder that rank 0 wrote to")


def _try(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _driver() -> str:
    file = Path("/proc/driver/nvidia/version")
    return file.read_text().splitlines()[0].partition("Module")[2].split()[0] if file.exists() else "none"


def _free_memory() -> str:
    lines = {}
    if Path("/proc/meminfo").exists():
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = [int(lines[name].split()[0]) / 2**20 for name in ("MemAvailable", "MemTotal") if name in lines]
    return f"{sizes[0]:.1f} of {sizes[1]:.1f} GiB" if len(sizes) == 2 else "unknown"
