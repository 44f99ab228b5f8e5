"""Training through DeepSpeed: ZeRO deals optimiser state, gradients and weights out to the ranks.

    model.loss(batch) ─▶ engine(batch) ─▶ model's own loss      so that ZeRO-3 can gather weights as they are read
    engine.backward, engine.step                                sums over ranks, clipping, AdamW on this rank's share

Invariant: a step is that of the plain loop, to rounding, and a checkpoint is the plain loop's, gathered by all ranks
(one that asked alone would wait for ever under ZeRO-3): so a run may go on with another number of ranks, at another
stage of ZeRO or without it. DeepSpeed's dict is built here from the config, and nowhere else. Knows no stage.
"""

import gc
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from triptych.training.config import TrainingConfig
from triptych.training.distributed import rank, reached, wait_for_all, world
from triptych.training.optimiser import Learner, learning_rate, make_optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, besides its step"""

Model = TypeVar("Model", bound=nn.Module)


def deepspeed_dict(config: TrainingConfig) -> dict[str, Any]:
    """What DeepSpeed is told. Its batch size is a nominal one: batches are planned in positions, not rows."""
    own = config.deepspeed
    zero: dict[str, Any] = {"stage": own.zero}
    if own.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if own.zero == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip_norm if own.zero else 0.0,  # without ZeRO the loop clips, and knows the norm
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW: nothing is compiled
        "steps_per_print": 1 << 30,
    }


class ZeroEngine:
    """DeepSpeed around a model whose weights are loaded already, and equal on all ranks.

    Raises:
        ModuleNotFoundError: the extra `deepspeed` is not installed.
        ValueError: a model with several learners.
    """

    def __init__(self, model: nn.Module, learners: list[Learner], config: TrainingConfig, device: torch.device) -> None:
        if len(learners) != 1:
            raise ValueError("training.deepspeed.zero: a model with a discriminator trains plain; leave it out")
        reached("the import of DeepSpeed")
        deepspeed = import_deepspeed(device)
        reached("DeepSpeed's start")
        self.model, self.config, self.stage = model, config, int(config.deepspeed.zero or 0)
        # Stage 3 takes a step with no gradient to make its state: at rate 0 it moves nothing.
        self.optimizer = make_optimizer(learners[0].parameters, config)
        self.optimizer.param_groups[:] = [group for group in self.optimizer.param_groups if group["params"]]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=_AsForward(model), optimizer=self.optimizer, config=deepspeed_dict(config), dist_init_required=False
        )
        self._make_state()
        self._set_steps(0)
        self._pending = False
        # Callers go on saying model.loss(batch), and ZeRO-3 hears of it.
        object.__setattr__(model, "loss", self.engine)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a micro-batch's loss, summed over its targets."""
        if self._pending:
            self.engine.step()  # counts the micro-batch before; the last one's waits for `step`
        self._pending = True
        if self.stage:
            self.engine.optimizer.loss_scale = 1.0
        self.engine.backward(loss * (world() * self.config.accumulation))

    def step(self, step: int, total: float) -> float | None:
        """The optimiser's step, with gradients divided by `total` targets; their norm before clipping."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        norm: Any = None
        if self.stage:
            self.engine.optimizer.loss_scale = total  # which DeepSpeed divides by before it clips
        else:
            parameters = [parameter for parameter in self.trained.values() if parameter.grad is not None]
            for parameter in parameters:
                parameter.grad.div_(total)  # type: ignore[union-attr]
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or torch.inf)
        self.engine.step()
        self._pending = False
        norm = self.engine.get_global_grad_norm() if self.stage else norm
        return None if norm is None else float(norm)

    def gather(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and moments as the plain loop writes them, whole on rank 0's CPU, empty elsewhere. All must call."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            with self._whole(parameter):
                _keep(weights, name, parameter)
        stored = self.model.state_dict().keys() - weights.keys()
        for name, buffer in self.model.named_buffers():
            if name in stored:
                _keep(weights, name, buffer)
        for name, parameter in self.trained.items():
            for key in MOMENTS:
                _keep(moments, f"{key}.{name}", self._moment(parameter, key))
            _keep(moments, f"step.{name}", torch.tensor(float(self.steps)))
        return weights, moments

    def load_moments(self, folder: Path) -> None:
        """The moments of a checkpoint, whoever wrote it."""
        with safe_open(folder / "trainer" / "optimizer.safetensors", "pt") as stored:
            keys = set(stored.keys())
            for name, parameter in self.trained.items():
                for key in MOMENTS:
                    if f"{key}.{name}" in keys:
                        self._set_moment(parameter, key, stored.get_tensor(f"{key}.{name}"))
                        self._set_steps(int(stored.get_tensor(f"step.{name}")))

    def close(self) -> None:
        """Leaves DeepSpeed, in the one order that does not now and then abort at exit."""
        del self.model.loss
        self.engine.destroy()
        del self.engine
        gc.collect()
        wait_for_all()

    @property
    def steps(self) -> int:
        """Steps that the optimiser has taken."""
        return max((int(state["step"]) for state in self.optimizer.state.values()), default=0)

    def _set_steps(self, steps: int) -> None:
        for state in self.optimizer.state.values():
            state["step"].fill_(steps)

    def _whole(self, parameter: nn.Parameter) -> Any:
        if self.stage < 3:
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters([parameter])

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self.stage == 0:
            value: Tensor = self.optimizer.state[parameter][key]
            return value
        from deepspeed.utils import safe_get_full_optimizer_state

        value = safe_get_full_optimizer_state(parameter, key)
        return value

    def _make_state(self) -> None:
        """Empty moments, tied to parameters: stages 1 and 2 else tie them after their first step, which is that of the
        first group alone."""
        shares = [share for group in self.optimizer.param_groups for share in group["params"]]
        if self.stage == 3:
            shares = self.engine.optimizer.fp32_partitioned_groups_flat
        for share in shares:
            if not self.optimizer.state.get(share):
                moments = {key: torch.zeros_like(share) for key in MOMENTS}
                self.optimizer.state[share] = {"step": torch.zeros((), device=share.device), **moments}
        if self.stage in (1, 2):
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if self.stage == 0:
            self.optimizer.state[parameter][key].copy_(value)
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        share = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # the last rank's is padded
        padded = nn.functional.pad(value.flatten(), (0, share * world() - value.numel()))
        safe_set_local_optimizer_state(parameter, padded[rank() * share : (rank() + 1) * share], key)


class _AsForward(nn.Module):
    """A trainee whose forward is its loss: DeepSpeed knows no other method."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Any:
        kind: Any = type(self.model)
        return kind.loss(self.model, batch)


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told what it else finds out by compiling and by talking."""
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":  # it would compile this at its first start, for collectives that gloo has
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def whole(model: Model, make: Callable[[], Model]) -> Model:
    """`model`, or where its weights are dealt out a copy by `make` with all of them. All ranks must call."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return model
    import deepspeed

    copy = make().to(next(model.parameters()).device)
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            with deepspeed.zero.GatheredParameters([theirs[name]]):
                parameter.copy_(theirs[name])
        buffers = dict(model.named_buffers())
        for name, buffer in copy.named_buffers():
            buffer.copy_(buffers[name])
    return copy.train(model.training)


def _keep(kept: dict[str, Tensor], name: str, value: Tensor) -> None:
    if rank() == 0:
        kept[name] = value.detach().cpu().contiguous().clone()
