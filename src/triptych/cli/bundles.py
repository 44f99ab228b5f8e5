"""`bundle`, `info`, `verify`, `voices`: what lies in a folder. Tells what kind of folder it is; asks its owner."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.cli.options import Bundle, Json, Overrides
from triptych.cli.paths import check_folder
from triptych.cli.progress import log, result, result_json

Checkpoint = Annotated[Path | None, typer.Option(metavar="RUN", help="A run folder, or one of its checkpoints.")]
Some = Annotated[Path, typer.Argument(metavar="PATH", help="A bundle, a run, a checkpoint, shards or a tokenizer.")]


def bundle(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The folder to write.")],
    semantic: Checkpoint = None,
    coarse: Checkpoint = None,
    fine: Checkpoint = None,
    tokenizers: Annotated[Path | None, typer.Option(metavar="DIR", help="Holds text/, semantic/, acoustic/.")] = None,
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="BUNDLE", help="What is not named comes from this bundle, or 'starter'."),
    ] = None,
    voices: Annotated[
        Path | None, typer.Option(metavar="LIST.jsonl", help='A line each: {"name": …, "audio": …, "text": …}.')
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="float32|float16|int8", help="Of the stages' weights, on disk.")
    ] = "float16",
    overrides: Overrides = None,
) -> None:
    """Join three checkpoints and tokenizers into one folder.

    key=value (see 'triptych config speak') says how this cascade is sampled where nobody says otherwise.
    """
    from triptych.stages.bundle import find_bundle, write_bundle
    from triptych.training.config import load_tree

    check_folder(output)
    parts: dict[str, Any] = {"semantic": semantic, "coarse": coarse, "fine": fine, "tokenizers": tokenizers}
    named = read_voices(voices) if voices else {}
    parts |= {"voices": named, "settings": load_tree(None, overrides or []), "precision": precision}
    if base:
        parts = over_bundle(find_bundle(base), parts)
    absent = [f"--{name}" for name, part in parts.items() if part is None]
    if absent:
        raise ValueError(f"bundle: {', '.join(absent)} is not named: name it, or a bundle that has it with --from")
    write_bundle(output, **parts)
    result(f"{output}  {size_of(output) / 1e6:.1f} MB")


def over_bundle(base: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """The parts of a bundle to be, those that are None taken from another; its voices and settings stay under theirs,
    its voices but where other tokenizers heard them.

    Raises:
        ValueError: `base` is no bundle.
    """
    from triptych.stages.bundle import read_bundle
    from triptych.stages.bundle import read_voices as voices_of
    from triptych.stages.initial import beginning, laid_over

    before = read_bundle(base)["settings"]
    if parts["coarse"]:
        drops = [beginning(str(source), "coarse").config["semantic_drop"] for source in (base, parts["coarse"])]
        if bool(drops[0]) != bool(drops[1]):  # guidance acts on something else then: its weight is not taken over
            before = {**before, "coarse": {k: v for k, v in before.get("coarse", {}).items() if k != "guidance"}}
    settings = laid_over(before, parts["settings"])
    places = {name: base / "stages" / name for name in ("semantic", "coarse", "fine")}
    places["tokenizers"] = base / "tokenizers"
    taken = {name: parts[name] or place for name, place in places.items()}
    voices = voices_of(base)
    if parts["tokenizers"] and other_tokens(places["coarse"], parts["tokenizers"]):
        left = [name for name in voices if name not in parts["voices"]]
        if left:
            log(f"left out, since other tokenizers heard them: {', '.join(left)}; --voices hears recordings anew")
        voices = {}
    return {**parts, **taken, "settings": settings, "more_voices": voices}


def other_tokens(coarse: Path, tokenizers: Path) -> bool:
    """Whether a coarse stage, which has both on its sides, knows other semantic tokens or codes than those."""
    from triptych.stages.three import read_stage
    from triptych.tokenizers.trio import Tokenizers

    known, specs = read_stage(coarse).specs, Tokenizers.load(tokenizers).specs
    return (known.semantic, known.acoustic) != (specs["semantic"], specs["acoustic"])


def info(path: Some, as_json: Json = False) -> None:
    """Say what a bundle, checkpoint or shard set holds."""
    record = describe(path)
    if as_json:
        result_json(record)
        return
    for line in outline(record):
        result(line)


def verify(path: Some, as_json: Json = False) -> None:
    """Check that a bundle, checkpoint or shard set is whole.

    If it is not: exit code 1, and what is wrong.
    """
    kind = kind_of(path)
    if kind == "shards":
        from triptych.corpus.shards import verify as verify_shards

        verify_shards(path)
    elif kind == "bundle":
        from triptych.stages.bundle import verify_bundle

        verify_bundle(path)
    elif kind == "tokenizer":
        from triptych.tokenizers.trio import verify_tokenizer

        verify_tokenizer(path)
    else:
        from triptych.training.checkpoint import verify_checkpoint

        describe(path)
        verify_checkpoint(path)
    if as_json:
        result_json({"path": str(path), "holds": kind, "whole": True, "bytes": size_of(path)})
    else:
        result(f"{path}: {kind}, whole, {size_of(path) / 1e6:.1f} MB")


def voices(bundle: Bundle = None, as_json: Json = False) -> None:
    """List the named voices of a bundle."""
    from triptych.stages.cascade import Cascade

    found = Cascade.load(bundle).voices()
    if as_json:
        result_json([{"name": name, "text": text} for name, text in found.items()])
        return
    if not found:
        log("this bundle has no named voices: give a recording, --voice WAV")
    width = max((len(name) for name in found), default=0)
    for name, text in found.items():
        result(f"{name:<{width}}  {text}")


def kind_of(path: Path) -> str:
    """shards, checkpoint, tokenizer or bundle; whether it is a good one is for its owner to say.

    Raises:
        ValueError: not a folder.
    """
    if not path.is_dir():
        raise ValueError(
            f"{path}: {'not a folder' if path.exists() else 'no such folder'}; give a bundle, run or shards"
        )
    if (path / "shards.json").exists() or (path / "plan.json").exists():
        return "shards"
    if (path / "stage.json").exists() or (path / "latest").exists():
        return "checkpoint"
    return "tokenizer" if (path / "tokenizer.json").exists() else "bundle"


def describe(path: Path) -> dict[str, Any]:
    """What `path` holds, as a plain record."""
    from triptych.training.files import read_json

    kind = kind_of(path)
    if kind == "bundle":
        from triptych.stages.bundle import describe as describe_bundle

        return {"holds": kind, **describe_bundle(path)}
    if kind == "tokenizer":
        return {"holds": kind, **read_json(path / "tokenizer.json")}
    if kind == "checkpoint":
        return {"holds": kind, **describe_checkpoint(path)}
    from triptych.corpus.shards import ShardSet

    shards = ShardSet.open(path)
    splits = {split: len(shards.indices(split)) for split in ("train", "dev", "test")}
    specs = {name: spec.to_json() for name, spec in shards.specs.items()}
    return {"holds": kind, "rows": len(shards), "splits": splits, "tokenizers": specs, "bytes": size_of(path)}


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """The record of a checkpoint, with the number of its weights; of a run, its latest one.

    Raises:
        ValueError: the weights are missing or cut short.
    """
    from safetensors import SafetensorError, safe_open

    from triptych.training.checkpoint import find_checkpoint
    from triptych.training.files import read_json

    folder = find_checkpoint(path)
    record = read_json(folder / "stage.json")
    try:
        with safe_open(folder / "model.safetensors", "np") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{folder / 'model.safetensors'} is not whole: {error}") from None
    count = sum(product(shape) for shape in shapes)
    return {"checkpoint": str(folder), **record, "parameters": count}


def product(shape: list[int]) -> int:
    from math import prod

    return prod(shape)


def outline(record: Any, indent: str = "") -> list[str]:
    """A record as indented lines, long lists cut short."""
    lines = []
    for key, value in record.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}", *outline(value, indent + "  ")]
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            lines.append(f"{indent}{key}  {shown if len(shown) <= 100 else shown[:97] + '…'}")
    return lines


def read_voices(path: Path) -> dict[str, tuple[Path, str | None]]:
    """name -> recording and what is said in it, from a JSONL file; audio is relative to it.

    Raises:
        ValueError: a line that is no such record, a name twice, or a recording that is missing.
    """
    named: dict[str, tuple[Path, str | None]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, audio, text = row["name"], path.parent / row["audio"], row.get("text")
            if not isinstance(name, str) or not isinstance(text, str | None):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path}, line {number}: give {{"name": …, "audio": …, "text": …}}, as texts') from None
        if not audio.is_file() or name in named:
            raise ValueError(
                f"{path}, line {number}: {f'{name} stands twice' if name in named else f'no file {audio}'}"
            )
        named[name] = (audio, text)
    return named


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
