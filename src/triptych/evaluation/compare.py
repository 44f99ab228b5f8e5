"""Two reports, figure by figure: how far apart, and whether that is beyond chance. Knows no cascade.

the same utterances in both     paired: the differences are resampled                 (Efron and Tibshirani 1993)
other utterances                each report is resampled by itself
other bundle, other judges      is said; figures of other judges cannot be compared, and are left out
another machine                 is said; what it costs cannot be compared, and is left out
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.evaluation.estimate import FEWEST, INSIDE, Estimate
from triptych.evaluation.report import Column, Section, Values

if TYPE_CHECKING:
    from triptych.evaluation.evaluate import Report

EAR = ("recogniser",)
JUDGES_OF: dict[str, tuple[str, ...]] = {
    "continuing/heard-sense": ("recogniser", "language model"),
    "words": EAR, "characters": EAR, "heard": EAR, "voice": ("speaker",),
    "natural": ("naturalness",), "dnsmos": ("naturalness",),
    "speaking/loop": EAR, "speaking/early": EAR, "speaking/overrun": EAR, "speaking/any": EAR,
}  # fmt: skip
"""column, up to a '-', in any section or in one -> the judges that it needs"""
SHARED = 0.5
"""of the utterances of both that must be the same, to be paired"""


@dataclass(frozen=True)
class Difference:
    """One figure in both reports."""

    section: str
    table: str
    row: str
    column: Column
    here: float
    there: float
    difference: Estimate
    """here less there"""
    paired: bool
    verdict: str
    """'better', 'worse', 'higher', 'lower', 'within chance', 'too few to say'"""


@dataclass(frozen=True)
class Comparison:
    """What differs between two reports."""

    name: str
    """of the other bundle"""
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]
    """what is not the same in both, beside the figures"""


def compare(here: "Report", there: "Report", resamples: int, seed: int) -> Comparison:
    """Every figure that both have, of this report less the other."""
    others = {section.name: section for section in there.sections}
    said = here.subject["judges"]["names"], there.subject["judges"]["names"]
    judges = {judge for those in JUDGES_OF.values() for judge in those}
    unlike = {judge for judge in judges if said[0].get(judge) != said[1].get(judge)}
    if here.subject["settings"].get("language_model") != there.subject["settings"].get("language_model"):
        unlike.add("language model")
    found = [
        difference
        for section in here.sections
        if section.name in others and (section.name != "cost" or same_machine(here.subject, there.subject))
        for difference in of_section(section, others[section.name], unlike, resamples, seed)
    ]
    return Comparison(there.subject["bundle"]["name"], tuple(found), tuple(remarks(here.subject, there.subject)))


def same_machine(here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether seconds of both can be compared."""
    return bool(here.get("machine") == there.get("machine"))


def remarks(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if here["bundle"]["fingerprint"] == there["bundle"]["fingerprint"]:
        found.append("Both reports are of the same weights.")
    if here["manifest"]["fingerprint"] != there["manifest"]["fingerprint"]:
        found.append(
            "The manifests differ: figures are compared as those of other recordings, where their names differ."
        )
    if not same_machine(here, there):
        found.append(f"The machines differ ({here.get('machine')}; {there.get('machine')}): cost is not compared.")
    for kind in ("recogniser", "speaker", "naturalness"):
        one, other = (said["judges"]["names"].get(kind) for said in (here, there))
        if one != other:
            found.append(
                f"The {kind} is another one ({one or 'none'}; {other or 'none'}): its figures are not compared."
            )
    changed = [key for key, value in here["settings"].items() if there["settings"].get(key) != value]
    changed = [key for key in changed if key not in ("recogniser", "speaker", "naturalness", "samples", "slots")]
    if changed:
        found.append(f"Settings differ: {', '.join(changed)}.")
    return found


def of_section(here: Section, there: Section, unlike: set[str], resamples: int, seed: int) -> list[Difference]:
    """The figures that both sections have values for, but those of judges that are not the same."""
    tables = {table.name: table for table in there.tables}
    found = []
    for table in here.tables:
        other = tables.get(table.name)
        for row, cells in table.values.items() if other else ():
            for key, values in cells.items():
                against = other.values.get(row, {}).get(key, {}) if other else {}
                if values and against and unlike.isdisjoint(judges_of(here.name, key)):
                    place = (here.name, table.title, row, table.columns[key])
                    found.append(difference(place, values, against, resamples, seed))
    return found


def judges_of(section: str, column: str) -> tuple[str, ...]:
    """The judges that a column of a section needs."""
    kind = column.split("-")[0]
    named = (f"{section}/{column}", f"{section}/{kind}", kind)
    return next((JUDGES_OF[name] for name in named if name in JUDGES_OF), ())


def difference(
    place: tuple[str, str, str, Column], here: Values, there: Values, resamples: int, seed: int
) -> Difference:
    """One figure, here less there."""
    common = [name for name in here if name in there]
    paired = len(common) >= SHARED * max(len(here), len(there))
    one = np.array([here[name] for name in (common if paired else here)])
    other = np.array([there[name] for name in (common if paired else there)])
    means = mean(one), mean(other)
    counts = min(len(one), len(other))
    found = Estimate(means[0] - means[1], None, None, counts)
    if counts > 1:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(one), (resamples, len(one)))
        again = drawn if paired else rng.integers(0, len(other), (resamples, len(other)))
        moved = means_of(one, drawn) - means_of(other, again)
        low, high = np.percentile(moved, INSIDE)
        found = Estimate(found.mean, float(low), float(high), counts)
    return Difference(*place, *means, found, paired, verdict(found, place[3].rising))


def mean(values: np.ndarray[Any, Any]) -> float:
    """By weight, of [n, 2] values and weights."""
    return float(np.average(values[:, 0], weights=values[:, 1]))


def means_of(values: np.ndarray[Any, Any], drawn: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The means [resamples] of the values that were drawn [resamples, n]."""
    sums = values[:, 0] * values[:, 1]
    return np.asarray(sums[drawn].sum(1) / values[:, 1][drawn].sum(1))


def verdict(found: Estimate, rising: bool | None) -> str:
    """Whether a difference is beyond chance (95 %), and which way."""
    if found.low is None or found.high is None or found.clips < FEWEST:
        return "too few to say"
    if found.low <= 0 <= found.high:
        return "within chance"
    up = found.mean > 0
    if rising is None:
        return "higher" if up else "lower"
    return "better" if up == rising else "worse"
