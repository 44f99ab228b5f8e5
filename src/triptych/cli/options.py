"""Options that several verbs share, so that they are named and explained once."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, one document a line.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite wavs that exist.")]
Bundle = Annotated[str | None, typer.Option("--bundle", metavar="DIR", help="The cascade. Default: the starter.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same sound.")]
WavOut = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.wav", help="The wav to write.")]
Voice = Annotated[str | None, typer.Option("--voice", metavar="WAV|NAME", help="A recording, or a name of 'voices'.")]
Config = Annotated[
    str | None,
    typer.Option("--config", metavar="NAME_OR_FILE", help="A yaml file, or a name such as semantic/base."),
]
Precision = Annotated[
    str | None, typer.Option("--precision", metavar="fp32|bf16|int8", help="Weights on a CPU; fewer bits, faster.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides; 'triptych config' lists the keys.", show_default=False),
]
