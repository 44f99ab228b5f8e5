"""Data-parallel processes: who we are, and sums over all of us. Alone, everything here is the identity.

    torchrun --nproc_per_node 4 -m triptych fit acoustic …      RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT

Each rank holds the whole model and its own rows of every batch. Invariant: after each step all ranks hold the same
state, so what rank 0 writes is the state of all. Knows no model.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed


@contextmanager
def ranks(device: str) -> Iterator[None]:
    """Joins the processes that torchrun (or anything that sets the same variables) started, and leaves them after.

    Args:
        device: as in `TrainingConfig.device`; nccl on cuda, where each process takes its own one, gloo elsewhere.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch_distributed.is_initialized():
        yield
        return
    on_cuda = torch.cuda.is_available() and not device.startswith("cpu")
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch_distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield
    finally:
        torch_distributed.destroy_process_group()


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


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of `values` over ranks, in place."""
    return sum_over_ranks(values).div_(world()) if world() > 1 else values


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
    """Sums the gradients over ranks in one piece; those that are there must be the same ones on all ranks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world() == 1 or not gradients:
        return
    flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
