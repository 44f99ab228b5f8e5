"""Does the cascade doctor find a planted fault? Each stage in turn gets random weights, and `blame` is asked.

    python benchmarks/planted_faults.py MANIFEST -o OUT [--bundle DIR] [--clips 6] [--recogniser …]

Prints a table in Markdown: of the cascade as it is, and with each stage untrained, what each part loses of what can be
lost, and which is named. All levels are made, so that the fine stage has a part in it. What was made and judged is kept
in OUT.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from triptych.evaluation.judges import Memory, load_judges
from triptych.evaluation.ladder import PARTS
from triptych.evaluation.report import Section
from triptych.evaluation.sections.blame import blame_section
from triptych.evaluation.subject import EvaluateConfig, Evaluation
from triptych.stages.cascade import Cascade
from triptych.stages.three import STAGES

SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--recogniser", default=EvaluateConfig().recogniser)
    parser.add_argument("--speaker", default=EvaluateConfig().speaker)
    parser.add_argument("--naturalness", default=EvaluateConfig().naturalness)
    said = parser.parse_args()
    memory = Memory(said.output / "judged.jsonl")
    judges = load_judges(said.recogniser, said.speaker, said.naturalness, memory)
    settings = EvaluateConfig(clips=said.clips, samples=0)
    print(f"| untrained | {' | '.join(PARTS)} | what is said |\n|---|{'---|' * (len(PARTS) + 1)}")
    for fault in (None, *STAGES):
        cascade = planted(said.bundle, fault)
        folder = said.output / (fault or "none")
        subject = Evaluation(cascade, said.manifest, settings, judges, folder, lambda done, total, note: None)
        print(line(fault, blame_section(subject)), flush=True)


def planted(bundle: str | None, fault: str | None) -> Cascade:
    """The cascade with all levels in use, and one stage with random weights."""
    cascade = Cascade.load(bundle)
    cascade.settings = replace(cascade.settings, levels=0)
    if fault:
        torch.manual_seed(SEED)
        stage = cascade.stages[fault][0]
        cascade.stages[fault] = stage, stage.model().eval()
    return cascade


def line(fault: str | None, section: Section) -> str:
    """A row of the table."""
    lost = next(table for table in section.tables if table.name == "lost").rows
    cells = []
    for part in PARTS:
        found = lost[part]["share"].estimate
        spread = "" if found is None or found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
        cells.append("–" if found is None else f"{found.mean:.2f}{spread}")
    return f"| {fault or 'none'} | {' | '.join(cells)} | {section.about.split('. ')[0]} |"


if __name__ == "__main__":
    main()
