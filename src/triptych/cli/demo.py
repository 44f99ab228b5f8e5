"""`demo`: three jobs of the cascade in a row, and one picture of what each stage made.

TEXT ──speak, first voice──▶ spoken.wav ──first seconds──▶ prompt.wav ──continue──▶ continued.wav
                                 └──────convert, second voice──────▶ converted.wav
picture.png: waveforms, spectrograms and the tokens of each stage on one time axis
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.options import Bundle, Json, Overrides, Seed
from triptych.cli.paths import check_folder
from triptych.cli.progress import log, result, result_json
from triptych.cli.speech import finish, load, record_of

if TYPE_CHECKING:
    from triptych.stages.cascade import Utterance

SENTENCE = "The morning sun came over the hills, and the whole valley was full of light."
PROMPT_SECONDS = 3.0
CONTINUED_SECONDS = 4.0
FILES = ("spoken.wav", "prompt.wav", "continued.wav", "converted.wav", "picture.png")


def demo(
    text: Annotated[str, typer.Option("--text", help="What to say.")] = SENTENCE,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where to write.")] = Path("demo-out"),
    overrides: Overrides = None,
    bundle: Bundle = None,
    seed: Seed = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier demo's files.")] = False,
    as_json: Json = False,
) -> None:
    """Speak, continue and convert, and draw it.

    Writes wavs and one picture of what each stage made.
    """
    from triptych.cli.picture import draw
    from triptych.tokenizers.waveform import write_wav

    check_folder(output, force)
    began = time.monotonic()
    cascade, settings = load(bundle, seed, overrides)
    log(f"the cascade is loaded ({time.monotonic() - began:.1f} s)")
    names = list(cascade.voices())
    first, second = (names[0], names[1 % len(names)]) if names else (None, None)

    made: list[tuple[str, Path, Utterance]] = []

    def show(title: str, name: str, said: "Utterance") -> None:
        if not as_json:
            result(title)
            finish(said, output / name, as_json=False)
        else:
            write_wav(output / name, said.waveform, said.sample_rate)
        made.append((title, output / name, said))

    spoken = cascade.speak(text, voice=first, settings=settings)
    show(f"spoken, voice {first}" if first else "spoken", FILES[0], spoken)
    prompt = output / FILES[1]
    heard = spoken.waveform[: int(PROMPT_SECONDS * spoken.sample_rate)]
    write_wav(prompt, heard, spoken.sample_rate)
    continued = cascade.continue_(prompt, seconds=CONTINUED_SECONDS, settings=settings)
    show(f"its first {len(heard) / spoken.sample_rate:.3g} s continued, without a text", FILES[2], continued)
    if second:
        converted = cascade.convert(output / FILES[0], voice=second, settings=settings)
        show(f"converted into voice {second}", FILES[3], converted)
    else:
        log("not converted: this bundle has no named voices")
    picture = output / FILES[4]
    levels = cascade.stages["fine"][0].config.coarse_levels
    draw([(title, said) for title, _, said in made], picture, levels)

    seconds = time.monotonic() - began
    if as_json:
        records: list[dict[str, Any]] = [record_of(said, path) for _, path, said in made]
        result_json({"utterances": records, "picture": str(picture), "seconds": seconds})
    else:
        result(f"{picture}  what each stage made\n{seconds:.0f} s in all; listen in {output}")
