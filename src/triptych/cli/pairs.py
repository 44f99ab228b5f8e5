"""`make-pairs`: pairs of texts, spoken, as a likelihood test for `evaluate … pairs=FOLDER`, ZeroSpeech 2021 or slamkit.

Knows no model: `triptych.evaluation.pair_making` does the work.
"""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.options import Bundle, Overrides, Seed
from triptych.cli.paths import check_writable
from triptych.cli.progress import Bar, result


def make_pairs(
    pairs: Annotated[Path, typer.Argument(metavar="LIST.jsonl", help='{"test", "right", "wrong", "start"} a line.')],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Goes on where it lies.")],
    overrides: Overrides = None,
    voice: Annotated[
        list[str] | None, typer.Option("--voice", metavar="WAV|NAME", help="Again for more. Default: all named ones.")
    ] = None,
    bundle: Bundle = None,
    seed: Seed = None,
) -> None:
    """Speak pairs of texts, for tests of likelihood.

    Of each pair one text is a word, a sentence or the end of a story, the other not quite ('test': lexical, syntactic
    or story). Both are spoken in each voice.
    """
    from triptych.cli.speech import load
    from triptych.evaluation.pair_making import make_pairs as make
    from triptych.evaluation.pair_making import read_text_pairs
    from triptych.stages.bundle import find_bundle, read_bundle
    from triptych.training.files import fingerprint_of

    check_writable(output / "x")
    texts = read_text_pairs(pairs)
    cascade, settings = load(bundle, seed, overrides)
    voices = voice or list(cascade.voices())
    if not voices:
        raise ValueError("this cascade has no named voices: give --voice")
    whose = fingerprint_of(read_bundle(find_bundle(bundle))["files"])
    with Bar("make-pairs", "recordings", 2 * len(texts) * len(voices)) as bar:
        golds = make(cascade, texts, voices, output, settings, bar, bundle=whose)
    for gold in golds:
        result(str(gold))
