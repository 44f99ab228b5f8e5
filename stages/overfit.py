"""Whether a stage can learn at all: it memorises a few utterances and says them again, or the reason is named.

    1  first loss     of the new model is log V
    2  targets        the loss lies on every code or token of the utterances, and on nothing else
    3  connected      once they are learnt, another condition of the same length changes the loss at all
    4  memory         the loss of these utterances goes to 0
    5  listened to    with another condition it does not
    6  said again     greedy generation, given what inference is given, returns them exactly

What can be learnt by heart but not said again was learnt with the answer beside it: offsets of inputs and targets, or
of ids. Later findings are judged in the light of earlier ones. Knows no file.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.stages.again import ALIKE, agreement, said_again, what_differs
from triptych.stages.coarse.sequence import CoarseStage
from triptych.stages.fine.sequence import FineStage
from triptych.stages.sanity import first_loss_is_wrong
from triptych.stages.semantic.sequence import SemanticStage
from triptych.stages.span import Span
from triptych.stages.speech import Speech, fit_length
from triptych.stages.stage import Batch
from triptych.stages.three import AnyStage
from triptych.training.config import TrainingConfig
from triptych.training.device import pick_device
from triptych.training.loop import train
from triptych.training.run import RunFolder

LEARNT = 0.01
"""nats: training stops early under it"""
MEMORISED = 0.2
"""nats a target under which the utterances count as known by heart"""
LISTENED = 0.02
"""nats by which the loss must rise with another condition"""
RETURNED = 0.8
"""share of the utterances that must come back exactly"""
SHORTEST_SECONDS = 0.8
FINE_LEVELS = 2
"""levels of the fine stage that are tried, the first ones"""


@dataclass(frozen=True)
class Finding:
    """One of the six."""

    name: str
    good: bool
    said: str
    """one line, with figures"""


def overfit(
    stage: AnyStage,
    speech: Speech,
    config: TrainingConfig,
    count: int = 10,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> list[Finding]:
    """Tries `stage` on the `count` shortest usable utterances of `speech`; with dropout off, see `quiet`.

    Raises:
        ValueError: no utterance that it can learn from.
    """
    torch.manual_seed(config.seed)
    clips = chosen(stage, speech, count)
    rows = [row for index in clips for row in rows_of(stage, speech, index)]
    model: Any = stage.model().to(pick_device(config.device)).eval()
    lost = Losses(stage, model, config)
    own = lost(rows)
    wrong = first_loss_is_wrong(stage, own)
    found = [Finding("first loss", wrong is None, wrong or f"{own['loss']:.2f} nats, about log V, as it must be")]
    found.append(_targets(stage, speech, clips, rows, own))
    _memorise(model, stage.collate(rows).to(pick_device(config.device)), config, progress)
    known = lost(rows)
    found += [_connected(name, *pairs_of(stage, rows, name), lost) for name in stage.conditions]
    found.append(_memory(known, config))
    found.append(_listened(stage.conditions[0], *pairs_of(stage, rows, stage.conditions[0]), lost))
    if found[1].good:  # what a mask hides cannot be said again, and where the target begins is not known
        found.append(_said_again(stage, model, speech, clips, rows, all(finding.good for finding in found)))
    return found


def quiet(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's config tree without what hinders learning by heart."""
    transformer = {**tree.get("transformer", {}), "dropout": 0.0}
    return {**tree, "transformer": transformer} | {
        key: 0.0 for key in ("label_smoothing", "code_noise", "text_drop") if key in tree
    }


def chosen(stage: AnyStage, speech: Speech, count: int) -> list[int]:
    """The shortest clips that are long enough to tell apart; for the semantic stage, with text."""
    spoken = isinstance(stage, SemanticStage)
    usable = [i for i in dict.fromkeys(stage.usable(speech)) if not spoken or speech.text_length(i)]
    if not usable:
        raise ValueError(f"no recording of split train {'with text ' if spoken else ''}to learn from")
    enough = [i for i in usable if speech.beats(i) >= speech.grid.beats(SHORTEST_SECONDS)]
    return sorted(enough or usable, key=speech.beats)[:count]


def rows_of(stage: AnyStage, speech: Speech, index: int) -> list[Any]:
    """The row of a clip as validation draws it; for the fine stage one a level that is tried."""
    row: Any = stage.row(speech, index, np.random.default_rng((7, index)), "own")
    if not isinstance(stage, FineStage):
        return [row]
    first = stage.config.coarse_levels
    return [replace(row, level=q) for q in range(first, min(first + FINE_LEVELS, stage.specs.acoustic.levels))]


class Losses:
    """Rows to the metrics of the model on them, in eval mode, `loss` among them."""

    def __init__(self, stage: AnyStage, model: Any, config: TrainingConfig) -> None:
        self.stage, self.model, self.device = stage, model, pick_device(config.device)

    @torch.no_grad()
    def __call__(self, rows: list[Any]) -> dict[str, float]:
        was = self.model.training
        loss, metrics = self.model.eval().loss(self.stage.collate(rows).to(self.device))
        self.model.train(was)
        return {**{name: float(value) for name, value in metrics.items()}, "loss": float(loss)}


def _targets(stage: AnyStage, speech: Speech, clips: list[int], rows: list[Any], own: Mapping[str, float]) -> Finding:
    wanted = sum(_wanted(stage, speech, index, row) for index, row in zip(_each(clips, rows), rows, strict=True))
    found = round(own["targets"])
    if found == wanted:
        return Finding("targets", True, f"the loss lies on all {wanted} of them")
    where = f"hides {wanted - found} of" if found < wanted else f"lies on {found - wanted} places besides"
    return Finding("targets", False, f"the mask of the loss {where} the {wanted} targets of these utterances")


def _each(clips: list[int], rows: list[Any]) -> Iterator[int]:
    yield from (index for index in clips for _ in range(len(rows) // len(clips)))


def _wanted(stage: AnyStage, speech: Speech, index: int, row: Any) -> int:
    """Targets of a row, counted from the clip itself."""
    if isinstance(stage, SemanticStage):
        longest = speech.grid.beats(stage.config.max_seconds)
        whole = speech.beats(index) <= longest
        return min(speech.beats(index), longest) * speech.grid.semantic_per_beat + whole
    span: Span = row.span if isinstance(stage, FineStage) else row
    frames: int = speech.beats(index) * speech.grid.acoustic_per_beat
    longest = speech.grid.beats(stage.config.prompt.max_seconds) * speech.grid.acoustic_per_beat
    if frames + span.prompt > longest:  # cropped; the prompt's length must be believed
        frames = span.codes.shape[1] - span.prompt
    each = stage.config.levels if isinstance(stage, CoarseStage) and stage.config.layout == "flattened" else 1
    return frames * each


def swapped(stage: AnyStage, row: Any, condition: str) -> Any:
    """`row` with another content of one condition, of the same length; None where it has none."""
    if condition == "text":
        return _another_text(stage, row)
    span: Span = row.span if isinstance(stage, FineStage) else row
    if condition == "prompt":
        codes = span.codes.copy()
        codes[:, : span.prompt] = (codes[:, : span.prompt] + 1) % stage.specs.acoustic.size
        other = None if span.prompt == 0 else replace(span, codes=codes)
    elif condition == "semantic":
        other = replace(span, semantic=_rolled(span.semantic))
    else:
        codes = span.codes.copy()
        codes[: row.level, span.prompt :] = _rolled(codes[: row.level, span.prompt :])
        other = replace(span, codes=codes)
    return other if not isinstance(stage, FineStage) or other is None else replace(row, span=other)


def _another_text(stage: Any, row: Any) -> Any:
    """Semantic row: its text ids, each moved on within the alphabet."""
    v = stage.layout.vocabulary
    start, size = v.start("text"), v.block("text").size
    text = (row.ids >= start) & (row.ids < start + size) & (np.arange(len(row.ids)) < row.first_target)
    moved = start + (row.ids - start + 1 + size // 2) % size
    return replace(row, ids=np.where(text, moved, row.ids)) if text.any() else None


def _rolled(tokens: NDArray[Any]) -> NDArray[Any]:
    """The same tokens, the second half first."""
    return fit_length(np.roll(tokens, tokens.shape[-1] // 2, axis=-1), tokens.shape[-1])


def pairs_of(stage: AnyStage, rows: list[Any], condition: str) -> tuple[list[Any], list[Any]]:
    """The rows that have a condition, and the same with another one."""
    others = [swapped(stage, row, condition) for row in rows]
    return [row for row, other in zip(rows, others, strict=True) if other is not None], [o for o in others if o]


def _connected(name: str, own: list[Any], others: list[Any], lost: Losses) -> Finding:
    if not others:
        return Finding(f"{name} connected", True, f"not tried: these utterances have no {name}")
    mine, other = lost(own)["loss"], lost(others)["loss"]
    alive = other != mine  # to the last bit: of a dead condition nothing enters the sums
    said = "another one changes the loss" if alive else f"another {name} changes nothing: the condition is dead"
    return Finding(f"{name} connected", alive, said)


def _listened(name: str, own: list[Any], others: list[Any], lost: Losses) -> Finding:
    if not others:
        return Finding(f"{name} listened to", False, f"these utterances have no {name}")
    before = lost(own)["loss"]
    gap = lost(others)["loss"] - before
    told = f"with another {name} the loss rises by {gap:.2f} nats"
    if gap < LISTENED:
        told += (
            ": all is known without it, so each step has its answer beside it: a wrong offset"
            if before < MEMORISED
            else ": it is not listened to"
        )
    return Finding(f"{name} listened to", gap >= LISTENED, told)


class _Learnt(Exception):
    """Raised by the one who watches, to end the training."""


def _memorise(
    model: Any, batch: Batch, config: TrainingConfig, progress: Callable[[int, Mapping[str, float]], None] | None
) -> None:
    def watch(step: int, metrics: Mapping[str, float]) -> None:
        if progress:
            progress(step, metrics)
        if metrics["loss"] < LEARNT:
            raise _Learnt

    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder)) as run, suppress(_Learnt):
        train(model, lambda step: [batch], config, run, {}, progress=watch)
    model.eval()


def _memory(known: Mapping[str, float], config: TrainingConfig) -> Finding:
    loss, good = known["loss"], known["loss"] < MEMORISED
    told = f"{loss:.3f} nats a target are left"
    if not good:
        told += (
            f" after {config.max_steps} steps: give training.max_steps more or training.learning_rate another value, "
            "or what is named above hinders it"
        )
    return Finding("memory", good, told)


def _said_again(stage: AnyStage, model: Any, speech: Speech, clips: list[int], rows: list[Any], good: bool) -> Finding:
    firsts = rows[:: len(rows) // len(clips)]
    pairs = [said_again(stage, model, speech.clip(clip), row) for clip, row in zip(clips, firsts, strict=True)]
    exact = sum(made.shape == true.shape and bool((made == true).all()) for made, true in pairs)
    told = f"{exact} of {len(pairs)} utterances come back exactly"
    if exact >= len(pairs) * RETURNED or np.mean([agreement(made, true) for made, true in pairs]) > ALIKE:
        return Finding("said again", True, told)
    if len({made.tobytes() for made, _ in pairs}) == 1 and len(pairs) > 1:
        told += f"; all sound the same: the {stage.conditions[0]} does not reach what is made"
    else:
        told += f": {what_differs(pairs)}" if good else "; see what is named above"
    return Finding("said again", False, told)
