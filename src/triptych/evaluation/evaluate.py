"""The evaluation of a cascade: section after section, each kept when it is done, then one record and one page.

    1  evaluation.json              who is evaluated, on what, by whom: another evaluation is refused here
    2  sections/codec.json, …       a section each; one that lies there already is not measured again
    3  report.json                  all of it, with the value of each utterance
    4  report.html                  the same, to read and to hear

Invariant: killed at any moment and started again, it comes to the same report. Knows no terminal.
"""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triptych
from triptych.evaluation.codec import levels_kept
from triptych.evaluation.compare import Comparison, compare
from triptych.evaluation.page import page
from triptych.evaluation.pairs import described as described_pairs
from triptych.evaluation.pairs import read_pairs
from triptych.evaluation.report import Section
from triptych.evaluation.sections.blame import blame_section
from triptych.evaluation.sections.codec import codec_section
from triptych.evaluation.sections.continuing import continuing_section
from triptych.evaluation.sections.converting import converting_section
from triptych.evaluation.sections.cost import cost_section
from triptych.evaluation.sections.likelihood import likelihood_section
from triptych.evaluation.sections.speaking import sentences, speaking_section
from triptych.evaluation.sections.stages import stages_section
from triptych.evaluation.sections.tokens import tokens_section
from triptych.evaluation.sense import NO_MODEL, check_model
from triptych.evaluation.subject import Evaluation, Progress
from triptych.stages.cascade import LONGEST_CONTINUED
from triptych.training.files import atomic_file, file_digest, fingerprint_of, read_json, write_json

FORMAT = 1
SECTIONS: dict[str, Callable[[Evaluation], Section]] = {
    "codec": codec_section,
    "tokens": tokens_section,
    "stages": stages_section,
    "speaking": speaking_section,
    "continuing": continuing_section,
    "converting": converting_section,
    "blame": blame_section,
    "likelihood": likelihood_section,
    "cost": cost_section,
}
"""in the order of the page"""
ON_REQUEST: tuple[str, ...] = ("blame",)
"""sections that are measured only when they are named"""
NOT_JUDGING = ("samples", "sections", "slots")
"""settings that may differ between the runs that make one report"""


@dataclass(frozen=True)
class Report:
    """Everything."""

    subject: Mapping[str, Any]
    """what evaluation.json says"""
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {"format": FORMAT, **self.subject, "sections": [section.to_json() for section in self.sections]}


def chosen(names: Sequence[str], also: Sequence[str] = ()) -> tuple[str, ...]:
    """The sections that names mean, in the order of the page; none: all that need not be asked for. And `also`.

    Raises:
        ValueError: a name that is none of them.
    """
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise ValueError(f"no section '{unknown[0]}': choose of {', '.join(SECTIONS)}")
    wanted = {*also, *(names or [name for name in SECTIONS if name not in ON_REQUEST])}
    return tuple(name for name in SECTIONS if name in wanted)


def check_given(subject: Evaluation, names: Sequence[str]) -> None:
    """What sections read is known to be there before a folder is made, and before hours of listening.

    Raises:
        ValueError: an empty split, levels that the codec does not have, texts that cannot be spoken, a length that
            cannot be continued, or a language model or pairs that cannot be read.
    """
    settings = subject.settings
    _ = subject.heard
    if "codec" in names:
        levels_kept(subject.cascade.tokenizers.acoustic.spec.levels, settings.codec_levels, "codec_levels")
    if "speaking" in names:
        sentences(subject)
    if "continuing" in names:
        shortest = float(subject.cascade.grid.beat)
        if not shortest <= settings.continued_seconds <= LONGEST_CONTINUED:
            raise ValueError(
                f"continued_seconds={settings.continued_seconds:g}: give {shortest:g} to {LONGEST_CONTINUED:g}"
            )
        if settings.language_model != NO_MODEL:
            check_model(settings.language_model)
    if "likelihood" in names:
        for folder in settings.pairs:
            read_pairs(Path(folder))


def described(subject: Evaluation, bundle: Path, name: str) -> dict[str, Any]:
    """Who is evaluated, on what, by whom, with what; no path of this machine is in it."""
    import torch

    record = read_json(bundle / "bundle.json")
    settings = asdict(subject.settings)
    for key in ("recogniser", "speaker", "language_model", "sentences_file"):
        settings[key] = Path(settings[key]).name if Path(settings[key]).exists() else settings[key]
    settings["pairs"] = [described_pairs(Path(folder)) for folder in subject.settings.pairs]
    if subject.settings.sentences_file:
        settings["sentences_file"] += f" ({file_digest(Path(subject.settings.sentences_file))[:8]})"
    said = {
        "triptych": triptych.__version__,
        "bundle": {"name": name, "fingerprint": fingerprint_of(record["files"]), "settings": record["settings"]},
        "manifest": {"name": subject.manifest.name, "fingerprint": file_digest(subject.manifest)[:16]},
        "settings": settings,
        "judges": {"names": dict(subject.judges.names), "absent": dict(subject.judges.absent)},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    return dict(json.loads(json.dumps(said)))  # as it will be read again: lists, no tuples


def claim(folder: Path, said: dict[str, Any]) -> None:
    """Makes a folder this evaluation's own, or finds that it is.

    Raises:
        ValueError: it holds another evaluation, or something else.
    """
    path = folder / "evaluation.json"
    if not path.exists():
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise ValueError(f"{folder} exists already and holds no evaluation: name another output")
        write_json(path, said)
        return
    known = read_json(path)
    differ = [key for key in ("triptych", "bundle", "manifest", "judges") if known.get(key) != said[key]]
    old, new = known.get("settings", {}), said["settings"]
    differ += [key for key in new if key in old and key not in NOT_JUDGING and old[key] != new[key]]
    if differ:
        raise ValueError(f"{folder} holds an evaluation with another {', '.join(differ)}: name another output")


def evaluate(
    subject: Evaluation,
    names: Sequence[str],
    said: Mapping[str, Any],
    bar: Callable[[str], AbstractContextManager[Progress]],
) -> Report:
    """Measures the sections that are not measured yet.

    Args:
        bar: a progress bar of a section.
    """
    for name in names:
        path = section_file(subject.folder, name)
        if not path.exists():
            with bar(name) as progress:
                section = SECTIONS[name](subject.with_progress(progress))
            write_json(path, section.to_json())
    return Report(said, read_sections(subject.folder))


def section_file(folder: Path, name: str) -> Path:
    return folder / "sections" / f"{name}.json"


def read_sections(folder: Path) -> tuple[Section, ...]:
    """The sections that are done, in the order of the page."""
    files = [section_file(folder, name) for name in SECTIONS]
    return tuple(Section.from_json(read_json(path)) for path in files if path.exists())


def read_report(folder: Path) -> Report:
    """A report that was made before.

    Raises:
        ValueError: there is none.
    """
    if not (folder / "report.json").is_file():
        raise ValueError(
            f"{folder} holds no report: make one with 'triptych evaluate BUNDLE --data MANIFEST -o {folder}'"
        )
    record = read_json(folder / "report.json")
    if record.get("format") != FORMAT:
        raise ValueError(f"{folder / 'report.json'} has format {record.get('format')}, and {FORMAT} can be read")
    sections = tuple(Section.from_json(section) for section in record.pop("sections"))
    return Report({key: value for key, value in record.items() if key not in ("format", "against")}, sections)


def write_report(folder: Path, report: Report, other: Report | None = None) -> Comparison | None:
    """report.json and report.html; with `other`, what differs."""
    settings = report.subject["settings"]
    found = compare(report, other, settings["resamples"], settings["seed"]) if other else None
    write_json(folder / "report.json", report.to_json() | ({"against": asdict(found)} if found else {}))
    with atomic_file(folder / "report.html") as beside:
        beside.write_text(page(folder, report, found), encoding="utf-8")
    return found
