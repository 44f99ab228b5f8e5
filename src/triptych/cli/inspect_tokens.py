"""`inspect tokens` and `inspect layers`: what semantic tokens carry. Reads the line; triptych.evaluation measures.

tokens   DIR/report.json    everything, with the settings
             tokens.png     what they carry, and what each disturbance changes
layers   DIR/report.json
             layers.png     a panel a measure, over layers; a line a size of the alphabet
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import check_folder, find_config
from triptych.cli.progress import Bar, log, result, result_json

if TYPE_CHECKING:
    from triptych.evaluation.estimate import Estimate
    from triptych.evaluation.layers import LayerReport
    from triptych.evaluation.token_report import TokenReport

Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Made by 'prepare'.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")]
Text = Annotated[
    Path | None, typer.Option("--text", metavar="DIR", help="A text tokenizer; without, nothing is said of phonemes.")
]
AlignerOption = Annotated[
    Path | None,
    typer.Option("--aligner", metavar="DIR", help="An encoder of 'fit encoder --text': says when each phone sounds."),
]


def tokens(
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Made by 'fit semantic'.")],
    manifest: Manifest,
    output: Output,
    overrides: Overrides = None,
    config: Config = None,
    text: Text = None,
    aligner: AlignerOption = None,
    as_json: Json = False,
) -> None:
    """Measure what semantic tokens carry.

    Use, phonemes, speaker, pitch, and how many tokens change under noise, codecs and another voice.
    'triptych config inspect-tokens' lists the keys.
    """
    from dataclasses import asdict

    from triptych.cli.tokens_picture import draw_tokens
    from triptych.evaluation.token_report import TokenInspectConfig, inspect_tokens
    from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
    from triptych.tokenizers.text.frontend import load_text
    from triptych.training.config import build, load_tree
    from triptych.training.files import atomic_folder, write_json

    check_folder(output)
    settings = build(TokenInspectConfig, load_tree(find_config(config), overrides or []), "inspect tokens")
    speller = load_text(text) if text else None
    loaded = SemanticTokenizer.load(tokenizer, device=settings.device)
    with Bar("inspect tokens", "") as bar:
        report = inspect_tokens(loaded, manifest, settings, text=speller, aligner=aligner, progress=bar)
    record = {**asdict(report), "config": asdict(settings)}
    with atomic_folder(output) as beside:
        write_json(beside / "report.json", record)
        draw_tokens(report, beside / "tokens.png")
    tell(record, output, [] if as_json else token_lines(report), report.missing, as_json)


def layers(
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="A folder or a hub id.")],
    manifest: Manifest,
    output: Output,
    overrides: Overrides = None,
    config: Config = None,
    text: Text = None,
    aligner: AlignerOption = None,
    as_json: Json = False,
) -> None:
    """Compare layers of an encoder and sizes of the alphabet.

    layers=1,2,3 clusters=128,512: use, phones, speaker and pitch of each. An encoder trained here with --text aligns
    itself. 'triptych config inspect-layers' lists the keys.
    """
    from dataclasses import asdict

    from triptych.cli.tokens_picture import draw_layers
    from triptych.evaluation.layers import LayerInspectConfig, inspect_layers
    from triptych.tokenizers.text.frontend import load_text
    from triptych.training.config import build, load_tree
    from triptych.training.files import atomic_folder, write_json

    check_folder(output)
    tree = lists(load_tree(find_config(config), overrides or []), ("layers", "clusters"))
    settings = build(LayerInspectConfig, tree, "inspect layers")
    if aligner is None and (Path(encoder) / "ctc.json").is_file():
        aligner = Path(encoder)
    speller = load_text(text) if text else None
    with Bar("inspect layers", "clips") as bar:
        report = inspect_layers(encoder, manifest, settings, text=speller, aligner=aligner, progress=bar)
    record = {**asdict(report), "config": asdict(settings)}
    with atomic_folder(output) as beside:
        write_json(beside / "report.json", record)
        draw_layers(report, beside / "layers.png")
    tell(record, output, [] if as_json else layer_lines(report), report.missing, as_json)


def tell(record: dict[str, Any], output: Path, lines: list[str], missing: Mapping[str, str], as_json: bool) -> None:
    """What was measured, on stdout; what could not be, on stderr."""
    if as_json:
        result_json(record)
        return
    for line in lines:
        result(line)
    for name, reason in missing.items():
        log(f"no {name}: {reason}")
    result(str(output))


def lists(tree: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    """`layers=3` and `layers=1,2,3` as lists of numbers; `layers=[1,2,3]` is one already."""
    found = dict(tree)
    for name in names:
        value = found.get(name)
        if isinstance(value, int):
            found[name] = [value]
        elif isinstance(value, str):
            found[name] = [part.strip() for part in value.split(",")]
    return found


def token_lines(report: "TokenReport") -> list[str]:
    """What a person reads."""
    counted, lines = report.use, []
    lines.append(
        f"{report.tokenizer['size']} ids, {counted.usage:.1%} used; entropy {counted.entropy:.2f} bit, "
        f"{counted.bits_per_second:.0f} bit/s; {counted.per_second:.1f} tokens/s without repeats"
    )
    if report.phones is not None:
        lines.append(f"phoneme error of a probe   {shown(report.phones.error)}")
        if report.phones.purity is not None:
            pure = report.phones.purity
            lines.append(
                f"PNMI                       {pure.pnmi:.3f} (by chance {pure.by_chance:.3f}); phone purity "
                f"{pure.phone:.3f}, cluster purity {pure.cluster:.3f}; phones by {report.phones.aligned_by}"
            )
    if report.speaker is not None:
        lines.append(
            f"speaker, linear probe      {shown(report.speaker.accuracy)} of {report.speaker.speakers} "
            f"(the most frequent: {report.speaker.majority:.3f})"
        )
    lines.append(f"pitch, linear probe        R² {shown(report.pitch)}; within a clip {shown(report.melody)}")
    if report.disturbed:
        lines.append(f"{'tokens that change under':<26} edits a token           without repeats         frames")
    for row in report.disturbed:
        parts = "   ".join(f"{shown(part):<21}" for part in (row.edits, row.collapsed, row.frames))
        lines.append(f"  {row.name:<24} {parts}".rstrip())
    return lines


def layer_lines(report: "LayerReport") -> list[str]:
    """A line an alphabet."""
    heads = "layer clusters  used  tokens/s  PNMI  chance  speaker  pitch  melody  ABX layer  ABX tokens"
    lines = [f"{report.clips} clips, {report.frame_rate:g} frames/s; majority speaker {majority(report)}", heads]
    for row in report.rows:
        pure, voice = row.purity, row.speaker
        lines.append(
            f"{row.layer:>5} {row.clusters:>8}  {row.use.usage:>4.0%}  {row.use.per_second:>8.1f}  "
            f"{number(pure.pnmi if pure else None):>4}  {number(pure.by_chance if pure else None):>6}  "
            f"{number(voice.accuracy.mean if voice else None):>7}  {number(mean(row.pitch)):>5}  "
            f"{number(mean(row.melody)):>6}  {number(row.abx_features, 3):>9}  {number(row.abx_tokens, 3):>10}"
        )
    return lines


def majority(report: "LayerReport") -> str:
    found = next((row.speaker for row in report.rows if row.speaker), None)
    return f"{found.majority:.2f} of {found.speakers}" if found else "–"


def mean(value: "Estimate | None") -> float | None:
    return value.mean if value else None


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def shown(value: "Estimate | None") -> str:
    """0.42 (0.39–0.46), the 95 % interval over clips."""
    if value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} ({value.low:.3f}–{value.high:.3f})"
