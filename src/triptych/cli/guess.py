"""`guess`: what a coarse stage takes recordings for, for a decoder to learn from. Work: stages/coarse/guess.py."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.options import Overrides
from triptych.cli.paths import check_writable
from triptych.cli.progress import Bar, result


def guess(
    source: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A bundle, a run or a checkpoint.")],
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder of token shards.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write them (.safetensors).")],
    overrides: Overrides = None,
) -> None:
    """Guess the codes of recordings with a coarse stage.

    Each frame is guessed from the semantic tokens and from the true frames before it: codes in the recording's own
    time, with the stage's errors. 'fit acoustic decoder_of=CODEC guesses=FILE' teaches a decoder to make the recording
    of them. With own_past=true the stage says the recordings as in a cascade, and the decoder learns from a
    discriminator to make that sound recorded.
    """
    import torch

    from triptych.corpus.shards import ShardSet
    from triptych.stages.bundle import check_stage
    from triptych.stages.coarse.guess import GuessConfig, guess_all, guessing
    from triptych.stages.initial import folder_of
    from triptych.stages.speech import Speech
    from triptych.stages.three import load_stage
    from triptych.tokenizers.acoustic.codec import AcousticTokenizer
    from triptych.tokenizers.acoustic.guesses import write_guesses
    from triptych.tokenizers.spec import check_same
    from triptych.training.config import build, load_tree

    if output.exists():
        raise ValueError(f"{output} exists already: name another file")
    check_writable(output)
    config = build(GuessConfig, load_tree(None, overrides or []), "guess")
    if config.threads:
        torch.set_num_threads(config.threads)
    folder, opened = folder_of(source, "coarse"), ShardSet.open(shards)
    stage, model = guessing(*load_stage(folder))
    check_stage("coarse", stage, opened.specs, opened.grid, folder)
    codec = None
    if config.expected_levels:
        entries = folder.resolve().parents[1] / "tokenizers" / "acoustic"
        if not entries.is_dir():
            raise ValueError(f"expected_levels={config.expected_levels} needs the codec: name a bundle, not {source}")
        codec = AcousticTokenizer.load(entries)
        check_same(stage.specs.acoustic, codec.spec, source)
    with Bar("guess", "recordings") as bar:
        guessed = guess_all(stage, model, Speech(opened, "train"), config, bar, codec)
        frames = write_guesses(output, guessed, stage.specs.acoustic.fingerprint, config.own_past)
    result(f"{output}: {frames} frames, {stage.config.levels} levels")
