"""What the coarse stage takes each frame of a recording for: codes in the recording's own time.

    semantic tokens of a clip ─┐
    its true codes up to f-1  ─┴─▶ guess of frame f         all frames in one pass

    semantic tokens of a clip, another clip of the voice ─▶ its own codes up to f-1 ─▶ guess of frame f     own_past

A decoder that learns to make the recording of the first learns what this stage gets wrong, as vocoders are trained on
the spectrograms that an acoustic model predicts for recorded speech (Shen et al. 2018, section 2.3). The second are
what the cascade decodes: they go together, and say the recording's words in its time, but not its very sound. Knows no
sound.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from triptych.lm.decode import run
from triptych.lm.sampling import Sampling, choose
from triptych.stages.coarse.generate import NONE, CoarseWork, Entries, coarse_rule, expected_entries
from triptych.stages.coarse.model import AlignedModel
from triptych.stages.coarse.sequence import CoarseStage
from triptych.stages.span import Span
from triptych.stages.speech import Clip, Speech, Tokens, join
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.guesses import Guess
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class GuessConfig:
    """How codes are guessed."""

    temperature: Annotated[float, Field(ge=0)] = 0.3
    """as the cascade will sample its coarse stage"""
    top_k: Annotated[int, Field(ge=0)] = 0
    """only the k likeliest ids; 0: all"""
    own_past: bool = False
    """the stage hears its own past, as when it speaks, after another recording of the voice: what a discriminator is to
    judge, where there is no recording that it should become"""
    guidance: Annotated[float, Field(gt=0)] = 1.0
    """with own_past: as the cascade will guide it"""
    expected_levels: Annotated[int, Field(ge=0)] = 0
    """with own_past: the last so many levels as the cascade will hear them, the mean of their entries; the file then
    holds a latent a frame (23 MB an hour of the starter's codec) and is read whole"""
    rows: Annotated[int, Field(ge=1)] = 16
    """with own_past: recordings side by side"""
    seed: Annotated[int, Field(ge=0, le=2**43)] = 0
    """of all draws"""
    threads: Annotated[int, Field(ge=0)] = 0
    """of the processor; 0: torch's choice"""

    def __post_init__(self) -> None:
        if self.guidance != 1 and not self.own_past:
            raise ValueError(f"guidance={self.guidance} is for own_past=true: after true frames nothing is guided")
        if self.expected_levels and not self.own_past:
            raise ValueError("expected_levels is for own_past=true: a true frame is followed by what was drawn")


def guess_all(
    stage: CoarseStage,
    model: AlignedModel,
    speech: Speech,
    config: GuessConfig,
    progress: Callable[[int, int], None] | None = None,
    codec: AcousticTokenizer | None = None,
) -> Iterator[tuple[str, Guess]]:
    """Name and guess of every recording with a whole beat.

    Args:
        codec: whose entries `expected_levels` are.
    Raises:
        ValueError: more expected levels than there are, or a codec whose entries are not known.
    """
    sampling = Sampling(temperature=config.temperature, top_k=config.top_k, guidance=config.guidance)
    longest = stage.specs.grid.beats(stage.config.prompt.max_seconds)
    usable = [int(index) for index in stage.usable(speech)]
    if config.own_past:
        expected = NONE
        if config.expected_levels:
            assert codec is not None
            expected = expected_entries(stage, codec, config.expected_levels, stage.config.levels)
        yield from say_all(stage, model, speech, usable, sampling, config, progress, expected)
        return
    for done, index in enumerate(usable, 1):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
        starts = range(0, speech.beats(index), longest)
        parts = [guess(stage, model, speech.clip(index, at, longest), sampling, generator) for at in starts]
        yield speech.shards.row(index).id, Guess(np.concatenate(parts, axis=1))
        if progress:
            progress(done, len(usable))


@torch.inference_mode()
def guess(
    stage: CoarseStage, model: AlignedModel, clip: Clip, sampling: Sampling, generator: torch.Generator
) -> Tokens:
    """Codes [levels, T'] of a clip; each level of a frame is drawn knowing those that were drawn under it."""
    batch = stage.collate([Span(clip.semantic, clip.codes[: stage.config.levels], 0)])
    hidden = model.hidden(batch)[0]
    legal = torch.ones(model.size, dtype=torch.bool)
    chosen = torch.zeros(stage.config.levels, len(hidden), dtype=torch.long)
    for q in range(stage.config.levels):
        chosen[q] = choose(model.logits(q, hidden, chosen), legal, sampling, generator)
    return np.asarray(chosen.numpy().astype(np.uint16))


@torch.inference_mode()
def say_all(
    stage: CoarseStage,
    model: AlignedModel,
    speech: Speech,
    usable: Sequence[int],
    sampling: Sampling,
    config: GuessConfig,
    progress: Callable[[int, int], None] | None,
    expected: Entries = NONE,
) -> Iterator[tuple[str, Guess]]:
    """Name and guess of the recordings as the stage says them, `config.rows` side by side."""
    rule = coarse_rule(model, "fp32")
    for first in range(0, len(usable), config.rows):
        chosen = usable[first : first + config.rows]
        works = [replace(saying(stage, speech, index, sampling, config.seed), expected=expected) for index in chosen]
        for _ in run(rule, [work.job(rule) for work in works], config.rows):
            pass
        for index, work in zip(chosen, works, strict=True):
            yield speech.shards.row(index).id, Guess(work.made, work.shift)
        if progress:
            progress(first + len(chosen), len(usable))


def saying(stage: CoarseStage, speech: Speech, index: int, sampling: Sampling, seed: int) -> CoarseWork:
    """A recording to be said anew, in the voice of another of its speaker's, or in none where there is no other."""
    number = seed * 1_000_003 + index
    shortest, longest = (stage.specs.grid.beats(seconds) for seconds in stage.config.prompt.seconds)
    voice = speech.voice_prompt(index, np.random.default_rng(number), (shortest, longest))
    semantic, codes = join(voice, stage.specs.acoustic.levels)
    none = np.zeros((stage.config.levels, 0), np.uint16)
    stream = torch.Generator().manual_seed(number)
    said = speech.clip(index).semantic
    return CoarseWork(stage, Span(semantic, codes, codes.shape[1]), sampling, stream, none, semantic=said, ended=True)


def guessing(stage: object, model: object) -> tuple[CoarseStage, AlignedModel]:
    """The two, if they can guess.

    Raises:
        ValueError: another stage, or a layout with other steps than frames.
    """
    if not isinstance(stage, CoarseStage):
        raise ValueError("only a coarse stage guesses codes: name a run of one, or a bundle")
    if not isinstance(model, AlignedModel) or stage.config.delay:
        raise ValueError(f"a coarse stage of the {stage.config.layout} layout cannot guess: only an aligned one can")
    return stage, model
