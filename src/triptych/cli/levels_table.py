"""The tables of `inspect codec`: on a terminal, as CSV, and as Markdown between two marks of a page.

kept        kbit/s   SI-SDR   …   word error        a number that was not measured is a dash, never a zero
1 level       0.50     1.2          0.81
                     0.9–1.5      0.72–0.90         95 % interval over clips
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.training.files import atomic_file

if TYPE_CHECKING:
    from triptych.evaluation.codec_report import Level, Report, Row
    from triptych.evaluation.estimate import Estimate

BEGIN, END = "<!-- inspect codec: tables -->", "<!-- end of tables -->"
DASH = "–"
WIDE = 150
"""columns, where stdout is no terminal"""


def print_tables(report: "Report") -> None:
    """Both tables on stdout."""
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    for title, (heads, lines) in (("levels kept", row_table(report)), ("bits an id", level_table(report))):
        table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1))
        for place, head in enumerate(heads):
            table.add_column("\n".join(head), justify="right" if place else "left")
        for line in lines:
            table.add_row(*("\n".join(part for part in cell if part) for cell in line))
        console.print(table)


def markdown(report: "Report") -> str:
    """Both tables and what is to be said of them, as Markdown."""
    parts = []
    for heads, lines in (row_table(report), level_table(report)):
        parts.append("| " + " | ".join(" ".join(part for part in head if part) for head in heads) + " |")
        parts.append("|---" * len(heads) + "|")
        for line in lines:
            cells = (f"{mean}<br>{interval}" if interval else mean for mean, interval in line)
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join([*parts, *(f"- {line}" for line in remarks(report))]) + "\n"


def check_page(page: Path) -> None:
    """Raises ValueError where the page is missing or has not both marks, in order."""
    if not page.is_file():
        raise ValueError(f"{page} does not exist")
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise ValueError(f"{page}: write '{BEGIN}' and, below it, '{END}' where the tables should stand")


def fill_page(page: Path, report: "Report") -> None:
    """Puts the tables between the marks, in place of what stands there."""
    check_page(page)
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_file(page) as beside:
        beside.write_text(f"{before}{BEGIN}\n\n{markdown(report)}\n{END}{after}", encoding="utf-8")


Cell = tuple[str, str]
"""what is shown, and under it its interval"""


def row_table(report: "Report") -> tuple[list[Cell], list[list[Cell]]]:
    """Heads and lines of the table of levels kept; measures that no row has are left out."""
    from triptych.evaluation.judge import MEASURES

    names = [name for name in MEASURES if any(name in row.scores for row in report.rows)]
    heads = [("kept", ""), ("kbit/s", ""), ("ideal", "kbit/s")]
    heads += [(MEASURES[name].title, MEASURES[name].unit) for name in names]
    return heads, [row_line(row, names) for row in report.rows]


def row_line(row: "Row", names: Sequence[str]) -> list[Cell]:
    from triptych.evaluation.judge import MEASURES

    rates = [(DASH if rate is None else f"{rate:.2f}", "") for rate in (row.kbps, row.ideal_kbps)]
    return [(row.name, ""), *rates, *(cell(row.scores.get(name), MEASURES[name].digits) for name in names)]


def level_table(report: "Report") -> tuple[list[Cell], list[list[Cell]]]:
    """Heads and lines of the table of bits."""
    heads = [
        ("level", ""), ("entries used", ""), ("log2(size)", "bit"), ("entropy", "bit"), ("coder: alone", "bit"),
        ("level above", "bit"), ("frame before", "bit"), ("both = ideal", "bit"), ("saved", ""),
    ]  # fmt: skip
    return heads, [level_line(level) for level in report.levels]


def level_line(level: "Level") -> list[Cell]:
    coders = (level.alone, level.above, level.before, level.ideal)
    return [
        (str(level.level), ""),
        (f"{level.usage:.1%}", ""),
        (f"{level.capacity:.2f}", ""),
        (f"{level.entropy:.2f}", ""),
        *(cell(spent, 2) for spent in coders),
        (f"{1 - level.ideal.mean / level.capacity:.0%}", ""),
    ]


def cell(number: "Estimate | None", digits: int) -> Cell:
    """Mean, and its interval."""
    if number is None:
        return DASH, ""
    if number.low is None or number.high is None:
        return f"{number.mean:.{digits}f}", ""
    joint = " to " if number.low < 0 else "–"
    return f"{number.mean:.{digits}f}", f"{number.low:.{digits}f}{joint}{number.high:.{digits}f}"


def remarks(report: "Report") -> list[str]:
    """What the tables do not say of themselves: how many clips, what is missing, and why."""
    from triptych.evaluation.judge import MEASURES

    counted, learned = report.frames["counted"], report.frames["learned"]
    lines = [
        f"{len(report.clips)} clips of split {report.config['split']}; under each mean its 95 % interval over clips",
        f"bits: counted over {counted} frames, after learning from {learned} of split {report.config['learn_split']}",
    ]
    if "words" not in report.absent:
        lines.append(f"word error by {Path(report.config['recogniser']).name}")
    if report.other_voices is not None:
        lines.append(f"clips of different speakers have a voice cosine of {report.other_voices:.3f}")
    for name, reasons in report.skipped.items():
        for reason, clips in reasons.items():
            lines.append(f"{MEASURES[name].title}: no number for {clips} waveforms ({reason}), which are not counted")
    for name, reason in report.absent.items():
        title = MEASURES[name].title if name in MEASURES else "Opus"
        lines.append(f"{title}: not measured: {reason}")
    lines += [f"{name} left out: {reason}" for name, reason in report.left_out.items()]
    return lines


def csv_text(report: "Report") -> str:
    """A line a row of the table, every measure with its interval and its number of clips; empty: not measured."""
    from triptych.evaluation.judge import MEASURES

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    parts = ("mean", "low", "high", "clips")
    heads = [f"{name}_{part}" for name in MEASURES for part in parts]
    writer.writerow(["kept", "kind", "levels", "kbps", "ideal_kbps", *heads])
    for row in report.rows:
        values = [getattr(row.scores.get(name), part, "") for name in MEASURES for part in parts]
        writer.writerow([row.name, row.kind, row.levels, row.kbps, row.ideal_kbps, *values])
    return stream.getvalue()
