"""Pictures of what semantic tokens carry.

    tokens.png   left: phonemes, PNMI, speaker, pitch as bars       right: what each disturbance changes
    layers.png   a panel a measure, over layers; a line a size of the alphabet

95 % intervals as whiskers. Reads a report; knows no tokenizer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.training.files import atomic_file

if TYPE_CHECKING:
    from triptych.evaluation.estimate import Estimate
    from triptych.evaluation.layers import LayerReport, LayerRow
    from triptych.evaluation.token_report import TokenReport

BLUE, ORANGE, GREY, PALE = "#30506f", "#c8722c", "#6b6b6b", "#9fb4c8"
LINES = (BLUE, ORANGE, "#4f8a5b", "#8d5a97", GREY, "#b8a13a")
"""colours of the sizes of an alphabet, in turn"""


def canvas(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Any, path: Path) -> None:
    with atomic_file(path) as beside:
        figure.savefig(beside, dpi=120, format="png")


def whisker(value: "Estimate") -> tuple[float, float]:
    """Below and above the mean."""
    if value.low is None or value.high is None:
        return 0.0, 0.0
    return max(0.0, value.mean - value.low), max(0.0, value.high - value.mean)


def draw_tokens(report: "TokenReport", path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    figure = canvas(13.0, max(3.6, 0.42 * len(report.disturbed) + 1.8))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    draw_carried(left, report)
    draw_disturbed(right, report)
    spec = report.tokenizer
    figure.suptitle(
        f"Semantic tokens: {spec['name']}, {spec['size']} ids, {report.use.usage:.0%} used, "
        f"{report.use.per_second:.1f} tokens/s without repeats, {report.use.entropy:.2f} bit an id",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    write(figure, path)


def draw_carried(axes: Any, report: "TokenReport") -> None:
    """Shares from 0 to 1, one under another; grey marks where chance lies."""
    bars: list[tuple[str, float, tuple[float, float], float | None, str]] = []
    if report.phones and report.phones.error:
        error = report.phones.error
        bars.append(("phoneme error of a probe", error.mean, whisker(error), None, ORANGE))
    if report.phones and report.phones.purity:
        pure = report.phones.purity
        bars.append(("PNMI", pure.pnmi, (0.0, 0.0), pure.by_chance, BLUE))
    if report.speaker:
        voice = report.speaker.accuracy
        bars.append(
            (f"speaker, of {report.speaker.speakers}", voice.mean, whisker(voice), report.speaker.majority, ORANGE)
        )
    for name, pitch in (("pitch, R²", report.pitch), ("melody, R²", report.melody)):
        if pitch:
            bars.append((name, pitch.mean, whisker(pitch), None, PALE))
    for place, (_, mean, ends, chance, colour) in enumerate(bars):
        axes.barh(place, mean, color=colour, xerr=[[ends[0]], [ends[1]]], error_kw={"elinewidth": 1, "capsize": 2})
        axes.text(max(mean, 0) + ends[1] + 0.02, place, f"{mean:.2f}", va="center", fontsize=9)
        if chance is not None:
            axes.plot([chance, chance], [place - 0.4, place + 0.4], color=GREY, linestyle=":")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.set(xlim=(min([0.0, *(mean for _, mean, *_ in bars)]), 1.1), title="carried (dotted: by chance)")


def draw_disturbed(axes: Any, report: "TokenReport") -> None:
    """A bar a disturbance."""
    rows = report.disturbed
    for place, row in enumerate(rows):
        below, above = whisker(row.edits)
        axes.barh(place, row.edits.mean, color=BLUE, xerr=[[below], [above]], error_kw={"elinewidth": 1, "capsize": 2})
        axes.plot(row.frames.mean, place, marker="D", markersize=4, color=ORANGE)
        axes.text(row.edits.mean + above + 0.02, place, f"{row.edits.mean:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), title="edits a token when disturbed (diamonds: share of frames)")


Value = Callable[["LayerRow"], "float | None"]
PANELS: tuple[tuple[str, Value], ...] = (
    ("share of ids used", lambda row: row.use.usage),
    ("tokens/s without repeats", lambda row: row.use.per_second),
    ("PNMI (dotted: by chance)", lambda row: row.purity.pnmi if row.purity else None),
    ("speaker, linear probe", lambda row: row.speaker.accuracy.mean if row.speaker else None),
    ("pitch, R²", lambda row: row.pitch.mean if row.pitch else None),
    ("melody within a clip, R²", lambda row: row.melody.mean if row.melody else None),
    ("ABX error of tokens", lambda row: row.abx_tokens),
    ("ABX error of the layer", lambda row: row.abx_features),
)


def draw_layers(report: "LayerReport", path: Path) -> None:
    """Writes a PNG, whole or not at all; measures that nobody took have no panel."""
    panels = [(name, value) for name, value in PANELS if any(value(row) is not None for row in report.rows)]
    across = 4 if len(panels) > 3 else max(1, len(panels))
    down = -(-len(panels) // across)
    figure = canvas(3.6 * across, 2.8 * down + 0.8)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, value) in zip(grid, panels, strict=False):
        draw_panel(axes, report, name, value)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(f"Layers of {report.encoder}; {report.clips} clips", x=0.01, ha="left", fontsize=12)
    write(figure, path)


def draw_panel(axes: Any, report: "LayerReport", name: str, value: Value) -> None:
    """One measure over layers."""
    for place, size in enumerate(dict.fromkeys(row.clusters for row in report.rows)):
        rows = [row for row in report.rows if row.clusters == size and value(row) is not None]
        layers, colour = [row.layer for row in rows], LINES[place % len(LINES)]
        axes.plot(
            layers, [value(row) for row in rows], marker="o", markersize=4, color=colour, label=f"{size} clusters"
        )
        if name.startswith("PNMI"):
            chance = [row.purity.by_chance for row in rows if row.purity]
            axes.plot(layers, chance, color=colour, linestyle=":", linewidth=1)
    axes.set_title(name, fontsize=10)
    axes.set_xticks(sorted({row.layer for row in report.rows}))
    axes.set_xlabel("layer", fontsize=9)
    axes.grid(alpha=0.3)
