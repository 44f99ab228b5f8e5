"""Checkpoints of a run: written whole, found, pruned, restored.

    runs/semantic/
      latest, best              name of a checkpoint, replaced atomically
      checkpoints/step-00001000/
        stage.json              what the model is; written by its owner
        model.safetensors       its weights and buffers; with `training.average`, the averaged ones
        trainer/                for resuming: optimiser moments, and with `training.average` the weights themselves

Invariant: whatever stops the writing, `latest` and `best` name whole checkpoints. Knows nothing of what is trained.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file, save_model
from torch import nn

from triptych.training.average import Average
from triptych.training.distributed import rank
from triptych.training.files import atomic_file, atomic_folder, read_json, write_json

TRAINED = "trainer/weights.safetensors"
"""in a checkpoint whose model.safetensors holds averages: the weights that are trained"""
MOMENTS = "trainer/optimizer.safetensors"
"""its metadata say whether there are averages"""


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
            save_file(moments, beside / MOMENTS, {"averaged": "yes"} if average else None)
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
    """Removes all but the newest `keep_last` checkpoints, the best one and the one that a run goes on from."""
    if rank() != 0:
        return
    names = sorted(folder.name for folder in (run / "checkpoints").glob("step-*"))
    kept = {(run / name).read_text().strip() for name in ("best", "latest") if (run / name).exists()}
    for name in names[: -max(1, keep_last)]:
        if name not in kept:
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


def restore(
    folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], learning: Iterable[nn.Parameter]
) -> int:
    """Loads weights and moments in place; returns the step that they were saved after.

    A model may name beginnings of states in `may_be_new`: those keep their initial values where the file has none.

    Args:
        optimizers: that take moments; none where somebody else keeps them, as DeepSpeed does.
        learning: the parameters that learn from now on.
    Raises:
        ValueError: weights that are not this model's, or some that learned and would stand still now; a file that is
            missing or cut short.
    """
    trained = folder / TRAINED
    _load_weights(trained if trained.exists() or _has_averages(folder) else folder / "model.safetensors", model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    with _reading(folder / MOMENTS) as stored:
        learned = {key.removeprefix("exp_avg.") for key in stored.keys() if key.startswith("exp_avg.")}  # noqa: SIM118
        for optimizer in optimizers:
            for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
                name = names[parameter]
                if name in learned:
                    optimizer.state[parameter] = {  # all on the parameter's device: fused AdamW keeps its steps there
                        key: stored.get_tensor(f"{key}.{name}").to(parameter.device)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
    stand_still = learned - {names[parameter] for parameter in learning}
    if stand_still:
        raise ValueError(
            f"{folder} trained {min(stand_still)}, this config does not: resume with the one it was made with"
        )
    return int(read_json(folder / "stage.json")["step"])


def verify_checkpoint(path: Path) -> None:
    """Reads all tensors of a checkpoint, or of a run's latest one: the weights, and what resuming needs.

    Raises:
        ValueError: a file is missing or cannot be read, or not all of it are numbers.
    """
    folder = find_checkpoint(path)
    files = {folder / "model.safetensors", *folder.rglob("*.safetensors")}
    if (folder / "trainer").exists():  # which a model that was given away has not
        files |= {folder / MOMENTS, *([folder / TRAINED] if _has_averages(folder) else [])}
    for file in sorted(files):
        with _reading(file) as stored:
            for name in stored.keys():  # noqa: SIM118
                tensor = stored.get_tensor(name)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise ValueError(f"{file}: {name} is not all numbers: copy the folder again")


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    """The open file; what goes wrong with it is said in one line that names it."""
    try:
        with safe_open(file, "pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read, copy the folder again: {str(error)[:160]}") from None


def _has_averages(folder: Path) -> bool:
    """Whether model.safetensors holds averages, as the moments beside it say."""
    with _reading(folder / MOMENTS) as stored:
        return bool(stored.metadata()) and stored.metadata().get("averaged") == "yes"


def average_of(model: nn.Module, keep: float, folder: Path) -> Average | None:
    """The averaged weights of a run that is new, or was just restored from `folder`; None where `keep` is 0."""
    if not keep:
        return None
    average = Average(model, keep)
    if (folder / TRAINED).exists():
        with _reading(folder / "model.safetensors"):
            average.restore(folder / "model.safetensors")
    return average


def _load_weights(file: Path, model: nn.Module) -> None:
    may_be_new, may_be_gone = (getattr(model, name, ()) for name in ("may_be_new", "may_be_gone"))
    try:
        with _reading(file):
            missing, unexpected = load_model(model, file, strict=False)
    except RuntimeError as error:  # a size that does not fit
        raise ValueError(f"{file} does not fit this config: {str(error).splitlines()[-1].strip()}") from None
    absent = sorted(name for name in missing if not name.startswith(may_be_new))
    left = sorted(name for name in unexpected if not name.startswith(may_be_gone))
    if absent or left:
        name = (absent or left)[0]
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
