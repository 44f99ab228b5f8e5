"""Two encoders that differ in one setting, and what that does to their tokens: a table a person can choose by.

    python benchmarks/encoder_settings.py MANIFEST -o OUT --text TEXT --config encoder/robust \\
        --change invariance_weight=0 [KEY=VALUE …]

    OUT/one/encoder    trained as --config and KEY=VALUE say
    OUT/one/tokens     k-means of its layer
    OUT/one/report     what `triptych inspect tokens` says of them
    OUT/other/…        the same with --change, which is the one thing that differs
    OUT/table.md       both side by side, with the difference of each number

Broken off, it goes on where it was. Both are judged on the same held-out clips, with the same seeds.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from triptych.cli.fit import has_dev, read_clips, read_config
from triptych.cli.progress import Bar, log
from triptych.evaluation.token_report import TokenInspectConfig, inspect_tokens
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
from triptych.tokenizers.semantic.pretrain import EncoderFitConfig, fit_encoder
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.text.frontend import load_text
from triptych.training.config import build, load_tree
from triptych.training.files import read_json, write_json
from triptych.training.loop import TrainingStopped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of both encoders")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="a text tokenizer; without, CTC and phonemes are left out")
    parser.add_argument("--config", help="of both encoders: a yaml file, or a name such as encoder/robust")
    parser.add_argument("--change", required=True, metavar="KEY=VALUE", help="of the other encoder alone")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--clusters", type=int, default=512)
    parser.add_argument("--inspect", nargs="*", default=[], metavar="KEY=VALUE", help="of 'inspect tokens'")
    said = parser.parse_intermixed_args()
    reports = {
        "one": judge(said, said.output / "one", said.overrides),
        "other": judge(said, said.output / "other", [*said.overrides, said.change]),
    }
    page = table(reports["one"], reports["other"], said.change)
    (said.output / "table.md").write_text(page, encoding="utf-8")
    print(page)


def judge(said: argparse.Namespace, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Trains, fits and inspects; what is there already is kept."""
    report = folder / "report.json"
    if report.exists():
        found: dict[str, Any] = read_json(report)
        return found
    text = load_text(said.text) if said.text else None
    encoder, tokens = folder / "encoder", folder / "tokens"
    if not (encoder / "config.json").exists():
        settings, _ = read_config(EncoderFitConfig, said.config, overrides, "fit encoder")
        clips = read_clips(said.manifest, SAMPLE_RATE, "train")
        dev = read_clips(said.manifest, SAMPLE_RATE, "dev") if has_dev(said.manifest) else None
        resume = (encoder / "run" / "latest").exists()
        try:
            with Bar(f"{folder.name}: encoder", "steps", settings.training.max_steps) as bar:
                fit_encoder(clips, encoder, settings, text, validation=dev, resume=resume, progress=bar.step)
        except TrainingStopped as stopped:
            raise SystemExit(f"{stopped}; so does the same command") from None
    if not tokens.exists():
        log(f"{folder.name}: k-means")
        fitted = SemanticFitConfig(encoder=str(encoder), layer=said.layer, clusters=said.clusters)
        fit_semantic(read_clips(said.manifest, SAMPLE_RATE, "train"), tokens, fitted)
    wanted = build(TokenInspectConfig, load_tree(None, said.inspect), "inspect tokens")
    aligner = encoder if text and (encoder / "ctc.json").exists() else None
    with Bar(f"{folder.name}: inspect", "") as bar:
        made = inspect_tokens(
            SemanticTokenizer.load(tokens), said.manifest, wanted, text=text, aligner=aligner, progress=bar
        )
    write_json(report, asdict(made))
    return asdict(made)


def table(one: dict[str, Any], other: dict[str, Any], change: str) -> str:
    """Markdown: a line a number, the two settings, and what the change did."""
    lines = [f"| | without `{change}` | with `{change}` | difference |", "|---|---|---|---|"]
    for (name, before), (_, after) in zip(numbers(one), numbers(other), strict=True):
        if before is None or after is None:
            continue
        apart = f"{after['mean'] - before['mean']:+.3f}"
        lines.append(f"| {name} | {shown(before)} | {shown(after)} | {apart} |")
    return "\n".join(lines) + "\n"


def numbers(report: dict[str, Any]) -> list[tuple[str, dict[str, Any] | None]]:
    """Name and estimate, in the order of the page."""
    phones, speaker = report["phones"] or {}, report["speaker"]
    pure = phones.get("purity")
    plain: list[tuple[str, dict[str, Any] | None]] = [
        ("phoneme error of a probe", phones.get("error")),
        ("PNMI", {"mean": pure["pnmi"]} if pure else None),
        ("speaker, linear probe", speaker["accuracy"] if speaker else None),
        ("pitch, R²", report["pitch"]),
        ("melody within a clip, R²", report["melody"]),
        ("tokens/s without repeats", {"mean": report["use"]["per_second"]}),
        ("share of ids used", {"mean": report["use"]["usage"]}),
    ]
    return plain + [(f"edits a token: {row['name']}", row["edits"]) for row in report["disturbed"]]


def shown(value: dict[str, Any]) -> str:
    """0.421 (0.39–0.46)"""
    low, high = value.get("low"), value.get("high")
    return f"{value['mean']:.3f}" + (f" ({low:.2f}–{high:.2f})" if low is not None else "")


if __name__ == "__main__":
    main()
