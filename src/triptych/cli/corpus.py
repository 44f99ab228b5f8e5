"""From recordings to tokens: `prepare` and `tokenize`. Reads the line; triptych.corpus does the work."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.options import Json, Overrides
from triptych.cli.paths import check_writable
from triptych.cli.progress import Bar, log, result, result_json


def prepare(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="LJSpeech folder, JSONL, folder of audio (+ .txt), or lhotse manifest."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="MANIFEST", help="The .jsonl or .jsonl.gz to write.")
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Decode every file; refuse the source if one is bad.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the manifest of a corpus.

    It says which recordings there are, what is said in them and by whom.
    """
    from dataclasses import asdict

    from triptych.corpus.prepare import prepare as make_manifest

    check_writable(output)
    summary = make_manifest(source, output, strict=strict)
    if as_json:
        result_json(asdict(summary))
        return
    splits = ", ".join(f"{count} {split}" for split, count in summary.splits.items())
    result(f"{output}: {summary.recordings} recordings, {summary.seconds / 3600:.2f} h, {summary.speakers} speakers")
    result(f"  {summary.with_text} with text; {splits}")
    if summary.rejected:
        result(f"  {summary.rejected} rejected, listed in {summary.rejected_file}; the first: {summary.first_reason}")


def tokenize(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Made by 'prepare'.")],
    tokenizers: Annotated[Path, typer.Option("--tokenizers", metavar="DIR", help="Holds text/, semantic/, acoustic/.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SHARDS", help="The folder to write.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Turn a manifest's recordings into token shards.

    Run again, it goes on where it was stopped.
    """
    from dataclasses import asdict

    from triptych.corpus.manifest import read_manifest
    from triptych.corpus.shards import ShardConfig, write_shards
    from triptych.tokenizers.trio import Tokenizers
    from triptych.training.config import build, load_tree

    check_writable(output / "x")
    config = build(ShardConfig, load_tree(None, overrides or []), "tokenize")
    recordings = list(read_manifest(manifest))
    ensure_preparation(tokenizers)
    with Bar("tokenize", "clips") as bar:
        summary = write_shards(recordings, Tokenizers.load(tokenizers), output, config, bar)
    if as_json:
        result_json(asdict(summary))
        return
    if not summary.complete:
        result(f"{output}: {summary.rows} rows by this worker; others are not done yet")
        return
    result(f"{output}: {summary.rows} rows, {summary.seconds / 3600:.2f} h")
    if summary.rejected:
        result(
            f"  {summary.rejected} rejected, listed in {output / 'rejected.jsonl'}; the first: {summary.first_reason}"
        )


def ensure_preparation(tokenizers: Path) -> None:
    """Writes waveform.json, how recordings are prepared, into a folder of freshly fitted tokenizers."""
    from triptych.tokenizers.acoustic.codec import AcousticTokenizer
    from triptych.tokenizers.spec import WaveformSpec
    from triptych.tokenizers.trio import WAVEFORM_FILE, write_waveform_spec

    if (tokenizers / WAVEFORM_FILE).exists() or not (tokenizers / "acoustic").is_dir():
        return
    spec = WaveformSpec(AcousticTokenizer.load(tokenizers / "acoustic").spec.sample_rate)
    write_waveform_spec(tokenizers, spec)
    log(f"{tokenizers / WAVEFORM_FILE} written: {spec.sample_rate} Hz, {spec.loudness} LUFS")
