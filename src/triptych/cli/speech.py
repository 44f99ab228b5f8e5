"""The four jobs of a cascade: `speak`, `continue`, `convert`, `resynthesise`.

    1  the outputs are checked            before anything is loaded
    2  the cascade, the settings, the voice
    3  it speaks; the wav is written whole, then reported

Knows no model: `triptych.stages.cascade` does the work.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.options import Bundle, Force, Json, Overrides, Seed, Voice, WavOut
from triptych.cli.paths import check_folder, check_wav, find_voice, read_lines
from triptych.cli.progress import Bar, result, result_json

if TYPE_CHECKING:
    from triptych.stages.cascade import Cascade, Settings, Utterance

LEVELS = ("codes", "coarse", "semantic")


def speak(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.wav|DIR", help="A wav; a folder with --file.")],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to say.", show_default=False)] = None,
    overrides: Overrides = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="LINES", help="Say each line of a file.")] = None,
    voice: Voice = None,
    voice_text: Annotated[str | None, typer.Option("--voice-text", help="What is said in the WAV of --voice.")] = None,
    bundle: Bundle = None,
    seed: Seed = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say a text, in a voice."""
    if file is not None:
        extra = [text] if text is not None else []  # the first trailing argument is an override here
        lines = [(output / f"{number:03d}.wav", line) for number, line in read_lines(file)]
        check_folder(output, force)
        overrides = extra + (overrides or [])
    else:
        if text is None:
            raise ValueError("nothing to say: give a TEXT, or --file LINES")
        lines = [(output, text)]
        check_wav(output, force)
    cascade, settings = load(bundle, seed, overrides)
    chosen = find_voice(voice, cascade.voices())
    with Bar("speak", "lines", len(lines)) as bar:
        for count, (path, line) in enumerate(lines, start=1):
            said = cascade.speak(line, voice=chosen, voice_text=voice_text, settings=settings)
            finish(said, path, as_json)
            if file is not None:
                bar(count)


def continue_(
    prompt: Annotated[Path, typer.Argument(metavar="PROMPT.wav", help="The recording to go on from.")],
    output: WavOut,
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Length of what is added.")] = 5.0,
    bundle: Bundle = None,
    seed: Seed = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Go on where a recording ends, without a text."""
    run(
        lambda cascade, settings: cascade.continue_(prompt, seconds=seconds, settings=settings),
        prompt, output, bundle, seed, overrides, force, as_json,
    )  # fmt: skip


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE.wav", help="What is said, and how.")],
    output: WavOut,
    voice: Annotated[str, typer.Option("--voice", metavar="WAV|NAME", help="Who shall have said it.")],
    overrides: Overrides = None,
    bundle: Bundle = None,
    seed: Seed = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say a recording again in another voice."""
    run(
        lambda cascade, settings: cascade.convert(
            source, voice=find_voice(voice, cascade.voices()), settings=settings
        ),
        source, output, bundle, seed, overrides, force, as_json,
    )  # fmt: skip


def resynthesise(
    source: Annotated[Path, typer.Argument(metavar="IN.wav", help="The recording.")],
    output: WavOut,
    level: Annotated[str, typer.Option("--from", metavar="|".join(LEVELS), help="What is kept of it.")],
    overrides: Overrides = None,
    voice: Voice = None,
    bundle: Bundle = None,
    seed: Seed = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Keep one level of tokens, make all below it anew.

    What is lost is what that part of the cascade loses.
    """
    if level not in LEVELS:
        raise ValueError(f"--from {level}: one of {', '.join(LEVELS)}")
    run(
        lambda cascade, settings: cascade.resynthesise(
            source, level=level, voice=find_voice(voice, cascade.voices()), settings=settings
        ),
        source, output, bundle, seed, overrides, force, as_json,
    )  # fmt: skip


def run(
    job: "Callable[[Cascade, Settings], Utterance]",
    source: Path,
    output: Path,
    bundle: str | None,
    seed: int | None,
    overrides: list[str] | None,
    force: bool,
    as_json: bool,
) -> None:
    """One recording in, one wav out."""
    check_wav(output, force)
    if not source.is_file():
        raise ValueError(f"{source}: {'not a file' if source.exists() else 'no such file'}")
    cascade, settings = load(bundle, seed, overrides)
    finish(job(cascade, settings), output, as_json)


def load(bundle: str | None, seed: int | None, overrides: list[str] | None) -> "tuple[Cascade, Settings]":
    """The cascade, and how it shall sample."""
    from triptych.stages.cascade import Cascade, Settings
    from triptych.training.config import build, load_tree

    tree = load_tree(None, overrides or [])
    settings = build(Settings, tree if seed is None else {**tree, "seed": seed}, "settings")
    return Cascade.load(bundle), settings


def finish(said: "Utterance", path: Path, as_json: bool) -> None:
    """Writes the wav and reports it."""
    from triptych.tokenizers.waveform import write_wav

    write_wav(path, said.waveform, said.sample_rate)
    if as_json:
        result_json(record_of(said, path))
        return
    seconds = len(said.waveform) / said.sample_rate
    spent = sum(said.seconds_by_stage.values())
    stages = "  ".join(f"{name} {value:.2f}" for name, value in said.seconds_by_stage.items())
    result(f"{path}  {seconds:.2f} s")
    result(f"  took {spent:.2f} s ({spent / max(seconds, 1e-9):.2f} of its length): {stages}")
    for note in said.notes:
        result(f"  {note}")


def record_of(said: "Utterance", path: Path) -> dict[str, Any]:
    """An utterance as JSON; with `audio` and `text`, so that the lines of a run are a list for `score`."""
    return {
        "audio": str(path),
        "text": said.text,
        "seconds": len(said.waveform) / said.sample_rate,
        "sample_rate": said.sample_rate,
        "semantic_tokens": len(said.semantic),
        "codes": list(said.codes.shape),
        "seconds_by_stage": said.seconds_by_stage,
        "notes": list(said.notes),
    }
