"""Semantic tokens from a text, from a prompt, or from both. Knows no audio."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.lm.blocks import Precision
from triptych.lm.decode import run
from triptych.lm.engine import Engine, make_engine
from triptych.lm.rows import LanguageRule, Row, generate, one
from triptych.lm.sampling import Sampling
from triptych.stages.semantic.model import SemanticModel
from triptych.stages.semantic.sequence import NOTHING, SemanticStage
from triptych.stages.semantic.tasks import recognition
from triptych.stages.speech import Tokens


def semantic_rule(model: SemanticModel, precision: Precision | None = None, steps: int = 0) -> LanguageRule:
    """How tokens are decoded; None: with the weights that the model has at the moment, as in training."""
    inner = model.language_model
    engine = make_engine(inner.transformer, precision, steps) if precision else Engine(inner.transformer)
    return LanguageRule(inner, engine)


def semantic_row(
    stage: SemanticStage,
    *,
    text: Tokens = NOTHING,
    prompt_text: Tokens = NOTHING,
    prompt: Tokens = NOTHING,
    min_frames: int,
    max_frames: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> Row:
    """New semantic tokens [T] after the prompt, min_frames <= T <= max_frames; `tokens_of` reads them.

    Args:
        text: [L] text tokens to speak; empty: go on speaking freely.
        prompt_text, prompt: a clip of the voice, its text tokens [P] and semantic tokens [T_p].
    """
    layout = stage.layout
    v = layout.vocabulary
    ids, positions, start = layout.prefix(text, prompt_text, prompt)
    guided = sampling.guidance != 1.0 and len(text) > 0
    bare_ids, bare_positions, bare_start = layout.prefix(NOTHING, NOTHING, prompt)
    if layout.frames_per_symbol is None:  # counted plainly, the bare prompt ends where the other does
        bare_positions = bare_positions + start - bare_start
    return Row(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        [v.legal("semantic")],
        max_frames,
        sampling if guided else replace(sampling, guidance=1.0),
        generator,
        eos_id=v.id("eos"),
        min_new=min_frames,
        unconditional=(torch.from_numpy(bare_ids), torch.from_numpy(bare_positions)) if guided else None,
        position_of=lambda i: float(start + i),
    )


def tokens_of(stage: SemanticStage, row: Row) -> Tokens:
    """The semantic tokens [T] that a row has so far."""
    tokens: Tokens = stage.layout.vocabulary.tokens("semantic", np.array(row.new, dtype=np.int64)).astype(np.uint16)
    return tokens


@torch.inference_mode()
def log_gain(
    stage: SemanticStage, model: SemanticModel, text: Tokens, prompt_text: Tokens, prompt: Tokens, said: Tokens
) -> float:
    """log p(said | text) - log p(said), nats: by how much the text explains what was said after the prompt."""
    layout, device = stage.layout, model.language_model.embedding.weight.device
    found = []
    for given in ((text, prompt_text), (NOTHING, NOTHING)):
        row = layout.row(*given, prompt, said, ends=False)
        ids = torch.from_numpy(row.ids).to(device)
        positions = torch.from_numpy(row.positions).to(device)
        hidden = model.language_model.hidden(ids[None, :-1], positions=positions[None, :-1])
        logits = model.language_model.logits(hidden[0, row.first_target - 1 :]).float()
        found.append(-float(torch.nn.functional.cross_entropy(logits, ids[row.first_target :], reduction="sum")))
    return found[0] - found[1]


def generate_semantic(stage: SemanticStage, model: SemanticModel, row: Row) -> Tokens:
    """The tokens of one row, made by `semantic_row`."""
    for _ in run(semantic_rule(model), [one(row)]):
        pass
    return tokens_of(stage, row)


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
