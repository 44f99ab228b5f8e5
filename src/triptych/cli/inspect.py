"""`inspect codec`: what each quantizer level carries. Reads the line; triptych.evaluation measures.

DIR/report.json    everything, with the settings and the names of the clips
    table.csv      a line for each way of making the clips anew: levels kept, Opus at a rate, the recordings
    table.md       the same tables for a page
    levels.png     the picture
    example/       one clip as wavs: the recording, with 1 level, with 2, …, through Opus
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import check_folder, find_config
from triptych.cli.progress import Bar, log, result, result_json

if TYPE_CHECKING:
    from triptych.evaluation.codec_report import Example, Report


def codec(
    source: Annotated[str, typer.Argument(metavar="DIR|BUNDLE|ID", help="A codec, tokenizers, a bundle, or a hub id.")],
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Made by 'prepare'.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
    page: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="PAGE.md", help="Put the tables between the marks of this page, too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what each quantizer level of a codec carries.

    Sound, words, voice and pitch with 1 to all levels kept, Opus beside them, and the bits that each level needs.
    'triptych config inspect-codec' lists the keys.
    """
    from dataclasses import asdict

    from triptych.cli.levels_table import check_page, fill_page, print_tables, remarks
    from triptych.evaluation.codec import CodecInspectConfig, inspect_codec, load_codec
    from triptych.training.config import build, load_tree

    check_folder(output)
    if page is not None:
        check_page(page)
    settings = build(CodecInspectConfig, load_tree(find_config(config), overrides or []), "inspect codec")
    tokenizer, preparation = load_codec(source)
    with Bar("inspect codec", "sounds") as bar:
        report, example = inspect_codec(tokenizer, manifest, preparation, settings, bar)
    write_report(output, report, example)
    if page is not None:
        fill_page(page, report)
    if as_json:
        result_json(asdict(report))
        return
    print_tables(report)
    for line in remarks(report):
        log(line)
    result(str(output))


def write_report(output: Path, report: "Report", example: "Example") -> None:
    """The folder drawn above, whole or not at all."""
    from dataclasses import asdict

    from triptych.cli.levels_picture import draw_levels
    from triptych.cli.levels_table import csv_text, markdown
    from triptych.tokenizers.waveform import write_wav
    from triptych.training.files import atomic_folder, write_json

    with atomic_folder(output) as beside:
        write_json(beside / "report.json", asdict(report))
        (beside / "table.csv").write_text(csv_text(report), encoding="utf-8")
        (beside / "table.md").write_text(markdown(report), encoding="utf-8")
        draw_levels(report, example, beside / "levels.png")
        for way, waveform in example.made.items():
            write_wav(beside / "example" / f"{way.replace(' ', '-')}.wav", waveform, example.sample_rate)
