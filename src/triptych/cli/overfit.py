"""`doctor overfit`: a stage memorises a few utterances, or what hinders it is named. The work: stages/overfit.py."""

from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import find_config
from triptych.cli.progress import Bar, result, result_json

DEFAULTS = {"max_steps": 400, "warmup_steps": 20, "weight_decay": 0.0, "clip_norm": 1.0, "log_every": 1000}
"""of the training, where neither says otherwise: what the config file says of a long run does not fit a short one"""


def overfit(
    stage: Annotated[str, typer.Argument(metavar="semantic|coarse|fine", help="Which of the three.")],
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder of token shards.")],
    overrides: Overrides = None,
    config: Config = None,
    clips: Annotated[int, typer.Option("--clips", min=2, help="How many utterances, the shortest ones.")] = 10,
    as_json: Json = False,
) -> None:
    """Memorise ten utterances, or say what is wrong.

    Exit code 1 where something is. Takes the config of 'train' (default: STAGE/tiny), without dropout.
    """
    from dataclasses import asdict

    from triptych.cli.train import STAGES, one_of
    from triptych.corpus.shards import ShardSet
    from triptych.stages.initial import laid_over
    from triptych.stages.overfit import overfit as try_it
    from triptych.stages.overfit import quiet
    from triptych.stages.speech import Speech
    from triptych.stages.stage import Specs
    from triptych.stages.three import make_stage
    from triptych.stages.training import stage_config_class
    from triptych.training.config import build, load_tree

    one_of(stage, STAGES, "stage")
    long_run = load_tree(find_config(config or f"{stage}/tiny"), [])
    tree = laid_over(laid_over(long_run, {"training": DEFAULTS}), load_tree(None, overrides or []))
    settings: Any = build(stage_config_class(stage), tree, f"doctor overfit {stage}")
    opened = ShardSet.open(shards)
    specs = Specs(opened.specs["semantic"], opened.specs["acoustic"], opened.specs.get("text"))
    speech = Speech(opened, "train")
    made = make_stage(stage, quiet(asdict(settings.stage)), specs).measured(speech)
    with Bar(f"doctor overfit {stage}", "steps", settings.training.max_steps) as bar:
        found = try_it(made, speech, settings.training, clips, bar.step)
    if as_json:
        result_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            result(f"{'ok   ' if finding.good else 'WRONG'}  {finding.name:<20}  {finding.said}")
    if not all(finding.good for finding in found):
        raise typer.Exit(1)
