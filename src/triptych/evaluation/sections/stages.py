"""Section `stages`: each stage as a language model on held-out clips, in bits a token; is it as sure as it is right?

    rows as training draws them ─▶ stage_scores ─▶ bits, accuracy, illegal mass   by stage, by level, by place
                                                 ─▶ gaps with another clip's text, semantic tokens, codes, voice
                                                 ─▶ calibration: confidence against accuracy in BINS bins

Sound is not made here: these numbers need no judge. Knows no page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.calibration import BINS, bins, calibration_error
from triptych.evaluation.estimate import Estimate
from triptych.evaluation.held_out import HeldOut, held_out
from triptych.evaluation.report import INK, PALE, Column, Figure, Plot, Section, Sheet, Table, plot
from triptych.evaluation.stage_scores import ALONE, OWN, Scored, draw, score, why_not
from triptych.evaluation.subject import Evaluation
from triptych.stages.stage import Specs
from triptych.stages.three import STAGES

SECONDS = (0, 1, 2, 4, 8, 16)
"""borders of the places in a window"""
LEAST = 20
"""targets that a point of a plot stands for, at least"""
COLORS = {"semantic": INK, "coarse": "#b4552d", "fine": "#4d7c4a"}

COLUMNS = {
    "bits": Column("bits a token", "bit", 2, False),
    "chance": Column("of an even guess", "bit", 2),
    "accuracy": Column("accuracy", "share", 3, True),
    "illegal": Column("illegal mass", "share", 5, False),
    "calibration": Column("calibration error", "share", 3, False),
}
GAPS = {
    "text": "another text",
    "semantic": "another's semantic tokens",
    "coarse": "another's coarse codes",
    "prompt": "another voice",
}
"""condition -> its column in the table of gaps"""


@dataclass(frozen=True)
class Measured:
    """What was measured of one stage."""

    label: str
    scored: Scored
    clips: tuple[str, ...]
    """utterance of each row that was scored"""


def stages_section(evaluation: Evaluation) -> Section:
    """All stages, on the judged clips."""
    clips = held_out(evaluation)
    settings = evaluation.settings
    sheet = Sheet("stages", "Each stage on held-out tokens", COLUMNS)
    levels = Sheet("levels", "By level of the codec", {key: COLUMNS[key] for key in ("bits", "accuracy")})
    gaps = Sheet(
        "gaps",
        "What a wrong condition costs",
        {key: Column(title, "nat a token", 2, True) for key, title in GAPS.items()},
    )
    places = Sheet("places", "By place in the window", {key: COLUMNS[key] for key in ("bits", "accuracy")})
    seen: list[Measured] = []
    for turn, name in enumerate(STAGES, start=1):
        seen += measure_stage(evaluation.cascade.stages[name], clips, sheet, levels, gaps)
        evaluation.progress(turn, len(STAGES), f"{name} stage as a language model")
    errors = {
        found.label: calibration_error(found.scored, found.clips, settings.resamples, settings.seed) for found in seen
    }
    also = {f"{stage.name}, {task}" for stage, _ in evaluation.cascade.stages.values() for task in others(stage)}
    timed = [found for found in seen if found.label not in also]  # a text has no seconds
    for found in timed:
        fill_places(places, found, frame_rate(found, clips))
    table = with_calibration(sheet.table(settings.resamples, settings.seed, note=NOTE), errors)
    rejected = f" {clips.rejected} clips could not be tokenized." if clips.rejected else ""
    return Section(
        "stages",
        "Each stage as a language model",
        "How well each stage foresees the true tokens of held-out clips, and how much worse with another clip's "
        "condition: a gap near 0 says that it does not listen. Healthy: 0.5 nat or more for text, semantic tokens and "
        f"codes, 0.1 for the voice.{rejected}",
        (
            table,
            levels.table(settings.resamples, settings.seed),
            places.table(settings.resamples, settings.seed, note="Seconds from the first token that is foreseen."),
            gaps.table(settings.resamples, settings.seed, note=GAP_NOTE),
        ),
        (place_plot(timed, clips), calibration_plot(seen)),
    )


NOTE = (
    "An even guess among the legal ids has log2 of their number. Illegal mass: probability of ids that may never stand "
    f"there. Calibration error: mean distance of confidence and accuracy over {BINS} bins (Guo et al. 2017)."
)
GAP_NOTE = "Nats a token that the stage loses when this condition comes from another clip, all else being the same."


def measure_stage(trained: tuple[Any, Any], clips: HeldOut, sheet: Sheet, levels: Sheet, gaps: Sheet) -> list[Measured]:
    """Fills the sheets with one stage, and returns what was scored of it."""
    stage, model = trained
    speech, draws, found = clips.speech, draws_of(stage), []
    kinds = {OWN: stage.name} | {task: f"{stage.name}, {task}" for task in others(stage)}
    if stage.name == "semantic":
        kinds[ALONE] = f"{stage.name}, {ALONE}"
    for given, label in kinds.items():
        rows, of = draw(stage, speech, clips.judged, given, draws)
        if not rows:
            sheet.lack(label, "bits", why_not(stage, speech, clips.judged[0], given))
            continue
        scored = score(stage, model, rows)
        names = tuple(clips.name(clip) for clip in of)
        found.append(Measured(label, scored, names))
        fill(sheet, label, scored, names)
        if given in (OWN, ALONE):
            sheet.put(label, "chance", "all", math.log2(choices(stage)))
        else:
            sheet.lack(label, "chance", "what is legal changes from text to speech")
        if stage.name != "semantic":
            for level in np.unique(scored.level):
                fill(levels, f"{label}, level {level}", scored.pick(scored.level == level), names)
    for condition in stage.conditions:
        fill_gap(gaps, stage, model, clips, condition, draws)
    return found


def others(stage: Any) -> tuple[str, ...]:
    """Tasks that a stage learned beside its own."""
    return tuple(getattr(stage, "also", ()))


def draws_of(stage: Any) -> int:
    """Rows a clip, so that all that the stage makes is seen: a row of the fine stage asks for one level."""
    return int(stage.specs.acoustic.levels - stage.config.coarse_levels) if stage.name == "fine" else 1


def choices(stage: Any) -> int:
    """Ids that may stand at a place."""
    specs: Specs = stage.specs
    return specs.semantic.size + 1 if stage.name == "semantic" else specs.acoustic.size


def fill(sheet: Sheet, label: str, scored: Scored, names: Sequence[str]) -> None:
    """Means of each utterance, weighted by its tokens."""
    for name, mean, tokens in by_clip(scored.nats / math.log(2), scored.row, names):
        sheet.put(label, "bits", name, mean, tokens)
    for name, mean, tokens in by_clip(scored.right, scored.row, names):
        sheet.put(label, "accuracy", name, mean, tokens)
    if "illegal" not in sheet.columns:
        return
    if scored.illegal is None:
        sheet.lack(label, "illegal", "it has no other ids than the legal ones")
        return
    for name, mean, tokens in by_clip(scored.illegal, scored.row, names):
        sheet.put(label, "illegal", name, mean, tokens)


def fill_places(places: Sheet, found: Measured, rate: float) -> None:
    """Bits and accuracy by the second of the target, of the levels together."""
    second = found.scored.place / rate
    for low, high in pairwise(SECONDS):
        where = (second >= low) & (second < high)
        if where.any():
            fill(places, f"{found.label}, second {low:g} to {high:g}", found.scored.pick(where), found.clips)


def frame_rate(found: Measured, clips: HeldOut) -> float:
    """Hz, of the stage's targets."""
    grid = clips.speech.grid
    return float(grid.semantic_rate if found.label.startswith("semantic") else grid.acoustic_rate)


def fill_gap(gaps: Sheet, stage: Any, model: Any, clips: HeldOut, condition: str, draws: int) -> None:
    """The same rows twice: with their own condition, and with another clip's."""
    swapped, of = draw(stage, clips.speech, clips.judged, condition, draws)
    for clip in clips.judged:
        if why := why_not(stage, clips.speech, clip, condition):
            gaps.lack(stage.name, condition, why)
    if not swapped:
        return
    own, _ = draw(stage, clips.speech, sorted(set(of), key=of.index), OWN, draws)
    worse, better = score(stage, model, swapped), score(stage, model, own)
    names = [clips.name(clip) for clip in of]
    before = {name: mean for name, mean, _ in by_clip(better.nats, better.row, names)}
    for name, mean, tokens in by_clip(worse.nats, worse.row, names):
        gaps.put(stage.name, condition, name, mean - before[name], tokens)


def by_clip(
    values: NDArray[np.float64], row: NDArray[np.int64], names: Sequence[str]
) -> list[tuple[str, float, float]]:
    """Utterance, mean of its values, number of its values."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    clip = np.array([places[name] for name in names])[row]
    sums, counts = (np.bincount(clip, weights=w, minlength=len(places)) for w in (values, np.ones(len(values))))
    return [(n, float(sums[p] / counts[p]), float(counts[p])) for n, p in places.items() if counts[p]]


def with_calibration(table: Table, errors: dict[str, Estimate]) -> Table:
    """`table` with a figure that is no mean over utterances."""
    rows = {
        label: row | ({"calibration": Figure(errors[label])} if label in errors else {})
        for label, row in table.rows.items()
    }
    return replace(table, rows=rows)


def place_plot(seen: Sequence[Measured], clips: HeldOut) -> Plot:
    """Accuracy by the second of the target."""

    def draw_it(axes: Any) -> None:
        for found in seen:
            name = found.label.split(",")[0]
            second = (found.scored.place / frame_rate(found, clips)).astype(np.int64)
            counts = np.bincount(second)
            shown = np.flatnonzero(counts >= LEAST)
            means = np.bincount(second, weights=found.scored.right)[shown] / counts[shown]
            style = "-" if found.label == name else "--"
            axes.plot(shown + 0.5, means, style, color=COLORS.get(name, PALE), label=found.label)
        axes.set_xlabel("second of the target")
        axes.set_ylabel("accuracy")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    return plot("places", "Accuracy by place in the window", draw_it)


def calibration_plot(seen: Sequence[Measured]) -> Plot:
    """Accuracy of the tokens of each bin of confidence."""

    def draw_it(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=PALE, label="as sure as it is right")
        for found in seen:
            name = found.label.split(",")[0]
            if found.label != name:
                continue
            bin_of = bins(found.scored.confidence)
            counts = np.bincount(bin_of, minlength=BINS)
            shown = counts >= LEAST
            sure, right = (
                np.bincount(bin_of, weights=w, minlength=BINS)[shown] / counts[shown]
                for w in (found.scored.confidence, found.scored.right)
            )
            axes.plot(sure, right, "o-", color=COLORS.get(name, PALE), label=name)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(frameon=False)

    return plot("calibration", "Calibration", draw_it)
