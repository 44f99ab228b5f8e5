"""What an evaluation found: figures in tables, plots, sounds to hear. Knows no cascade, no judge and no page.

    Sheet.put(row, column, utterance, value)  ─┐
    Sheet.lack(row, column, utterance, why)   ─┴─▶ Table ─┐
    plot(name, title, draw) ─────────────────────▶ Plot  ─┼─▶ Section ─▶ OUT/sections/NAME.json
    Sample(label, audio, text, strips) ───────────────────┘

Invariants: what cannot be measured is a `Figure` without an estimate and with a reason, never a zero; the value of each
utterance stays in its table, so that two reports of the same utterances can be compared pair by pair.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from triptych.evaluation.estimate import Estimate, estimate

Values = dict[str, tuple[float, float]]
"""utterance -> value, weight"""


@dataclass(frozen=True)
class Figure:
    """One number of a table."""

    estimate: Estimate | None
    why: str = ""
    """without an estimate: why there is none; with one: what it lacks, such as utterances that have no value"""


@dataclass(frozen=True)
class Column:
    """What a column of a table says."""

    title: str
    unit: str = ""
    digits: int = 2
    """after the point"""
    rising: bool | None = None
    """whether more is better; None: neither"""


@dataclass(frozen=True)
class Table:
    """Figures by row and column."""

    name: str
    """of letters, digits and '-'; one of its kind in its section"""
    title: str
    columns: dict[str, Column]
    rows: dict[str, dict[str, Figure]]
    """label -> column -> figure; a row may leave columns out, which are then not asked of it"""
    note: str = ""
    values: dict[str, dict[str, Values]] = field(default_factory=dict)
    """label -> column -> utterance -> value, weight: what the figures are means of"""


@dataclass(frozen=True)
class Plot:
    """A picture."""

    name: str
    """of letters, digits and '-'; one of its kind in its section"""
    title: str
    svg: str


@dataclass(frozen=True)
class Sample:
    """A sound to hear, with what is known of it."""

    label: str
    audio: str
    """file, relative to the report's folder; as `Evaluation.keep` returned it"""
    text: str = ""
    strips: dict[str, list[int]] = field(default_factory=dict)
    """name -> token ids, in order of time"""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """What one question found."""

    name: str
    """of letters, digits and '-'; one of its kind in the report"""
    title: str
    about: str
    """what it measures, and what is good and bad, in a sentence or two"""
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    samples: tuple[Sample, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Section":
        """The section that `to_json` wrote."""
        return cls(
            record["name"],
            record["title"],
            record["about"],
            tuple(table_from_json(table) for table in record["tables"]),
            tuple(Plot(**plot) for plot in record["plots"]),
            tuple(Sample(**{**sample, "notes": tuple(sample["notes"])}) for sample in record["samples"]),
        )


def table_from_json(record: Mapping[str, Any]) -> Table:
    """The table within a section's `to_json`."""

    def figure(said: Mapping[str, Any]) -> Figure:
        return Figure(Estimate(**said["estimate"]) if said["estimate"] else None, said["why"])

    return Table(
        record["name"],
        record["title"],
        {key: Column(**column) for key, column in record["columns"].items()},
        {label: {key: figure(said) for key, said in row.items()} for label, row in record["rows"].items()},
        record["note"],
        {
            label: {key: {u: (float(v), float(w)) for u, (v, w) in values.items()} for key, values in row.items()}
            for label, row in record["values"].items()
        },
    )


class Sheet:
    """Gathers the values of a table, utterance by utterance; rows stand in the order in which they were first named.

    Args:
        absent: column -> why it cannot be measured at all.
    """

    def __init__(
        self, name: str, title: str, columns: Mapping[str, Column], absent: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.title, self.columns, self.absent = name, title, dict(columns), dict(absent or {})
        self.values: dict[str, dict[str, Values]] = {}
        self.reasons: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def row(self, row: str) -> None:
        """Names a row, which then stands in the table even where nothing of it can be measured."""
        self.values.setdefault(row, {})

    def put(self, row: str, column: str, utterance: str, value: float | None, weight: float = 1.0) -> None:
        """One value; None: it was asked for, and there is none (say why with `lack`)."""
        assert column in self.columns, column
        cell = self.values.setdefault(row, {}).setdefault(column, {})
        if value is None or not np.isfinite(value):
            self.reasons[row][column]["no number" if value is None else "not finite"] += 1
        else:
            cell[utterance] = (float(value), float(weight))

    def lack(self, row: str, column: str, why: str) -> None:
        """An utterance has no value here."""
        self.values.setdefault(row, {}).setdefault(column, {})
        self.reasons[row][column][why] += 1

    def table(self, resamples: int, seed: int, note: str = "") -> Table:
        """The means with their intervals; the same utterances are drawn for every figure that has the same ones."""
        rows = {
            label: {key: self._figure(label, key, resamples, seed) for key in self.columns if self._asked(label, key)}
            for label in self.values
        }
        return Table(self.name, self.title, self.columns, rows, note, self.values)

    def _asked(self, row: str, column: str) -> bool:
        return column in self.values[row] or column in self.absent

    def _figure(self, row: str, column: str, resamples: int, seed: int) -> Figure:
        found = figure_of(self.values[row].get(column, {}), resamples, seed)
        reasons = self.reasons[row][column]
        if found is None:
            return Figure(None, self.absent.get(column) or "; ".join(reasons) or "no utterance")
        return Figure(found, "; ".join(f"{count} without: {why}" for why, count in reasons.items()))


def figure_of(values: Values, resamples: int, seed: int) -> Estimate | None:
    """The mean of values by weight; None where there is none."""
    numbers = list(values.values())
    return estimate([v for v, _ in numbers], [w for _, w in numbers], resamples, np.random.default_rng(seed))


def single(value: float, clips: int = 1) -> Figure:
    """A number that is no mean over utterances, and so has no interval."""
    return Figure(Estimate(float(value), None, None, clips))


INK, PALE = "#1f3a5f", "#c9d3df"
"""of plots and strips"""


def plot(name: str, title: str, draw: Callable[[Any], None], size: Sequence[float] = (6.4, 3.0)) -> Plot:
    """A picture; `draw` is given matplotlib's Axes."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "font.family": "sans-serif"}
    ):
        canvas = Canvas(figsize=(size[0], size[1]), layout="constrained")
        axes = canvas.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(name, title, stream.getvalue())
