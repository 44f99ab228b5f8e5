"""Utterances known by heart, said again as inference says them, and how the result differs. Knows no training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.lm.sampling import Sampling
from triptych.stages.coarse.generate import generate_coarse
from triptych.stages.coarse.sequence import CoarseStage
from triptych.stages.fine.generate import generate_fine
from triptych.stages.fine.sequence import FineStage
from triptych.stages.semantic.generate import generate_semantic, semantic_row
from triptych.stages.semantic.sequence import SemanticStage
from triptych.stages.span import Span
from triptych.stages.speech import Clip
from triptych.stages.three import AnyStage

GREEDY = Sampling(temperature=0.0)
MORE = 8
"""semantic frames that may come beyond the true end"""
MOST_SHIFT = 3
ALIKE = 0.95
"""share of places that must agree for two to count as the same"""

Pair = tuple[NDArray[Any], NDArray[Any]]
"""what was made, what it should be"""


def said_again(stage: AnyStage, model: Any, clip: Clip, row: Any) -> Pair:
    """What greedy generation makes of the conditions of `row`, and the clip's own tokens or codes."""
    stream = torch.Generator().manual_seed(0)
    if isinstance(stage, SemanticStage):
        longest = len(clip.semantic) + MORE
        asked = semantic_row(stage, text=clip.text, min_frames=1, max_frames=longest, sampling=GREEDY, generator=stream)
        return generate_semantic(stage, model, asked), clip.semantic
    span: Span = row.span if isinstance(stage, FineStage) else row
    given = len(span.semantic) * span.prompt // span.codes.shape[1]
    prompt = Span(span.semantic[:given], span.codes[:, : span.prompt], span.prompt)
    true = span.codes[:, span.prompt :]
    if isinstance(stage, CoarseStage):
        return generate_coarse(stage, model, span.semantic[given:], prompt, GREEDY, stream), true
    first = stage.config.coarse_levels
    levels = min(first + 2, stage.specs.acoustic.levels)
    made = generate_fine(stage, model, true[:first], prompt, GREEDY, stream, levels=levels)
    return made[first:], true[first:levels]


def what_differs(pairs: Sequence[Pair]) -> str:
    """How things that should be the same differ, in words."""
    for step in range(-MOST_SHIFT, MOST_SHIFT + 1):
        if step and np.mean([agreement(made, true, step) for made, true in pairs]) > ALIKE:
            side = "late" if step > 0 else "early"
            return f"wrong offset in time: all comes {abs(step)} frames {side}"
    apart = [_apart(made, true) for made, true in pairs]
    if len(set(apart)) == 1 and apart[0] is not None:
        return f"wrong offset of ids: each is {apart[0]:+d} from what it should be"
    return (
        "wrong offsets: each step had its answer, or another's, beside it while it learnt "
        "(targets that do not follow their inputs), or generation lays its sequence out in another way"
    )


def agreement(made: NDArray[Any], true: NDArray[Any], late: int = 0) -> float:
    """Share of places that agree when `made` is taken `late` frames later."""
    frames = min(made.shape[-1], true.shape[-1]) - abs(late)
    if frames < 1:
        return 0.0
    ours = made[..., max(0, late) :][..., :frames]
    theirs = true[..., max(0, -late) :][..., :frames]
    return float((ours == theirs).mean())


def _apart(made: NDArray[Any], true: NDArray[Any]) -> int | None:
    """The one distance between all ids; None where there are several."""
    frames = min(made.shape[-1], true.shape[-1])
    differences = made[..., :frames].astype(np.int64) - true[..., :frames].astype(np.int64)
    values, counts = np.unique(differences, return_counts=True)
    likeliest = int(values[counts.argmax()]) if len(values) else 0
    return likeliest if likeliest and counts.max() > ALIKE * differences.size else None
