"""The four jobs of a cascade: `speak`, `continue`, `convert`, `resynthesise`.

    1  the outputs are checked            before anything is loaded
    2  the cascade, the settings, the voice
    3  it speaks; the wav is written whole, then reported

Knows no model: `triptych.stages.cascade` does the work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.options import Bundle, Force, Json, Overrides, Precision, Seed, Voice, WavOut
from triptych.cli.paths import check_folder, check_wav, read_lines
from triptych.cli.progress import Bar, result, result_json

if TYPE_CHECKING:
    from triptych.evaluation.recogniser import Recogniser
    from triptych.stages.cascade import Cascade, Settings, Utterance
    from triptych.tokenizers.waveform import Waveform

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
    rate: Annotated[float | None, typer.Option("--rate", help="Speed of speech, 0.5 to 2.")] = None,
    best_of: Annotated[int, typer.Option("--best-of", metavar="N", help="Keep the best of N takes.")] = 1,
    recogniser: Annotated[
        str | None, typer.Option("--recogniser", metavar="NAME", help="Rank takes by word error too; see 'score'.")
    ] = None,
    precision: Precision = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say a text, in a voice.

    The lines of --file are spoken several at a time, and sound as each alone.
    """
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
    if best_of < 1 or (recogniser and best_of == 1):
        raise ValueError(f"--best-of {best_of}: give at least {2 if recogniser else 1}")
    overrides = (overrides or []) + ([f"rate={rate}"] if rate is not None else [])
    cascade, settings = load(bundle, seed, overrides, precision)
    if file is not None:
        check_lines(cascade, file)
    texts = [line for _, line in lines]
    if best_of > 1:
        takes: Iterable[Utterance] = best(cascade, texts, best_of, recogniser, voice, voice_text, settings)
    elif file is None:
        takes = iter([cascade.speak(texts[0], voice=voice, voice_text=voice_text, settings=settings)])
    else:
        takes = cascade.speak_all(texts, voice=voice, voice_text=voice_text, settings=settings)
    with Bar("speak", "lines", len(lines)) as bar:
        for count, ((path, _), said) in enumerate(zip(lines, takes, strict=True), start=1):
            finish(said, path, as_json)
            if file is not None:
                bar(count)


def best(
    cascade: "Cascade",
    texts: Sequence[str],
    candidates: int,
    recogniser: str | None,
    voice: str | None,
    voice_text: str | None,
    settings: "Settings",
) -> "Iterator[Utterance]":
    """The best of several takes of each text."""
    from triptych.stages.best import speak_best

    ears = None
    if recogniser is not None:
        from triptych.evaluation.recogniser import load_recogniser

        ears = load_recogniser(recogniser)
    for text in texts:
        errors = None if ears is None else word_errors(ears, text)
        yield speak_best(
            cascade, text, candidates, voice=voice, voice_text=voice_text, settings=settings, errors=errors
        )  # fmt: skip


def word_errors(ears: "Recogniser", text: str) -> "Callable[[Waveform, int], float]":
    """Word error of a waveform against `text`."""
    from triptych.evaluation.score import count_errors, normaliser

    normalise = normaliser()
    wanted = normalise(text)
    words = max(1, len(wanted.split()))
    return lambda waveform, rate: count_errors(wanted, normalise(ears.hear(waveform, rate))) / words


def continue_(
    prompt: Annotated[Path, typer.Argument(metavar="PROMPT.wav", help="The recording to go on from.")],
    output: WavOut,
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of what is added.")] = 5.0,
    bundle: Bundle = None,
    seed: Seed = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Go on where a recording ends, without a text.

    The wav begins with the recording, as the codec makes it.
    """
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
            source, voice=voice, settings=settings
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
            source, level=level, voice=voice, settings=settings
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


def load(
    bundle: str | None, seed: int | None, overrides: list[str] | None, precision: str | None = None
) -> "tuple[Cascade, Settings]":
    """The cascade, and how it shall sample: the user's words over the bundle's, over the defaults."""
    from dataclasses import asdict

    from triptych.stages.cascade import Cascade, Settings
    from triptych.training.config import build, load_tree

    tree = load_tree(None, overrides or [])
    if seed is not None:
        tree["seed"] = seed
    build(Settings, tree, "settings")  # before anything big is loaded
    cascade = Cascade.load(bundle, precision=precision) if precision else Cascade.load(bundle)  # type: ignore[arg-type]
    return cascade, build(Settings, merged(asdict(cascade.settings), tree), "settings")


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` in place of its own."""
    both = {key: merged(base[key], value) for key, value in over.items() if isinstance(value, dict) and key in base}
    return {**base, **over, **both}


def check_lines(cascade: "Cascade", file: Path) -> None:
    """Whether every line can be spoken, before the first one is.

    Raises:
        ValueError: one cannot; names it.
    """
    front_end = cascade.tokenizers.text
    if front_end is None:
        return  # the cascade says so itself
    for number, line in read_lines(file):
        try:
            front_end.encode(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None


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
