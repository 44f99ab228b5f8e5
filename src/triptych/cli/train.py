"""`train` and `config`: a stage is trained from a config, and every key of every config is explained."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import find_config
from triptych.cli.progress import Bar, log, result, result_json

STAGES = ("semantic", "coarse", "fine")
FITS = {
    "text": ("triptych.cli.text", "TextFitConfig"),
    "semantic-tokenizer": ("triptych.tokenizers.semantic.fit", "SemanticFitConfig"),
    "encoder": ("triptych.tokenizers.semantic.pretrain", "EncoderFitConfig"),
    "acoustic": ("triptych.tokenizers.acoustic.fit", "CodecFitConfig"),
    "tokenize": ("triptych.corpus.shards", "ShardConfig"),
    "guess": ("triptych.stages.coarse.guess", "GuessConfig"),
    "speak": ("triptych.stages.cascade", "Settings"),
    "evaluate": ("triptych.evaluation.subject", "EvaluateConfig"),
    "inspect-codec": ("triptych.evaluation.codec", "CodecInspectConfig"),
    "inspect-tokens": ("triptych.evaluation.token_report", "TokenInspectConfig"),
    "inspect-layers": ("triptych.evaluation.layers", "LayerInspectConfig"),
}
"""what else takes key=value -> where its config stands"""
NAMES = (*STAGES, *FITS)


def train(
    stage: Annotated[str, typer.Argument(metavar="semantic|coarse|fine", help="Which of the three.")],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Train a stage on token shards.

    Ctrl-C writes a checkpoint, and resume=true goes on from it. Under torchrun, deepspeed or srun the same line
    trains on all ranks (see launch/).
    """
    from triptych.stages.training import stage_config_class, train_stage
    from triptych.training.config import build, load_tree

    one_of(stage, STAGES, "stage")
    tree = load_tree(find_config(config), overrides or [])
    settings: Any = build(stage_config_class(stage), tree, f"train {stage}")
    first = os.environ.get("RANK", "0") == "0"  # of several, one speaks
    if first:
        log(f"train {stage}: metrics in the run folder, for TensorBoard too; 'triptych config {stage}' explains keys")
    with Bar(f"train {stage}", "steps", settings.training.max_steps) as bar:
        checkpoint: Path = train_stage(stage, tree, bar.step)
    if first:
        result(str(checkpoint))


def config(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=f"One of {', '.join(NAMES)}.")],
    as_json: Json = False,
) -> None:
    """Print every key of a config, and what it is."""
    from dataclasses import asdict

    from triptych.cli.fields import keys

    found = keys(config_class(stage))
    if as_json:
        result_json([asdict(key) for key in found])
        return
    names, defaults = max(len(key.name) for key in found), min(24, max(len(key.shown_default()) for key in found))
    units = max(len(key.unit) for key in found)
    for key in found:
        result(f"{key.name:<{names}}  {key.shown_default():<{defaults}}  {key.unit:<{units}}  {key.sentence}")


def config_class(stage: str) -> type[Any]:
    """The config dataclass of a stage, of a fit, or of what else takes key=value.

    Raises:
        ValueError: no such name.
    """
    from importlib import import_module

    one_of(stage, NAMES, "config")
    if stage in STAGES:
        from triptych.stages.training import stage_config_class

        stage_kind: type[Any] = stage_config_class(stage)
        return stage_kind
    module, name = FITS[stage]
    found: type[Any] = getattr(import_module(module), name)
    return found


def one_of(name: str, known: tuple[str, ...], what: str) -> None:
    """Raises ValueError where `name` is not known; lists what is."""
    if name not in known:
        raise ValueError(f"no {what} '{name}': one of {', '.join(known)}")
