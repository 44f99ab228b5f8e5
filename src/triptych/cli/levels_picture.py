"""One picture of what each quantizer level carries.

    word error     voice          STOI           PESQ          a panel a measure, over kbit/s; the codec as a line with
    SI-SDR         log-mel        pitch          DNSMOS        the number of levels at its points, Opus as diamonds, the
                                                               recordings as a dashed line; 95 % intervals as shades
    bits an id, level by level                                 what is paid, and what a coder spends
    recording  | 1 level | 2 levels | 4 levels | 8 levels      spectrograms of one clip

Reads a report; knows no codec.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.cli.picture import FLOOR_DB, power_db, shorten
from triptych.training.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from triptych.evaluation.codec_report import Example, Report, Row
    from triptych.evaluation.judge import Measure

PANELS = ("words", "voice", "stoi", "pesq", "si_sdr", "mel", "pitch", "dnsmos", "voicing", "estoi")
"""in order of reading; those that nobody measured have no panel, and the first eight are drawn"""
ACROSS = 4
"""panels in a row"""
MANY = 12
"""levels, from which words between them would overlap"""
CODEC, OPUS, RECORDING, PALE = "#30506f", "#c8722c", "#6b6b6b", "#d9dfe6"
BARS = (
    ("alone", "a coder: the ids alone", "#9fb4c8"),
    ("above", "given the level above", "#6c8db0"),
    ("before", "given the frame before", "#c9a37f"),
    ("ideal", "given both: ideal", CODEC),
)
"""field of a Level, its name, its colour; all of one coder, so that they compare"""


def draw_levels(report: "Report", example: "Example", path: Path) -> None:
    """Draws a report and one clip, and writes a PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in PANELS if any(name in row.scores for row in report.rows)][: 2 * ACROSS]
    lines = math.ceil(len(names) / ACROSS)
    figure = Figure(figsize=(14.5, 2.7 * lines + 5.9), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(3, 1, height_ratios=(2.7 * lines, 2.8, 2.6))
    above, middle, below = parts
    draw_measures(above, report, names)
    draw_bits(middle.subplots(), report)
    draw_strips(below, example, report)
    with atomic_file(path) as beside:
        figure.savefig(beside, dpi=100, format="png")


def draw_measures(figure: Any, report: "Report", names: Sequence[str]) -> None:
    """Small multiples, one a measure."""
    from triptych.evaluation.judge import MEASURES

    lines = math.ceil(len(names) / ACROSS)
    grid = figure.subplots(lines, ACROSS, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        draw_measure(axes, report, name, MEASURES[name])
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    named = report.codec["name"]
    title = f"{named}, {report.codec['levels']} levels of {report.codec['size']} entries; {len(report.clips)} clips"
    figure.legend(handles, labels, loc="outside upper right", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(f"What each level carries: {title}", x=0.01, ha="left", fontsize=12)


def draw_measure(axes: "Axes", report: "Report", name: str, measure: "Measure") -> None:
    """One measure over bit rate."""
    codec = [row for row in report.rows if row.kind == "codec" and name in row.scores]
    opus = [row for row in report.rows if row.kind == "opus" and name in row.scores]
    draw_line(axes, codec, name, CODEC, "o-", "the codec, with so many levels kept")
    draw_line(axes, opus, name, OPUS, "D:", "Opus")
    for row in codec:
        if len(codec) > MANY and not power_of_two(row.levels):
            continue
        spot = (row.kbps or 0.0, row.scores[name].mean)
        axes.annotate(str(row.levels), spot, (0, 5), textcoords="offset points", fontsize=7, ha="center", color=CODEC)
    for row in report.rows:
        if row.kind == "recording" and name in row.scores:
            axes.axhline(row.scores[name].mean, color=RECORDING, linestyle="--", linewidth=1, label="the recordings")
    if name == "voice" and report.other_voices is not None:
        axes.axhline(report.other_voices, color=RECORDING, linestyle=":", linewidth=1)
        at = (0.99, report.other_voices)
        axes.annotate(
            "another speaker", at, (0, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=7,
            color=RECORDING,
        )  # fmt: skip
    unit = f", {measure.unit}" if measure.unit else ""
    axes.set_title(f"{measure.title}{unit}  ({'higher' if measure.rising else 'lower'} is better)", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("kbit/s", fontsize=8, labelpad=0)
    rates = [row.kbps for row in report.rows if row.kbps]
    ticks = [rate for rate in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if min(rates) / 1.2 <= rate <= max(rates) * 1.2]
    axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    axes.set_xticks([], minor=True)
    axes.margins(y=0.12)
    axes.tick_params(labelsize=8)
    axes.grid(color=PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_line(axes: "Axes", rows: "Sequence[Row]", name: str, colour: str, style: str, label: str) -> None:
    """Means with shaded intervals."""
    if not rows:
        return
    rates = [row.kbps or 0.0 for row in rows]
    numbers = [row.scores[name] for row in rows]
    low = [number.mean if number.low is None else number.low for number in numbers]
    high = [number.mean if number.high is None else number.high for number in numbers]
    axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(rates, [number.mean for number in numbers], style, color=colour, markersize=4, linewidth=1.2, label=label)


def draw_bits(axes: "Axes", report: "Report") -> None:
    """Bars of bits an id under the bits that are paid, and the share of entries that occur."""
    places, width = np.arange(len(report.levels)), 0.8 / len(BARS)
    capacity = report.levels[0].capacity
    axes.bar(places, [capacity] * len(places), 0.9, color=PALE, label=f"paid: log2({report.codec['size']})")
    for turn, (field, label, colour) in enumerate(BARS):
        found = [getattr(level, field) for level in report.levels]
        heights = [math.nan if spent is None else spent.mean for spent in found]
        axes.bar(places - 0.4 + (turn + 0.5) * width, heights, width * 0.92, color=colour, label=label)
    for place, level in zip(places, report.levels, strict=True):
        axes.annotate(
            f"{level.usage:.0%} used", (place, capacity), (0, 2), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xticks(places, [f"{'level ' if len(places) <= MANY else ''}{place}" for place in places], fontsize=8)
    axes.set(ylim=(0, capacity * 1.12), xlim=(-0.55, len(places) - 0.45))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    paid = capacity * float(report.codec["sample_rate"]) / report.codec["hop"] * len(places) / 1000
    rows = [row.ideal_kbps for row in report.rows if row.levels == len(places)]
    ideal = f", {rows[0]:.2f} kbit/s needed at most" if rows and rows[0] is not None else ""
    axes.set_title(f"bits an id, level by level: {paid:.2f} kbit/s paid{ideal}", fontsize=10, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def draw_strips(figure: Any, example: "Example", report: "Report") -> None:
    """Spectrograms of one clip: the recording, then 1, 2, 4, … levels."""
    levels = {row.levels: row.name for row in report.rows if row.levels and power_of_two(row.levels)}
    names = ["recording", *(levels[count] for count in sorted(levels))][: ACROSS + 2]
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(grid, names, strict=True):
        waveform = example.made[name]
        extent = (0.0, len(waveform) / example.sample_rate, 0.0, example.sample_rate / 2000)
        axes.imshow(
            power_db(waveform), aspect="auto", origin="lower", extent=extent, cmap="magma", vmin=FLOOR_DB, vmax=0
        )
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("seconds", fontsize=8, labelpad=0)
        axes.tick_params(labelsize=8)
    grid[0].set_ylabel("kHz", fontsize=8)
    figure.suptitle(shorten(f"one clip: {short_name(example.name)}"), x=0.01, ha="left", fontsize=10, parse_math=False)


def short_name(name: str) -> str:
    """A recording without the folders that lead to its own."""
    return "/".join(name.split("/")[-2:])


def power_of_two(levels: int | None) -> bool:
    return levels is not None and levels & (levels - 1) == 0
