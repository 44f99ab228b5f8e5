"""Data-parallel processes: who we are, and sums over all of us. Alone, everything here is the identity.

    torchrun --nproc_per_node 4 -m triptych fit acoustic …      RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT

Each rank holds the whole model and its own rows of every batch. Invariant: after each step all ranks hold the same
state, so what rank 0 writes is the state of all. Where a rank is gone, the others end with a line that names it. Knows
no model.
"""

import os
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed

from triptych.training.roll_call import ANSWER, RankLost, RollCall, is_of_collective, open_store

TIMEOUT = 600.0
"""seconds that a rank waits for the others"""
_roll_call: list[RollCall] = []
"""of this process, while it trains with others"""


@contextmanager
def ranks(device: str, timeout: float = TIMEOUT, *, even_alone: bool = False) -> Iterator[None]:
    """Joins the processes that torchrun (or anything that sets the same variables) started, and leaves them after.

    Args:
        device: as in `TrainingConfig.device`; nccl on cuda, where each process takes its own one, gloo elsewhere.
        timeout: seconds that a rank waits for the others.
        even_alone: one process is a group of its own, as DeepSpeed wants it.
    Raises:
        RankLost: a rank did not come, or is gone; the line names it.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if torch_distributed.is_initialized() or (alone and not even_alone):
        yield
        return
    if alone:
        _name_oneself()
    on_cuda = torch.cuda.is_available() and not device.startswith("cpu")
    if on_cuda:
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= devices:
            raise ValueError(
                f"local rank {local} sees {devices} GPUs: start as many processes on a machine, and let all see all of "
                "them (CUDA_VISIBLE_DEVICES, --gpus-per-task)"
            )
        torch.cuda.set_device(local)
    store, me, everyone = open_store(timeout), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    call = RollCall(store, me, everyone, timeout)
    call.everyone()
    torch_distributed.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=store,
        rank=me,
        world_size=everyone,
        timeout=timedelta(seconds=timeout + 10 * ANSWER),  # the roll call speaks first
    )
    if everyone > 1:  # alone, nobody is waited for
        _roll_call.append(call.start())
    try:
        yield
    except Exception as error:
        if everyone == 1 or not is_of_collective(error):
            raise
        raise RankLost(call.missing()) from error
    finally:
        call.stop()
        _roll_call.clear()
        torch_distributed.destroy_process_group()


def _name_oneself() -> None:
    """The variables of a launcher, for one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in one.items():
        os.environ.setdefault(name, value)


def reached(what: str) -> None:
    """Tells the other ranks how far this one is, such as "step 812"."""
    for call in _roll_call:
        call.reached(what)


def before_leaving(act: Callable[[], None]) -> None:
    """Has `act` called should this process end because another is gone."""
    for call in _roll_call:
        call.before_leaving.append(act)


def world() -> int:
    """Processes that train together; 1 alone."""
    return torch_distributed.get_world_size() if torch_distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; the first one writes."""
    return torch_distributed.get_rank() if torch_distributed.is_initialized() else 0


def collective_device() -> torch.device:
    """Where tensors must lie to be summed: nccl knows no CPU."""
    nccl = torch_distributed.is_initialized() and torch_distributed.get_backend() == "nccl"
    return torch.device("cuda" if nccl else "cpu")


def sum_over_ranks(values: Tensor) -> Tensor:
    """`values` (the same shape everywhere), summed in place; every rank gets the same bits."""
    if world() > 1:
        torch_distributed.all_reduce(values)
    return values


def sum_metrics(sums: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Weighted means over all ranks, of weighted sums and weights; those that no rank has a weight for are left out."""
    names = names_over_ranks(list(sums))
    values = [sums.get(name, 0.0) for name in names] + [weights.get(name, 0.0) for name in names]
    summed = sum_over_ranks(torch.tensor(values, dtype=torch.float64, device=collective_device())).tolist()
    means = zip(names, summed[: len(names)], summed[len(names) :], strict=True)
    return {name: total / weight for name, total, weight in means if weight}


def names_over_ranks(names: list[str]) -> list[str]:
    """The names of all ranks, in one order; where they are the same everywhere, they cost one small message."""
    if world() == 1:
        return names
    digest = zlib.crc32("\n".join(names).encode())
    both = torch.tensor([digest, -digest], device=collective_device())
    torch_distributed.all_reduce(both, torch_distributed.ReduceOp.MAX)
    if int(both[0]) == -int(both[1]):
        return names
    everyone: list[list[str]] = [[] for _ in range(world())]
    torch_distributed.all_gather_object(everyone, names)
    return list(dict.fromkeys(name for theirs in everyone for name in theirs))


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of `values` over ranks, in place."""
    return sum_over_ranks(values).div_(world()) if world() > 1 else values


def of_all_ranks(record: Any) -> list[Any]:
    """Each rank's record, in the order of ranks."""
    if world() == 1:
        return [record]
    every: list[Any] = [None] * world()
    torch_distributed.all_gather_object(every, record)
    return every


def own_share(count: int, work: Callable[[int], Any]) -> dict[int, Any]:
    """`work(i)` of this rank's share of all i below `count`: every `world()`-th. It tells the others that it goes
    on."""
    done = {}
    for i in range(rank(), count, world()):
        done[i] = work(i)
        reached(f"{i + 1} of {count} before the first step")
    return done


def dealt_out(count: int, work: Callable[[int], Any]) -> list[Any]:
    """`work(i)` of all i below `count`, on all ranks, of which each does its share."""
    every: dict[int, Any] = {}
    for done in of_all_ranks(own_share(count, work)):
        every |= done
    return [every[i] for i in range(count)]


def rows_of_ranks(rows: Tensor) -> Tensor:
    """Rows [n, …] of each rank, as many on all, to [n · world, …] in the order of ranks."""
    if world() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world())]
    torch_distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Every rank gets rank 0's values, in place."""
    if world() > 1:
        for tensor in tensors:
            torch_distributed.broadcast(tensor, 0)


def wait_for_all() -> None:
    """Returns once every rank is here."""
    if world() > 1:
        torch_distributed.barrier()


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sums the gradients over ranks in one piece. A gradient that only other ranks have is zero here."""
    parameters = list(parameters)
    if world() > 1 and parameters:
        there = torch.tensor(
            [float(parameter.grad is not None) for parameter in parameters], device=collective_device()
        )
        for parameter, anywhere in zip(parameters, sum_over_ranks(there).tolist(), strict=True):
            if anywhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world() == 1 or not gradients:
        return
    flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
