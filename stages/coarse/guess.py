"""What the coarse stage takes each frame of a recording for, given all that was before it: codes in the recording's
own time.

    semantic tokens of a clip ─┐
    its true codes up to f-1  ─┴─▶ guess of frame f         all frames in one pass

A decoder that learns to make the recording of them learns what this stage gets wrong, as vocoders are trained on the
spectrograms that an acoustic model predicts for recorded speech (Shen et al. 2018, section 2.3). Knows no sound.
"""

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from triptych.lm.sampling import Sampling, choose
from triptych.stages.coarse.model import AlignedModel
from triptych.stages.coarse.sequence import CoarseStage
from triptych.stages.span import Span
from triptych.stages.speech import Clip, Speech, Tokens
from triptych.training.config import STRICT


@dataclass(frozen=True, config=STRICT)
class GuessConfig:
    """How codes are guessed."""

    temperature: Annotated[float, Field(ge=0)] = 0.3
    """as the cascade will sample its coarse stage"""
    top_k: Annotated[int, Field(ge=0)] = 0
    """only the k likeliest ids; 0: all"""
    seed: int = 0
    """of all draws"""
    threads: Annotated[int, Field(ge=0)] = 0
    """of the processor; 0: torch's choice"""


def guess_all(
    stage: CoarseStage,
    model: AlignedModel,
    speech: Speech,
    config: GuessConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, Tokens]]:
    """Name and guessed codes [levels, T'] of every recording with a whole beat."""
    sampling = Sampling(temperature=config.temperature, top_k=config.top_k)
    longest = stage.specs.grid.beats(stage.config.prompt.max_seconds)
    usable = stage.usable(speech)
    for done, index in enumerate(usable, 1):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + int(index))
        starts = range(0, speech.beats(index), longest)
        parts = [guess(stage, model, speech.clip(index, at, longest), sampling, generator) for at in starts]
        yield speech.shards.row(index).id, np.concatenate(parts, axis=1)
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
