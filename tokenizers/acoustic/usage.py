"""How much of its codebooks a codec uses, and what to say when a level collapses.

One batch of a few hundred frames cannot show 1024 entries, so uses are counted over the newest steps (or all held-out
clips). Perplexity is the exponential of the entropy of what was used: K when all entries are used alike, 1 when a level
says nothing. It is the first thing to look at in a new codec: a collapsed level costs its bit rate, and nothing else
shows it. Knows no codec.
"""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

COLLAPSED = 0.05
"""a level whose perplexity is below this share of its entries, or below 2 of them, has collapsed"""
ENOUGH = 4
"""frames an entry, before a perplexity is judged"""


def perplexity(ids: Tensor, size: int) -> Tensor:
    """exp of the entropy of the ids' histogram; `size` when all are used alike."""
    return perplexity_of_counts(torch.bincount(ids.flatten(), minlength=size))


def perplexity_of_counts(counts: Tensor) -> Tensor:
    """exp of the entropy of counts [..., K]."""
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp(-(share * torch.log(share + 1e-10)).sum(-1))


def has_collapsed(perplexity: float, size: int) -> bool:
    """Whether a level with `size` entries says next to nothing."""
    return perplexity < max(2.0, COLLAPSED * size)


def usage_metrics(counts: Tensor) -> dict[str, float]:
    """Of counts [Q, K]: perplexity and share of entries used for each level, and how many levels have collapsed."""
    counts = counts.float()
    perplexities, used = perplexity_of_counts(counts).tolist(), (counts > 0).float().mean(1).tolist()
    metrics = {f"perplexity_{q}": value for q, value in enumerate(perplexities)}
    metrics |= {f"usage_{q}": value for q, value in enumerate(used)}
    size = counts.shape[1]
    if float(counts[0].sum()) >= ENOUGH * size:
        metrics["collapsed_levels"] = float(sum(has_collapsed(value, size) for value in perplexities))
    return metrics


class UsageWindow:
    """Counts [Q, K] of the newest steps. Not saved: after a resume it fills again."""

    def __init__(self, steps: int) -> None:
        self.newest: deque[Tensor] = deque()
        self.steps = steps
        self.total: Tensor | None = None

    def add(self, counts: Tensor) -> dict[str, float]:
        """The metrics of the window with the counts of one more step; whole numbers, so the sum stays exact."""
        self.newest.append(counts)
        self.total = counts.clone() if self.total is None else self.total.add_(counts)
        if len(self.newest) > self.steps:
            self.total.sub_(self.newest.popleft())
        return usage_metrics(self.total)


class CollapseWatch:
    """Reads the metrics of each step and finds words for a level that collapses; once for each collapse."""

    def __init__(self, levels: int, size: int) -> None:
        self.levels, self.size = levels, size
        self.said: set[int] = set()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """A line for each level that has collapsed since the last call."""
        if "collapsed_levels" not in metrics:
            return []
        low = {q for q in range(self.levels) if has_collapsed(metrics[f"perplexity_{q}"], self.size)}
        lines = [
            f"step {step}: level {q} of the codec has collapsed: perplexity {metrics[f'perplexity_{q}']:.1f} of "
            f"{self.size} entries, {metrics[f'usage_{q}']:.0%} of them used. Stop, and try a lower "
            "training.learning_rate, a lower decay (codebooks that follow faster), more unquantised_steps or a "
            "narrower hidden; if only the last levels are empty, fewer levels"
            for q in sorted(low - self.said)
        ]
        self.said = low
        return lines
