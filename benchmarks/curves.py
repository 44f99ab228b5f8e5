"""Draws the held-out numbers of runs, one panel a number, from their metrics.jsonl.

    python benchmarks/curves.py OUT.png encoder5/run:ctc_error runs/semantic5:loss,gap_text runs/coarse5:loss_0

A run is a folder with metrics.jsonl in it; after the colon, the numbers of its validations that are drawn.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+", metavar="RUN:NUMBER,…")
    said = parser.parse_args()
    panels = [(Path(run), name) for one in said.runs for run, names in [one.split(":")] for name in names.split(",")]
    columns = min(4, len(panels))
    figure, axes = plt.subplots(
        -(-len(panels) // columns), columns, figsize=(3.4 * columns, 2.6 * -(-len(panels) // columns)), squeeze=False
    )
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.axis("off")
            continue
        run, name = panels[place]
        steps, values = held_out(run, name)
        axis.plot(steps, values, marker=".", color="#1f4e79")
        axis.set_title(f"{run.parent.name if run.name == 'run' else run.name}: {name}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.annotate(f"{values[-1]:.3g}", (steps[-1], values[-1]), fontsize=8, ha="right", va="bottom")
    figure.tight_layout()
    figure.savefig(said.output, dpi=110)


def held_out(run: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a run's validations.

    Raises:
        SystemExit: it has none of that name.
    """
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(row["step"], row[name]) for row in rows if row["kind"] == "validation" and name in row]
    if not found:
        known = sorted({key for row in rows if row["kind"] == "validation" for key in row} - {"step", "kind"})
        raise SystemExit(f"{run} has no held-out {name}; it has {', '.join(known) or 'no validation'}")
    return [step for step, _ in found], [value for _, value in found]


if __name__ == "__main__":
    main()
