"""THE training loop: drives anything that has `loss(batch)`. Knows nothing of audio, tokens or stages.

    for step in 1..N:
      1  micro_batches = batches(step)            a pure function of the step: resuming needs one number
      2  seed torch with (seed, step)             dropout is a pure function of the step as well
      3  loss(micro_batch).backward()             weighted by the number of targets in each
      4  clip, set the learning rate, AdamW
      5  every so often: log, validate, checkpoint

Hence a run that was killed and resumed gives the losses and weights of one left alone, bit for bit on a CPU.

A model may have several learners (a codec and its discriminator): one backward, an optimiser each. Processes that
joined through `distributed.ranks` each bring their own micro-batches: gradients and metrics are summed over all, by the
number of targets, so that they take the step of one process with all micro-batches. With `training.deepspeed.zero` the
step goes through DeepSpeed instead.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from triptych.training.average import Average
from triptych.training.checkpoint import average_of, find_checkpoint, prune_checkpoints, restore, write_checkpoint
from triptych.training.clock import Clock
from triptych.training.config import TrainingConfig
from triptych.training.dealing import Dealing
from triptych.training.device import pick_device
from triptych.training.distributed import (
    collective_device,
    rank,
    reached,
    sum_over_ranks,
    take_from_first,
    world,
)
from triptych.training.memory import keep_freed_memory
from triptych.training.optimiser import learners_of, learning_rate, make_optimizer
from triptych.training.precision import check_convolutions
from triptych.training.run import RunFolder, refuse_run
from triptych.training.step import TrainingError, autocast, take_step
from triptych.training.zero import ZeroEngine

Batches = Callable[[int], Sequence[Any]]
"""step (from 1) -> its micro-batches. Pure: the same step gives the same micro-batches in every process."""


class Trainee(Protocol):
    """An `nn.Module` with a loss."""

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean loss of a micro-batch, and what to log. `targets`, if among the metrics, is its weight."""


class Validate(Protocol):
    def __call__(self, step: int, run: RunFolder) -> Mapping[str, float]:
        """Metrics on held-out data, `loss` among them; called in eval mode without gradients."""


class TrainingStopped(RuntimeError):
    """A signal asked for the end; a checkpoint was written. The message is one line for the user."""


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    run: RunFolder,
    record: Mapping[str, Any],
    *,
    dealing: Dealing | None = None,
    validate: Validate | None = None,
    best: str = "loss",
    resume: bool = False,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Path:
    """Trains `model` (a Trainee) up to `config.max_steps` and returns its last checkpoint, whose weights it then has:
    with `average`, the averaged ones.

    Args:
        record: what `stage.json` says about the model; its owner can build the model from it again.
        dealing: what `batches` deals out by, so that a checkpoint can say how much was read.
        best: the metric of `validate`, alike on all ranks, whose lowest value marks the best checkpoint.
        resume: go on from the run's latest checkpoint.
        progress: called after each step with the step and its metrics.
    Raises:
        TrainingError: a loss or a gradient norm that is not a number, or a checkpoint that could not be written.
        TrainingStopped: SIGTERM or Ctrl-C, once the step in progress is saved.
        ValueError: `resume` without a checkpoint, or beyond `max_steps`; a checkpoint without `resume`; bf16 where
            this processor's library gets a convolution of the model wrong.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    model.to(device)
    if config.dtype == "bf16":
        check_convolutions(model)
    learners = learners_of(model, config)
    dealt_out = config.deepspeed.zero is not None
    if dealt_out and config.average:
        raise ValueError("training.average: not through DeepSpeed yet; leave training.deepspeed.zero or this out")
    optimizers = [] if dealt_out else [make_optimizer(learner.parameters, learner.config) for learner in learners]
    learning = [p for learner in learners for p in learner.parameters if p.requires_grad]
    step = restore(find_checkpoint(run.path), model, optimizers, learning) if resume else 0
    take_from_first(model.state_dict().values())
    if not resume:
        refuse_run(run.path)
    if step > config.max_steps:
        raise ValueError(f"{run.path} is at step {step} already, beyond training.max_steps={config.max_steps}")
    run.rewind(step)
    recompute_layers(model, config.recompute)
    zero = ZeroEngine(model, learners, config, device) if dealt_out else None
    if zero and resume:
        zero.load_moments(find_checkpoint(run.path))
    lowest = _best_so_far(run.path, best)
    folder = find_checkpoint(run.path) if resume else run.path
    average = average_of(model, config.average, folder)
    if config.compile:
        compile_parts(model)
    model.train()
    clock, stopping = Clock(), False
    with _StopSignal() as stop, ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(batches, step + 1)
        while step < config.max_steps:
            step += 1
            reached(f"step {step}")
            waited = time.monotonic()
            micro_batches = ahead.result()
            clock.waited += time.monotonic() - waited
            if step < config.max_steps:
                ahead = reader.submit(batches, step + 1)
            metrics = take_step(model, learners, optimizers, micro_batches, config, device, step, zero)
            if average:
                average.update(step)
            clock.add(metrics)
            if progress and rank() == 0:
                progress(step, metrics)
            stopping = _anyone(stop.asked)  # read once: a signal during the saving below waits for the next step
            last = step == config.max_steps or stopping
            if step % config.log_every == 0 or last:
                run.log(step, "train", clock.read(learning_rate(step, config)))
            improved = False
            if validate and (step % config.validate_every == 0 or step == config.max_steps):
                values = _validate(model, validate, step, run, device, config, average)
                improved, lowest = values[best] < lowest, min(lowest, values[best])
                clock.restart()
            reached(f"the end of step {step}")
            if step % config.checkpoint_every == 0 or last or improved:
                gathered = zero.gather() if zero else None
                read = dealing.read_after(step) if dealing else None
                more = {"average": average, "gathered": gathered, "read": read}
                folder = _save(run.path, step, model, optimizers, record, config.keep_last, best=improved, **more)
            if stopping:
                break
    if zero:
        zero.close()
    if stopping:
        raise TrainingStopped(f"stopped at step {step}: {folder} is whole, resume=true goes on from it")
    if average:
        average.settle()
    return folder


def compile_parts(model: nn.Module) -> None:
    """Compiles the parts of a model that know how, by their method `compile_parts`."""
    for part in model.modules():
        if hasattr(part, "compile_parts"):
            part.compile_parts()  # type: ignore[operator]


def recompute_layers(model: nn.Module, asked: bool) -> None:
    """Switches activation checkpointing in the parts of a model that know it, by their attribute `recompute`."""
    for part in model.modules():
        if hasattr(part, "recompute"):
            part.recompute = asked  # type: ignore[assignment]


def _save(
    run: Path,
    step: int,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    record: Mapping[str, Any],
    keep_last: int,
    **more: Any,
) -> Path:
    """Writes a checkpoint, as `write_checkpoint` says; where rank 0 cannot, all ranks end."""
    folder, failed = run, None
    try:
        folder = write_checkpoint(run, step, model, optimizers, record, **more)
        prune_checkpoints(run, keep_last)
    except OSError as error:
        failed = error
    if _anyone(failed is not None):
        what = failed or "by rank 0"
        raise TrainingError(
            f"step {step} could not be saved ({what}): the checkpoint before it is whole; mend that, then resume=true"
        ) from None
    return folder


def _anyone(asked: bool) -> bool:
    """Whether it is so on any rank: all act alike, after the same step."""
    return bool(sum_over_ranks(torch.tensor(float(asked), device=collective_device()))) if world() > 1 else asked


def _validate(
    model: nn.Module,
    validate: Validate,
    step: int,
    run: RunFolder,
    device: torch.device,
    config: TrainingConfig,
    average: Average | None,
) -> Mapping[str, float]:
    model.eval()
    try:
        with torch.no_grad(), autocast(device, config.dtype), average.in_place() if average else nullcontext():
            values = validate(step, run)
    finally:
        model.train()
    run.log(step, "validation", values)
    return values


def _best_so_far(run: Path, metric: str) -> float:
    import json

    losses = [math.inf]
    for line in open(run / "metrics.jsonl", encoding="utf-8"):
        row = json.loads(line)
        if row["kind"] == "validation":
            losses.append(row.get(metric, math.inf))
    return min(losses)


class _StopSignal:
    """SIGTERM and Ctrl-C ask for a checkpoint after the step in progress; a second one ends at once."""

    asked = False

    def __enter__(self) -> "_StopSignal":
        self._before: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError):  # only the main thread may set handlers
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
