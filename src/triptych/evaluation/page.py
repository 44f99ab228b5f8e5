"""The report as one page that needs nothing else: tables, plots, players and token strips in a single HTML file.

    report.json ─┐
    plots (SVG) ─┼─▶ report.html      styles inside, sounds and plots as data: URLs, no script, no network
    samples/*.ogg┘

Invariant: all text is escaped, and a content policy in the page forbids scripts and every request. Knows no measure.
"""

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.evaluation.report import Column, Figure, Plot, Sample, Section, Table

if TYPE_CHECKING:
    from triptych.evaluation.compare import Comparison
    from triptych.evaluation.evaluate import Report

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
HUES = 24
"""colours of a token strip; ids of one colour may differ"""
MIME = {".ogg": "audio/ogg", ".wav": "audio/wav", ".mp3": "audio/mpeg"}
STYLE = """
:root { color-scheme: light; --ink: #1c2430; --pale: #5f6b7a; --line: #d9dee5; --wash: #f5f7f9; --blue: #1f3a5f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; color: var(--blue); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 48rem; } a { color: var(--blue); }
.pale, small, .note, figcaption { color: var(--pale); } .note, figcaption { font-size: .85rem; }
nav { border: 1px solid var(--line); background: var(--wash); padding: .7rem 1rem; margin: 1.2rem 0; }
nav ol { margin: .2rem 0 0; padding-left: 1.3rem; columns: 2; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .8rem 0; font-size: .9rem; }
dt { color: var(--pale); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th:first-child, td.word { text-align: left; } tbody th { font-weight: 400; }
td small { display: block; white-space: nowrap; } td.better { color: #1a6b3a; } td.worse { color: #a3291f; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
.sample { border-top: 1px solid var(--line); padding: .7rem 0; }
.sample audio { display: block; width: 100%; max-width: 30rem; height: 2.2rem; }
.strip { display: flex; align-items: center; gap: .6rem; font-size: .78rem; color: var(--pale); margin: .15rem 0; }
.strip span { flex: 0 0 6rem; } .strip svg { flex: 1; height: 12px; width: 100%; max-width: 48rem; }
@media (max-width: 40rem) { nav ol { columns: 1; } dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""


def page(folder: Path, report: "Report", against: "Comparison | None" = None) -> str:
    """The whole page; sounds are read from `folder`."""
    name = report.subject["bundle"]["name"]
    found = [("against", "Against the other report", compared(name, against))] if against else []
    found += [(section.name, section.title, body(folder, section)) for section in report.sections]
    parts = [f'<section id="{text(key)}"><h2>{text(title)}</h2>{content}</section>' for key, title, content in found]
    contents = "".join(f'<li><a href="#{text(key)}">{text(title)}</a></li>' for key, title, _ in found)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<link rel="icon" href="data:,"><title>{text(name)}: evaluation</title><style>{STYLE}</style></head><body>'
        f"<header><h1>Evaluation of {text(name)}</h1>{heading(report.subject)}</header>"
        f'<nav aria-label="Contents"><strong>Contents</strong><ol>{contents}</ol></nav>'
        f"<main>{''.join(parts)}</main></body></html>\n"
    )


def text(value: object) -> str:
    """Escaped, for content and for attributes in double quotes."""
    return html.escape(str(value), quote=True)


def heading(said: Mapping[str, Any]) -> str:
    """Who was evaluated, on what, by whom."""
    judges, settings = said["judges"], said["settings"]
    rows = {
        "cascade": f"{said['bundle']['name']}, fingerprint {said['bundle']['fingerprint']}",
        "recordings": f"{said['manifest']['name']}, fingerprint {said['manifest']['fingerprint']}; "
        f"up to {settings['clips']} clips of the split {settings['split']}",
        **{kind: name for kind, name in judges["names"].items()},
        **{kind: f"none: {why}" for kind, why in judges["absent"].items()},
        "machine": said["machine"],
        "made by": f"triptych {said['triptych']}",
    }
    listed = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in rows.items())
    how = (
        "Each number is a mean over utterances; small numbers below it are its 95 % interval (bootstrap over "
        "utterances), and – means that there is no number, for the reason under the table. Arrows say what is better."
    )
    return f"<dl>{listed}</dl><p>{how}</p>"


def body(folder: Path, section: Section) -> str:
    parts = [f"<p>{text(section.about)}</p>"]
    parts += [table(found) for found in section.tables]
    parts += [picture(found) for found in section.plots]
    if section.samples:
        parts.append("<h3>To hear</h3>")
        parts += [player(folder, found) for found in section.samples]
    return "".join(parts)


def table(found: Table) -> str:
    """One table, with what it lacks under it."""
    heads = "".join(f'<th scope="col">{head(column)}</th>' for column in found.columns.values())
    rows = "".join(
        f'<tr><th scope="row">{text(label)}</th>'
        + "".join(cell(row.get(key), column) for key, column in found.columns.items())
        + "</tr>"
        for label, row in found.rows.items()
    )
    notes = [found.note] if found.note else []
    notes += lacks(found)
    under = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    return (
        f'<h3>{text(found.title)}</h3><div class="wide"><table><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{under}"
    )


def head(column: Column) -> str:
    arrow = {True: "\u00a0↑", False: "\u00a0↓", None: ""}[column.rising]
    unit = f"<br><small>{text(column.unit)}</small>" if column.unit else ""
    return f"{text(column.title)}{arrow}{unit}"


def cell(figure: Figure | None, column: Column) -> str:
    if figure is None:
        return "<td></td>"
    if figure.estimate is None:
        return f'<td title="{text(figure.why)}">–</td>'
    mean, low, high, clips = (getattr(figure.estimate, name) for name in ("mean", "low", "high", "clips"))
    digits = column.digits
    between = f"<small>{low:.{digits}f}–{high:.{digits}f}</small>" if low is not None and high is not None else ""
    if low is not None and low < 0:
        between = f"<small>{low:.{digits}f} to {high:.{digits}f}</small>"
    return f'<td title="{text(f"{clips} counted")}">{mean:.{digits}f}{between}</td>'


def lacks(found: Table) -> Iterable[str]:
    """Why figures are missing, or of fewer utterances than were judged: a line a reason."""
    rows_of: dict[tuple[str, str], list[str]] = {}
    for label, row in found.rows.items():
        for key, figure in row.items():
            if figure.why:
                rows_of.setdefault((key, figure.why), []).append(label)
    columns_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (key, why), labels in rows_of.items():
        columns_of.setdefault((why, tuple(labels)), []).append(found.columns[key].title)
    for (why, where), titles in columns_of.items():
        rows = "" if len(where) == len(found.rows) else f" ({', '.join(where)})"
        yield f"{', '.join(titles)}: {why}{rows}"


def picture(found: Plot) -> str:
    data = base64.b64encode(found.svg.encode()).decode()
    title = text(found.title)
    return (
        f'<figure><img class="plot" alt="{title}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{title}</figcaption></figure>"
    )


def player(folder: Path, found: Sample) -> str:
    """A sound with its text and its tokens; one whose file is gone says so."""
    file = folder / found.audio
    heard = f'<p class="note">{text(found.audio)} is gone</p>'
    if file.is_file():
        data = base64.b64encode(file.read_bytes()).decode()
        heard = f'<audio controls preload="metadata" src="data:{MIME[file.suffix]};base64,{data}"></audio>'
    said = f"<p>{text(found.text)}</p>" if found.text else ""
    strips = "".join(strip(name, ids) for name, ids in found.strips.items())
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in found.notes)
    return f'<div class="sample"><strong>{text(found.label)}</strong>{said}{heard}{strips}{notes}</div>'


def strip(name: str, ids: list[int]) -> str:
    """Token ids [T] as a row of colours; equal neighbours are one block."""
    blocks: dict[int, list[str]] = {}
    begin = 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or ids[place] != ids[begin]:
            wide = place - begin
            blocks.setdefault(ids[begin] * 7 % HUES, []).append(f"M{begin} 0h{wide}v1h-{wide}z")
            begin = place
    paths = "".join(
        f'<path fill="hsl({hue * 360 // HUES} 45% {45 + 20 * (hue % 2)}%)" d="{"".join(d)}"/>'
        for hue, d in blocks.items()
    )
    shape = f'viewBox="0 0 {max(1, len(ids))} 1" preserveAspectRatio="none"'
    drawn = f'<svg {shape} role="img" aria-label="{len(ids)} tokens">{paths}</svg>'
    return f'<div class="strip"><span>{text(name)}</span>{drawn}</div>'


def compared(name: str, found: "Comparison") -> str:
    """The table of differences."""
    beyond = sum(d.verdict in ("better", "worse", "higher", "lower") for d in found.differences)
    told = sum(d.verdict != "too few to say" for d in found.differences)
    about = (
        f"{name} less {found.name}. A difference is beyond chance where its 95 % interval leaves out 0: {beyond} of "
        f"{told} here; of so many figures, about {told / 20:.0f} would be so by chance alone. Utterances that are the "
        "same in both are compared pair by pair."
    )
    rows = "".join(
        f'<tr><th scope="row">{text(f"{d.section}: {d.row}")}</th><td class="word">{text(d.column.title)}</td>'
        f"<td>{d.here:.{d.column.digits}f}</td><td>{d.there:.{d.column.digits}f}</td>"
        f"{signed(d.difference, d.column.digits)}"
        f'<td class="{text(d.verdict)}">{text(d.verdict)}</td><td>{"pairs" if d.paired else "apart"}</td></tr>'
        for d in found.differences
    )
    heads = "".join(
        f"<th>{text(head)}</th>" for head in ("", "measure", name, found.name, "difference", "", "compared")
    )
    remarks = "".join(f'<p class="note">{text(remark)}</p>' for remark in found.remarks)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<p>{text(about)}</p>{remarks}<div class="wide">{table}</div>'


def signed(found: Any, digits: int) -> str:
    between = "" if found.low is None else f"<small>{found.low:+.{digits}f} to {found.high:+.{digits}f}</small>"
    return f"<td>{found.mean:+.{digits}f}{between}</td>"
