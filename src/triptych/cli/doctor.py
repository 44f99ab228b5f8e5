"""`doctor`: what is wrong, before step 1. Alone, or on all ranks under the line that would start the training.

    triptych doctor                                          this machine
    triptych doctor semantic --config … shards=…             and this training
    torchrun … -m triptych doctor semantic --config … …      and all ranks

Reads the line and prints; the questions stand in training/preflight.py and stages/preflight.py.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import find_config
from triptych.cli.progress import log, result, result_json

if TYPE_CHECKING:
    from triptych.stages.initial import Beginning

Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long a rank is waited for.")]

app = typer.Typer(help="Say what is wrong before step 1: machine, ranks, data, memory.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def doctor(context: typer.Context, timeout: Timeout = 60.0, as_json: Json = False) -> None:
    """Look at this machine, or at all ranks of a launcher.

    Versions and driver, ranks and devices, the speed of an all-reduce. With a stage and the rest of the line that would
    train it also its shards, its run folder, and its memory. A rank that does not come is named.
    """
    if context.invoked_subcommand is None:
        examine(None, None, None, timeout, as_json)


def _verb(stage: str) -> None:
    @app.command(stage, help=f"Also the line that would train the {stage} stage.")
    def examine_stage(
        overrides: Overrides = None, config: Config = None, timeout: Timeout = 60.0, as_json: Json = False
    ) -> None:
        from triptych.stages.training import run_config
        from triptych.training.config import load_tree

        examine(stage, *run_config(stage, load_tree(find_config(config), overrides or [])), timeout, as_json)


for _stage in ("semantic", "coarse", "fine"):
    _verb(_stage)


def examine(stage: str | None, config: Any, start: "Beginning | None", timeout: float, as_json: bool) -> None:
    """Asks everything, prints it on the first rank, and ends with exit code 1 where something is wrong."""
    from triptych.training.distributed import rank, ranks

    device = config.training.device if config is not None else "auto"
    with ranks(device, timeout):
        found = questions(stage, config, start)
        if rank() == 0:
            result_json(found) if as_json else report(found)
    if found["problems"]:
        raise typer.Exit(1)


def questions(stage: str | None, config: Any, start: "Beginning | None") -> dict[str, Any]:
    """All answers, the same on every rank."""
    from dataclasses import asdict

    from triptych.training import preflight
    from triptych.training.device import pick_device
    from triptych.training.distributed import of_all_ranks

    preflight.ask("versions")
    versions = of_all_ranks(preflight.versions())
    problems = preflight.differing(versions)
    preflight.ask("devices")
    device = pick_device(config.training.device if config is not None else "auto")
    table = of_all_ranks(preflight.device_row(device))
    places = [(row["host"], row["device"]) for row in table]
    if device.type == "cuda" and len(set(places)) < len(places):
        problems.append("two ranks have one GPU: start as many processes a node as it has GPUs")
    preflight.ask("all-reduce")
    speed = preflight.all_reduce_speed()
    found: dict[str, Any] = {"versions": versions[0], "ranks": table, "all_reduce": asdict(speed) if speed else None}
    if config is not None and stage is not None:
        from triptych.stages.preflight import look_ahead

        preflight.ask("a shared folder")
        folder = Path(config.run)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            with_parent = folder if folder.exists() else existing_parent(folder)
            problems += preflight.shared_folder(with_parent)
        plan = look_ahead(stage, config, start)
        problems += plan.problems
        found |= {"training": asdict(plan), "memory_total": plan.memory.total}
    return found | {"problems": problems}


def existing_parent(folder: Path) -> Path:
    """The nearest folder above that is there; a run folder must not be made by looking."""
    for parent in folder.absolute().parents:
        if parent.is_dir():
            return parent
    return Path(tempfile.gettempdir())


def report(found: dict[str, Any]) -> None:
    """For people."""
    for name, version in found["versions"].items():
        result(f"{name:<14} {version}")
    result("")
    columns = list(found["ranks"][0])
    widths = [max(len(name), *(len(row[name]) for row in found["ranks"])) for name in columns]
    for row in [dict(zip(columns, columns, strict=True)), *found["ranks"]]:
        result("  ".join(f"{row[name]:<{width}}" for name, width in zip(columns, widths, strict=True)).rstrip())
    speed = found["all_reduce"]
    result("")
    if speed:
        rate = f"{speed['gigabytes_per_second']:.2f} GB/s"
        result(f"all-reduce of {speed['megabytes']:g} MiB: {speed['seconds'] * 1e3:.1f} ms, {rate} a rank")
    else:
        result("one process: no all-reduce to measure")
    if "training" in found:
        report_training(found["training"], found["memory_total"])
    for line in found["problems"]:
        log(f"WRONG: {line}")
    result("" if found["problems"] else "all is well")


def report_training(plan: dict[str, Any], total: int) -> None:
    """What the config means."""
    parts = plan["memory"]
    result(f"{plan['clips']} clips, {plan['steps_per_epoch']:.1f} steps an epoch, {plan['epochs']:.1f} epochs in all")
    sizes = ", ".join(f"{name} {size(parts[name])}" for name in ("weights", "gradients", "optimiser", "activations"))
    result(f"{parts['parameters']:,} parameters; a rank needs about {size(total)}: {sizes}")
    for line in plan["notes"]:
        result(line)


def size(count: int) -> str:
    """Bytes, in MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
