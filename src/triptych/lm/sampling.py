"""From logits to ids: temperature, top-k, top-p, guidance and a guard against loops.

Invariant: an id that is not legal is never chosen, whatever the logits or the settings; the same generator state gives
the same ids. Knows neither the model nor what is done with the ids.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from triptych.training.config import STRICT

COLDEST = 1e-6
"""temperatures below this are greedy: dividing by them says nothing else"""


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """How the next id is chosen."""

    temperature: Annotated[float, Field(ge=0, le=1e30)] = 1.0
    """divides the logits; 0: always the likeliest id"""
    top_k: Annotated[int, Field(ge=0)] = 0
    """only the k likeliest ids; 0: all"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """only the likeliest ids that together reach this probability (Holtzman et al. 2020); 1: all"""
    guidance: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """weight of the condition (classifier-free guidance); 1: as trained, above 1: the condition counts for more"""
    longest_run: Annotated[int, Field(ge=0)] = 0
    """an id is forbidden after so many in a row; 0: off. Runs are normal: stay above those of training"""
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """no n-gram twice, over ids whose runs are collapsed; 0: off"""

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST


def choose(
    logits: Tensor, legal: Tensor, sampling: Sampling, generator: torch.Generator | Sequence[torch.Generator]
) -> Tensor:
    """Next ids [B] from logits [B, V].

    Args:
        legal: bool [V] or [B, V], with at least one True a row.
        generator: of all rows, or one each, on any device: the draw is made on its own; greedy choice leaves it alone.
    """
    # Legal ids stay finite, so that rows whose legal logits are all -inf still have somewhere to go.
    scores = torch.nan_to_num(logits.float(), nan=-1e30, posinf=1e30, neginf=-1e30).masked_fill(
        ~legal.to(logits.device), -torch.inf
    )
    if sampling.greedy:
        return scores.argmax(-1)
    whose = [generator] if isinstance(generator, torch.Generator) else generator
    scores = scores.to(whose[0].device)
    ids: Tensor | None = None
    if sampling.top_k and sampling.top_k < scores.shape[-1]:
        scores, ids = scores.topk(sampling.top_k, dim=-1)
    elif sampling.top_p < 1.0:
        scores, ids = scores.sort(dim=-1, descending=True)
    probabilities = ((scores - scores.amax(-1, keepdim=True)) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1.0:
        assert ids is not None
        probabilities = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities >= sampling.top_p, 0.0)
    # argmax of p / Exp(1) is a draw from p: one pass, no cumulative sum, no wait.
    noise = torch.empty_like(probabilities)
    for part, own in zip(noise.chunk(len(whose)), whose, strict=True):
        part.exponential_(generator=own)
    picks = probabilities.div_(noise.clamp_(min=1e-30)).argmax(-1)
    return picks if ids is None else ids.gather(-1, picks[:, None]).squeeze(-1)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2021) on log-probabilities, [B, V]: u + scale (c - u); 1: c alone."""
    c = conditional.float().log_softmax(-1)
    if scale == 1.0:
        return c
    return torch.lerp(unconditional.float().log_softmax(-1), c, scale)


class RepetitionGuard:
    """Forbids overlong runs and repeated n-grams of the ids that it was shown.

    n-grams are counted over collapsed ids (5 5 5 7 7 5 -> 5 7 5): a sound held longer is not a repetition.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.longest_run, self.n = sampling.longest_run, sampling.no_repeat_ngram
        self.active = bool(self.longest_run or self.n)
        self._collapsed: list[int] = []
        self._run = 0
        self._followers: dict[tuple[int, ...], set[int]] = defaultdict(set)

    def show(self, id: int) -> None:
        """Takes note of the id that was chosen."""
        if self._collapsed and self._collapsed[-1] == id:
            self._run += 1
            return
        if self.n and len(self._collapsed) >= self.n - 1:
            self._followers[self._context()].add(id)
        self._collapsed.append(id)
        self._run = 1

    def forbidden(self) -> set[int]:
        """Ids that may not come next."""
        banned: set[int] = set()
        if self.n and len(self._collapsed) >= self.n - 1:
            banned |= self._followers.get(self._context(), set()) - set(self._collapsed[-1:])
        if self.longest_run and self._run >= self.longest_run:
            banned.add(self._collapsed[-1])
        return banned

    def narrow(self, legal: Tensor) -> Tensor:
        """`legal` (bool [V]) without the forbidden ids; unchanged where nothing else would be left."""
        banned = self.forbidden()
        if not banned:
            return legal
        narrowed = legal.clone()
        narrowed[list(banned)] = False
        return narrowed if bool(narrowed.any()) else legal

    def _context(self) -> tuple[int, ...]:
        return tuple(self._collapsed[len(self._collapsed) - (self.n - 1) :])
