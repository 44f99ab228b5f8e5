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
    speeds: Annotated[
        str,
        typer.Option(
            "--speeds",
            metavar="LIST",
            help="Training recordings once more at each of these speeds, such as 0.9,1,1.1: other voices, other codes.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make the manifest of a corpus.

    It says which recordings there are, what is said in them and by whom.
    """
    from dataclasses import asdict

    from triptych.corpus.prepare import prepare as make_manifest

    check_writable(output)
    summary = make_manifest(source, output, strict=strict, speeds=speeds_of(speeds))
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
    stop_after: Annotated[
        str | None,
        typer.Option("--stop-after", metavar="TIME", help="Stop within this time, such as 3h30m."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Turn a manifest's recordings into token shards.

    Run again, it goes on where it was stopped. 'workers=2' makes two processes of it; under torchrun or in a Slurm
    array each process takes its share.
    """
    import os
    import time
    from dataclasses import asdict

    from triptych.corpus.shard_plan import Share
    from triptych.corpus.shards import ShardConfig
    from triptych.corpus.workers import tokenize as make_shards
    from triptych.training.config import build, load_tree

    stop_at = None if stop_after is None else time.time() + seconds_of(stop_after)
    check_writable(output / "x")
    config = build(ShardConfig, load_tree(None, overrides or []), "tokenize")
    share = Share.of_environment(os.environ)
    ensure_preparation(tokenizers)
    with Bar("tokenize", "clips") as bar:
        summary = make_shards(manifest, tokenizers, output, config, share, bar, stop_at)
    if as_json:
        result_json(asdict(summary))
        return
    waited = f"the encoder waited {100 * summary.waited_share:.1f} % of the time"
    if not summary.complete:
        why = "the time is up" if summary.stopped else "other processes are not done yet"
        result(f"{output}: {summary.rows} rows of this process are there, {summary.rejected} rejected; {waited}")
        result(f"  {summary.missing} shards are missing: {why}; the same command goes on")
        return
    result(f"{output}: {summary.rows} rows, {summary.seconds / 3600:.2f} h; {waited}")
    if summary.rejected:
        result(
            f"  {summary.rejected} rejected, listed in {output / 'rejected.jsonl'}; the first: {summary.first_reason}"
        )


def speeds_of(said: str) -> list[float]:
    """0.9,1.1 as numbers.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [float(part) for part in said.split(",")] if said.strip() else []
    except ValueError:
        raise ValueError(f"--speeds {said!r}: give numbers with commas between, such as 0.9,1,1.1") from None


def seconds_of(time: str) -> int:
    """3h30m, 45m, 90s, 1d12h in seconds.

    Raises:
        ValueError: it is none of these.
    """
    import re

    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", time.strip())
    if parts is None or not any(parts.groups()):
        raise ValueError(f"--stop-after {time!r}: say it like 3h30m, 45m or 90s")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


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
