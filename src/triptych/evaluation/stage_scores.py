"""A stage as a language model: what it says of each true token of rows that are drawn as training draws them.

    stage.row(clip, given="own") ─▶ model.predictions ─▶ a number a token: nats, right or wrong, confidence
    stage.row(clip, given="text"), the same draw         the same tokens under another clip's condition: the gap

Invariant: a clip whose condition cannot be swapped (no text, no other voice) has no gap, rather than one of 0.
Knows no page and no audio.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.stages.semantic.sequence import NOTHING, SemanticStage
from triptych.stages.speech import Speech
from triptych.stages.stage import Prediction
from triptych.stages.three import AnyStage

ROWS = 8
"""that are measured side by side"""
OWN, ALONE = "own", "without text"
OF_ANOTHER = ("text", "recognise_other", "semantic", "coarse")
"""that a row is given of another clip"""
SEED = 7
"""of the draws, as in the training loop's validation"""

Numbers = NDArray[np.float64]
ARRAYS = ("row", "level", "place", "nats", "right", "confidence")


@dataclass(frozen=True)
class Scored:
    """What a stage said of the true tokens of some rows; all arrays are [M]."""

    row: NDArray[np.int64]
    """place of the row among those that were given"""
    level: NDArray[np.int64]
    place: NDArray[np.int64]
    """frames of the target before this one"""
    nats: Numbers
    """minus the log-probability of the true token"""
    right: Numbers
    """1 where the likeliest id is the true one, else 0"""
    confidence: Numbers
    """probability of the likeliest id"""
    illegal: Numbers | None
    """probability of ids that may not stand there; None where the model has no such ids"""

    def __len__(self) -> int:
        return len(self.nats)

    @classmethod
    def join(cls, parts: Sequence["Scored"]) -> "Scored":
        """One after the other."""
        illegal = [part.illegal for part in parts if part.illegal is not None]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        return cls(**arrays, illegal=np.concatenate(illegal) if len(illegal) == len(parts) else None)

    def pick(self, where: NDArray[np.bool_]) -> "Scored":
        """The targets that are chosen."""
        arrays = {name: getattr(self, name)[where] for name in ARRAYS}
        return Scored(**arrays, illegal=None if self.illegal is None else self.illegal[where])


@torch.inference_mode()
def score(stage: AnyStage, model: Any, rows: Sequence[Any]) -> Scored:
    """Every target of `rows`, which are the stage's own."""
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for start in range(0, len(rows), ROWS):
        batch = stage.collate(rows[start : start + ROWS]).to(device)
        parts += [_scored(found, start) for found in model.predictions(batch) if len(found.at)]
    return Scored.join(parts)


def _scored(found: Prediction, first: int) -> Scored:
    logs = found.logits.float().log_softmax(-1)
    confidence, likeliest = logs.max(-1)
    row = torch.bucketize(found.at, found.rows.edges[1:].long(), right=True)
    illegal = None
    if found.legal is not None:
        illegal = logs.exp().masked_fill(found.legal, 0.0).sum(-1).double().cpu().numpy()
    return Scored(
        (row + first).cpu().numpy(),
        found.level.expand(len(found.at)).cpu().numpy(),
        places(row, found.level),
        -logs.gather(-1, found.targets[:, None])[:, 0].double().cpu().numpy(),
        (likeliest == found.targets).double().cpu().numpy(),
        confidence.exp().double().cpu().numpy(),
        illegal,
    )


def bits_a_token(stage: AnyStage, model: Any, speech: Speech, clips: Iterable[int], draws: int = 1) -> float | None:
    """Mean over the true tokens of clips; None where no clip has a row."""
    rows, _ = draw(stage, speech, clips, OWN, draws)
    return float(score(stage, model, rows).nats.mean() / np.log(2)) if rows else None


def places(row: torch.Tensor, level: torch.Tensor) -> NDArray[np.int64]:
    """How many targets of the same row and level stand before each, in the order of the axis."""
    keys = (row * (int(level.max()) + 1) + level).cpu().numpy()
    order = np.argsort(keys, kind="stable")
    starts = np.concatenate([[True], np.diff(keys[order]) > 0])
    ranks = np.arange(len(keys)) - np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
    found = np.empty(len(keys), dtype=np.int64)
    found[order] = ranks
    return found


def draw(
    stage: AnyStage, speech: Speech, clips: Iterable[int], given: str, draws: int = 1
) -> tuple[list[Any], list[int]]:
    """Rows of clips that can be drawn so, and the clip of each; the same seed for each `given`.

    given: as in `Stage.row`; or `ALONE`: a semantic row that has neither text nor prompt.
    """
    rows, of = [], []
    for clip in clips:
        if why_not(stage, speech, clip, given):
            continue
        for turn in range(draws):
            rng = np.random.default_rng((SEED, clip, turn))
            if given == ALONE:
                assert isinstance(stage, SemanticStage)
                cropped = speech.crop(clip, speech.grid.beats(stage.config.max_seconds), rng)
                row: Any = stage.layout.row(NOTHING, NOTHING, NOTHING, cropped.semantic, ends=False)
            else:
                row = stage.row(speech, clip, rng, given)
            rows.append(row)
            of.append(clip)
    return rows, of


def why_not(stage: AnyStage, speech: Speech, clip: int, given: str) -> str:
    """Why a clip has no row of this kind; '' where it has one."""
    if given in OF_ANOTHER and speech.stranger(clip) == clip:
        return "there is no other clip"
    if isinstance(stage, SemanticStage):
        spoken = speech.text_length(clip) > 0 and speech.beats(clip) <= speech.grid.beats(stage.config.max_seconds)
        if given == ALONE:
            return ""
        if not spoken:
            return "no text, or longer than a training row"
        theirs = speech.shards.text(speech.stranger(clip))
        if given == "text" and not len(theirs):
            return "the other clip has no text"
        if given == "text" and np.array_equal(theirs, speech.shards.text(clip)):
            return "the other clip says the same"
        return ""
    if given != "prompt":
        return ""
    of, other = speech.shards.speaker_of, speech.stranger(clip)
    strange = of[other] >= 0 and of[other] != of[clip]
    heard = other_of(speech, clip) is not None and other_of(speech, other) is not None
    return "" if strange and heard else "no second recording of the speaker and of another one"


def other_of(speech: Speech, clip: int) -> int | None:
    return speech.other(clip, np.random.default_rng(0))
