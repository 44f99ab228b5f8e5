"""`evaluate`: what a listener would say of a cascade. Reads the line; triptych.evaluation measures.

OUT/report.html        everything, to read and to hear; needs nothing else
    report.json        the same, with the value of each utterance
    samples/           the sounds of the page
    evaluation.json    who was evaluated, on what, by whom
    sections/          what is measured so far; a run that was stopped goes on here
    cache/             what was made and judged; may be thrown away
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.inspect_tokens import lists
from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import check_writable, find_config
from triptych.cli.progress import Bar, log, result, result_json

if TYPE_CHECKING:
    from triptych.evaluation.compare import Comparison
    from triptych.evaluation.evaluate import Report


def evaluate(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="REPORT", help="The folder; goes on where it lies.")
    ],
    bundle: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="A folder or a hub id. Default: starter.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="MANIFEST", help="Made by 'prepare'. Not needed for a report that is made."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="OTHER", help="Another report: say what differs beyond chance.")
    ] = None,
    blame: Annotated[bool, typer.Option("--blame", help="Say which stage to work on first, too.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure a whole cascade, and write one page.

    Word error, voices, naturalness, failures, continuations, conversions, cost. Killed and started again, it goes on.
    'triptych config evaluate' lists the keys.
    """
    if bundle is not None and "=" in bundle:  # no bundle was named: the first word is an override
        overrides, bundle = [bundle, *(overrides or [])], None
    check_writable(output / "x")
    if data is None and (bundle or overrides or config or blame):
        raise ValueError("nothing is measured without --data MANIFEST; without it a report is written again as it is")
    from triptych.evaluation.evaluate import read_report, write_report

    other = read_report(against) if against else None  # known to be there before hours of listening
    if data is None:
        report = read_report(output)
    else:
        report = measure(bundle, data, output, overrides or [], config, ("blame",) if blame else ())
    found = write_report(output, report, other)
    tell(report, found, output, as_json)


def measure(
    bundle: str | None, data: Path, output: Path, overrides: list[str], config: str | None, also: tuple[str, ...]
) -> "Report":
    """Measures what is not measured yet in `output`; `also`: sections beside those of the settings."""
    from triptych.corpus.manifest import read_manifest
    from triptych.evaluation.evaluate import check_given, chosen, claim, described
    from triptych.evaluation.evaluate import evaluate as run
    from triptych.evaluation.judges import Memory, load_judges
    from triptych.evaluation.subject import EvaluateConfig, Evaluation
    from triptych.stages.bundle import STARTER, find_bundle
    from triptych.stages.cascade import Cascade
    from triptych.training.config import build, load_tree

    tree = lists(load_tree(find_config(config), overrides), ("sections", "pairs", "codec_levels"))
    settings = build(EvaluateConfig, tree, "evaluate")
    names = chosen(settings.sections, also)
    folder = find_bundle(bundle)
    next(read_manifest(data), None)  # a file that is none is known before judges are loaded
    memory = Memory(output / "cache" / "judged.jsonl")
    judges = load_judges(settings.recogniser, settings.speaker, settings.naturalness, memory)
    for kind, why in judges.absent.items():
        log(f"no {kind}: {why}")
    cascade = Cascade.load(folder)
    subject = Evaluation(cascade, data, settings, judges, output, lambda done, total, note: None)
    check_given(subject, names)
    said = described(subject, folder, str(bundle or STARTER).rstrip("/").split("/")[-1])
    claim(output, said)
    return run(subject, names, said, section_bar)


@contextmanager
def section_bar(name: str) -> Iterator[Bar]:
    with Bar(name, "") as bar:
        yield bar


def tell(report: "Report", found: "Comparison | None", output: Path, as_json: bool) -> None:
    """The figures that are asked for first, on stdout."""
    if as_json:
        result_json(report.to_json())
        return
    for section in report.sections:
        if section.name == "blame":
            result(section.about)
        for table in section.tables[:1]:
            for label, row in table.rows.items():
                figures = [
                    f"{table.columns[key].title} {figure.estimate.mean:.{table.columns[key].digits}f}"
                    for key, figure in row.items()
                    if figure.estimate is not None
                ]
                result(f"{section.name:<12} {label:<34} {'  '.join(figures[:5])}".rstrip())
    for difference in found.differences if found else ():
        if difference.verdict in ("better", "worse", "higher", "lower"):
            column = difference.column
            result(
                f"{difference.verdict:<7} {difference.section}: {difference.row}: {column.title} "
                f"{difference.here:.{column.digits}f}, was {difference.there:.{column.digits}f}"
            )
    result(str(output / "report.html"))
