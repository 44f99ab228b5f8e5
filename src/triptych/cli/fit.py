"""`fit text|semantic|encoder|acoustic`: a tokenizer of one's own. Reads the line; the fits stand beside what they fit.

encoder    ─▶ a speech encoder, a transformers folder          (optional: public encoders do as well)
semantic   ─▶ k-means of its features
acoustic   ─▶ an EnCodec                                       (optional: a public EnCodec, DAC or Mimi does as well)
text       ─▶ phonemes or pieces
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.cli.options import Config, Json, Overrides
from triptych.cli.paths import check_folder, find_config
from triptych.cli.progress import Bar, log, result, result_json

Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Made by 'prepare'.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")]


def text(
    manifest: Manifest, output: Output, overrides: Overrides = None, config: Config = None, as_json: Json = False
) -> None:
    """Fit the text front end: phonemes, or pieces of texts."""
    from triptych.cli.text import TextFitConfig, fit_text
    from triptych.corpus.manifest import read_manifest

    check_folder(output)
    settings, _ = read_config(TextFitConfig, config, overrides, "fit text")
    texts = [r.text for r in read_manifest(manifest) if r.text and r.split == "train"]
    coverage = fit_text(texts, output, settings)
    log(f"{coverage.spoken} of {coverage.texts} texts can be spoken")
    for reason in coverage.refused[:3]:
        log(f"  {reason}")
    report(output, as_json)


def semantic(
    manifest: Manifest, output: Output, overrides: Overrides = None, config: Config = None, as_json: Json = False
) -> None:
    """Fit k-means on the features of a speech encoder.

    The encoder is a folder or a hub id: encoder=microsoft/wavlm-base-plus layer=9 clusters=500. Its state lies beside,
    in DIR.run, until it is done; resume=true goes on from there.
    """
    from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic

    check_folder(output)
    settings, resume = read_config(SemanticFitConfig, config, overrides, "fit semantic")
    clips = read_clips(manifest, encoder_rate(), "train", output, cache_bytes=0)  # features are kept instead
    with Bar("fit semantic", "clips") as bar:
        fitted = fit_semantic(
            clips, output, settings, resume=resume, progress=lambda what, done, total: bar(done, total, what)
        )
    log(f"ids used: {fitted.usage:.0%}, entropy {fitted.entropy:.2f} bit, over {fitted.frames} frames")
    report(output, as_json)


def encoder(
    manifest: Manifest,
    output: Output,
    overrides: Overrides = None,
    config: Config = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="DIR", help="A text tokenizer: learn its tokens too (CTC).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pretrain a small speech encoder.

    By masked prediction; with CTC on the texts as well, if --text is given. resume=true goes on from a checkpoint.
    """
    from triptych.tokenizers.clips import Counted
    from triptych.tokenizers.semantic.pretrain import EncoderFitConfig, fit_encoder
    from triptych.tokenizers.text.frontend import load_text

    settings, resume = read_config(EncoderFitConfig, config, overrides, "fit encoder")
    begun = output.is_dir() and [entry.name for entry in output.iterdir()] == ["run"]
    check_folder(output, force=resume or begun)  # a run without a model: whether it may begin, `fit_encoder` says
    speller = load_text(text) if text else None
    clips = read_clips(manifest, encoder_rate(), "train", output)
    held_out = read_clips(manifest, encoder_rate(), "dev", output) if has_dev(manifest) else None
    with Bar("fit encoder", "steps", settings.training.max_steps) as bar:
        clips = Counted(clips, bar.read)
        fit_encoder(clips, output, settings, speller, validation=held_out, resume=resume, progress=bar.step)
    report(output, as_json)


def acoustic(
    manifest: Manifest,
    output: Output,
    overrides: Overrides = None,
    config: Config = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DIR_OR_HUB_ID",
            help="Take this EnCodec, DAC, Mimi or original .th file as it is; train none. levels=Q keeps the first Q.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an EnCodec, or take a codec that exists.

    The run lies beside, in DIR.run; resume=true goes on from its last checkpoint.
    """
    from triptych.tokenizers.acoustic.fit import CodecFitConfig, fit_acoustic

    check_folder(output)
    settings, resume = read_config(CodecFitConfig, config, overrides, "fit acoustic")
    if source is not None:
        said = read_tree(config, overrides)
        take_codec(source, output, **{key: getattr(settings, key) for key in ("levels", "dtype") if key in said})
        report(output, as_json)
        return
    clips = read_clips(manifest, settings.sample_rate, "train", output)
    held_out = read_clips(manifest, settings.sample_rate, "dev", output) if has_dev(manifest) else clips
    if held_out is clips:
        log("no recordings of split dev: validation listens to those of split train")
    with Bar("fit acoustic", "steps", settings.training.max_steps) as bar:
        fit_acoustic(clips, held_out, output, settings, resume=resume, progress=bar.step)
    report(output, as_json)


def take_codec(source: str, output: Path, levels: int | None = None, dtype: Any = None) -> None:
    """Copies a codec, with the levels to keep, into a tokenizer's folder; what is not said is as the codec has it."""
    from triptych.tokenizers.acoustic.codec import AcousticTokenizer
    from triptych.training.files import atomic_folder

    codec = AcousticTokenizer.load(source, levels, dtype)
    with atomic_folder(output) as beside:
        codec.save(beside)


def read_config(kind: type[Any], config: str | None, overrides: list[str] | None, where: str) -> tuple[Any, bool]:
    """The config record of a yaml file or name with overrides, and whether `resume=true` is among them."""
    from triptych.training.config import build

    tree = read_tree(config, overrides)
    resume = tree.pop("resume", False)
    if not isinstance(resume, bool):
        raise ValueError(f"{where}: resume={resume}: say true or false")
    return build(kind, tree, where), resume


def read_tree(config: str | None, overrides: list[str] | None) -> dict[str, Any]:
    """What the user says himself, without the defaults."""
    from triptych.training.config import load_tree

    return load_tree(find_config(config), overrides or [])


def encoder_rate() -> int:
    """Hz at which speech encoders hear."""
    from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE

    return SAMPLE_RATE


def has_dev(manifest: Path) -> bool:
    """Whether any recording is held out for validation."""
    from triptych.corpus.manifest import read_manifest

    return any(recording.split == "dev" for recording in read_manifest(manifest))


def read_clips(manifest: Path, sample_rate: int, split: Any, beside: Path | None = None, **more: Any) -> Any:
    """Clips prepared as every other recording is, at another rate; `beside`: a tokenizer, whose waveform.json says how.

    Raises:
        ValueError: no such recordings, or a waveform.json that cannot be used.
    """
    from triptych.corpus.clips import ManifestClips
    from triptych.tokenizers.spec import WaveformSpec
    from triptych.tokenizers.trio import read_waveform_spec

    spec = WaveformSpec(sample_rate)
    if beside is not None:
        spec = replace(read_waveform_spec(beside.absolute().parent, sample_rate), sample_rate=sample_rate)
    return ManifestClips(manifest, spec, split, **more)


def report(folder: Path, as_json: bool) -> None:
    """Says where the fitted tokenizer is, and what it is; of several ranks, one speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    from triptych.training.files import read_json

    record = read_json(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else {}
    if as_json:
        result_json({"folder": str(folder), **record})
        return
    spec = record.get("spec", record)
    shown = [f"{key} {spec[key]}" for key in ("name", "size", "levels", "fingerprint") if spec.get(key)]
    result("  ".join([str(folder), *shown]))
