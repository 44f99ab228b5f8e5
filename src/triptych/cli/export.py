"""`export`: a trained stage for other engines. stages/export.py does the work."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.options import Json
from triptych.cli.paths import check_folder
from triptych.cli.progress import log, result, result_json


def export(
    source: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A bundle, a run or a checkpoint.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")],
    stage: Annotated[str, typer.Option(metavar="semantic|coarse", help="Which of a bundle's.")] = "semantic",
    as_json: Json = False,
) -> None:
    """Write a stage as a plain Llama checkpoint.

    For transformers and what reads its format; the logits are the stage's own. triptych.json says what the ids are.
    """
    from triptych.stages.export import export_stage
    from triptych.stages.initial import folder_of

    check_folder(output)
    folder = folder_of(source, stage)
    text = folder.resolve().parents[1] / "tokenizers" / "text"
    note = export_stage(folder, output, text if text.is_dir() else None)
    if as_json:
        result_json(note)
        return
    result(f"{output}: the {note['stage']} stage, sequence {note['sequence']}")
    if note["positions"] != "counted":
        log(f"positions are not counted: give the engine position_ids; {note['positions']}")
