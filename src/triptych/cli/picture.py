"""One picture of some utterances: a column each, everything in a column on one time axis.

    waveform       ~~~~~╱╲╱╲╱╲~~~~~
    spectrogram    ░░▒▒▓▓▒▒░░
    semantic       ▐▌▐▐▌▐▌            [T]      a colour an id
    coarse         ▐▌▐▌▐▌▐▌▐▌         [levels 0..]
    fine           ▐▌▐▌▐▌▐▌▐▌

Reads utterances; knows no cascade.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triptych.training.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from triptych.stages.cascade import Utterance

GOLDEN = 0.6180339887498949
FLOOR_DB = -90.0


def draw(utterances: "Sequence[tuple[str, Utterance]]", path: Path, coarse_levels: int) -> None:
    """Draws titled utterances and writes a PNG, whole or not at all; the first levels are those of the coarse stage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(utterances), 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(
        5, len(utterances), sharex="col", squeeze=False, height_ratios=(1.2, 2.5, 0.6, 0.5, 1.2)
    )
    for column, (title, said) in enumerate(utterances):
        draw_column(grid[:, column], title, said, coarse_levels)
        if column:
            for axes in grid[:, column]:
                axes.set_ylabel("")
    with atomic_file(path) as beside:
        figure.savefig(beside, dpi=110, format="png")


def draw_column(column: "Sequence[Axes]", title: str, said: "Utterance", coarse_levels: int) -> None:
    """Draws one utterance into five axes."""
    waveform, spectrogram, semantic, coarse, fine = column
    seconds = len(said.waveform) / said.sample_rate
    times = np.arange(len(said.waveform)) / said.sample_rate
    waveform.plot(times, said.waveform, linewidth=0.4, color="#30506f")
    waveform.set(ylim=(-1, 1), xlim=(0, seconds), ylabel="waveform")
    waveform.set_title(shorten(title), fontsize=10, parse_math=False)
    power = power_db(said.waveform)
    extent = (0.0, seconds, 0.0, said.sample_rate / 2000)
    spectrogram.imshow(power, aspect="auto", origin="lower", extent=extent, cmap="magma", vmin=FLOOR_DB, vmax=0)
    spectrogram.set_ylabel("kHz")
    strip(semantic, said.semantic[None], seconds, "semantic", 0)
    strip(coarse, said.codes[:coarse_levels], seconds, "coarse", 0)
    strip(fine, said.codes[coarse_levels:], seconds, "fine", coarse_levels)
    fine.set_xlabel("seconds")


def strip(axes: "Axes", tokens: NDArray[Any], seconds: float, name: str, first_level: int) -> None:
    """Tokens [levels, frames] as stripes of colour over the whole time axis; level 0 on top."""
    axes.set_ylabel(name)
    axes.set_yticks([])
    if not tokens.size:
        axes.text(0.5, 0.5, "left out", transform=axes.transAxes, ha="center", va="center", color="grey")
        return
    levels = len(tokens)
    extent = (0.0, seconds, first_level + levels - 0.5, first_level - 0.5)
    axes.imshow(colour(tokens), aspect="auto", interpolation="nearest", extent=extent, cmap="turbo", vmin=0, vmax=1)
    if levels > 1:
        axes.set_yticks([first_level, first_level + levels - 1])


def colour(tokens: NDArray[Any]) -> NDArray[np.float64]:
    """Ids to [0, 1), so that neighbouring ids look unlike each other."""
    return np.asarray(tokens.astype(np.float64) * GOLDEN % 1.0)


def power_db(waveform: NDArray[np.float32], window: int = 512, hop: int = 128) -> NDArray[np.float64]:
    """Spectrogram [window / 2 + 1, frames] in dB under its loudest point."""
    padded = np.pad(waveform, (window // 2, window // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1)) ** 2
    return np.asarray(10 * np.log10(power.T / max(float(power.max()), 1e-12) + 1e-12))


def shorten(title: str, longest: int = 60) -> str:
    return title if len(title) <= longest else title[: longest - 1] + "…"
