"""Semantic tokens from a text, from a prompt, or from both. Knows no audio."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.lm.decode import generate
from triptych.lm.sampling import Sampling
from triptych.stages.semantic.model import SemanticModel
from triptych.stages.semantic.sequence import NOTHING, SemanticStage
from triptych.stages.semantic.tasks import recognition
from triptych.stages.speech import Tokens


def generate_semantic(
    stage: SemanticStage,
    model: SemanticModel,
    *,
    text: Tokens = NOTHING,
    prompt_text: Tokens = NOTHING,
    prompt: Tokens = NOTHING,
    min_frames: int,
    max_frames: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> Tokens:
    """New semantic tokens [T] after the prompt, min_frames <= T <= max_frames.

    Args:
        text: [L] text tokens to speak; empty: go on speaking freely.
        prompt_text, prompt: a clip of the voice, its text tokens [P] and semantic tokens [T_p].
    """
    layout = stage.layout
    v = layout.vocabulary
    ids, positions, start = layout.prefix(text, prompt_text, prompt)
    guided = sampling.guidance != 1.0 and len(text) > 0
    in_time = (
        guided and layout.frames_per_symbol is not None
    )  # counted plainly, the bare prompt ends where the other does
    bare_ids, bare_positions, _ = layout.prefix(NOTHING, NOTHING, prompt)
    new = generate(
        model.language_model,
        torch.from_numpy(ids),
        legal=v.legal("semantic"),
        eos_id=v.id("eos"),
        min_new=min_frames,
        max_new=max_frames,
        sampling=sampling if guided else replace(sampling, guidance=1.0),
        generator=generator,
        positions=torch.from_numpy(positions),
        unconditional_ids=torch.from_numpy(bare_ids) if guided else None,
        unconditional_positions=torch.from_numpy(bare_positions) if in_time else None,
        position_of=lambda i: float(start + i),
    )
    tokens: Tokens = v.tokens("semantic", np.array(new, dtype=np.int64)).astype(np.uint16)
    return tokens


def transcribe(
    stage: SemanticStage, model: SemanticModel, semantic: Tokens, *, sampling: Sampling, generator: torch.Generator
) -> NDArray[np.int64]:
    """Text tokens [L] of semantic tokens [T].

    Raises:
        ValueError: the stage has not learned to recognise.
    """
    if "recognise" not in stage.also:
        raise ValueError("this semantic stage has not learned to recognise: train it with stage.tasks.recognise=1")
    layout = stage.layout
    v = layout.vocabulary
    ids, positions, first = recognition(layout, NOTHING, semantic)
    pace = stage.config.frames_per_symbol or 1.0
    in_time = layout.frames_per_symbol is not None
    found = generate(
        model.language_model,
        torch.from_numpy(ids),
        legal=v.legal("text"),
        eos_id=v.id("eos"),
        min_new=1,
        max_new=max(8, round(2 * len(semantic) / pace)),
        sampling=sampling,
        generator=generator,
        positions=torch.from_numpy(positions),
        position_of=lambda i: i * pace if in_time else float(first + i),
    )
    return v.tokens("text", np.array(found, dtype=np.int64))
