"""Would a draft pay? Semantic tokens by exact speculative sampling (Leviathan et al. 2023), estimated, not built.

    python benchmarks/speculation.py SHARDS [--bundle DIR] [--clips 40]      what a draft guesses right
    python benchmarks/speculation.py --cost                                  what reading k tokens at once costs

The bundle's semantic stage says the texts of held-out clips with its own settings. Along what it said, token x is
drafted rightly with probability min(1, q(x) / p(x)); p is the stage's distribution under guidance, temperature, top-p,
q one of three drafts: an n-gram table of the training clips under the same temperature and top-p; the stage's own p one
token earlier; the last token again. A verification of n drafted tokens yields 1 to n + 1. No guard against loops.
"""

import argparse
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import taken_by_others
from numpy.typing import NDArray
from torch import Tensor

from triptych.corpus.shards import ShardSet
from triptych.lm.blocks import PRECISIONS, Precision
from triptych.lm.engine import make_engine
from triptych.lm.sampling import Sampling, guide
from triptych.lm.transformer import Transformer, TransformerConfig
from triptych.stages.cascade import Cascade
from triptych.stages.semantic.generate import generate_semantic, semantic_row
from triptych.stages.semantic.sequence import NOTHING
from triptych.stages.speech import Speech

ORDER = 4
"""ids of the longest n-gram"""
DRAFTED = (1, 2, 3)
SHAPES = {
    "4 layers × 256": TransformerConfig(dim=256, layers=4, heads=4),
    "12 layers × 768": TransformerConfig(dim=768, layers=12, heads=12),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, nargs="?")
    parser.add_argument("--bundle")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--guidance", type=float, help="in the place of the bundle's own")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    said = parser.parse_args()
    if said.cost:
        cost(said.rounds)
    else:
        accepted(said)


def accepted(said: argparse.Namespace) -> None:
    """Prints a line a draft."""
    cascade, shards = Cascade.load(said.bundle), ShardSet.open(said.shards)
    stage, model = cascade.stages["semantic"]
    for kind in ("semantic", "text"):
        if getattr(stage.specs, kind).fingerprint != shards.specs[kind].fingerprint:
            raise SystemExit(
                f"{said.shards} has other {kind} tokens than the bundle: give the shards it was trained on"
            )
    settings = cascade.settings.semantic
    settings = settings if said.guidance is None else replace(settings, guidance=said.guidance)
    train, held_out = Speech(shards, "train"), Speech(shards, "dev")
    table = NGrams([np.asarray(shards.semantic(int(index))) for index in train.indices], stage.specs.semantic.size)
    chances: dict[str, list[list[float]]] = defaultdict(list)
    for index in [int(index) for index in held_out.indices if held_out.text_length(index)][: said.clips]:
        text = np.asarray(shards.text(index))
        stream = torch.Generator().manual_seed(index)
        longest = 2 * stage.expected_frames(len(text))
        row = semantic_row(
            stage, text=text, min_frames=1, max_frames=round(longest), sampling=settings, generator=stream
        )  # fmt: skip
        spoken = generate_semantic(stage, model, row)
        p = distributions(stage, model, text, spoken, settings)
        drafts = {
            f"{ORDER}-gram": torch.stack([narrowed(table.after(spoken[:t]), settings) for t in range(len(spoken))]),
            "its own, a token earlier": torch.cat([torch.full_like(p[:1], 1 / p.shape[1]), p[:-1]]),
            "the last token again": torch.nn.functional.one_hot(
                torch.from_numpy(np.concatenate([[0], spoken[:-1]]).astype(np.int64)), p.shape[1]
            ).double(),
        }
        at = torch.arange(len(spoken)), torch.from_numpy(spoken.astype(np.int64))
        assert float((p[at] > 0).double().mean()) > 0.999, "p is not what was drawn from"
        for name, q in drafts.items():
            chances[name].append((q[at] / p[at].clamp(min=1e-12)).clamp(max=1).tolist())
    tokens = sum(map(len, next(iter(chances.values()))))
    print(f"{tokens} tokens of {len(next(iter(chances.values())))} clips; {settings}")
    for name, rows in chances.items():
        alone = sum(map(sum, rows)) / tokens
        means = "  ".join(f"{n} drafted: {yielded(rows, n):.2f} tokens" for n in DRAFTED)
        print(f"{name}: accepted {alone:.3f}  {means}")


def yielded(rows: Sequence[Sequence[float]], drafted: int) -> float:
    """Tokens a verification, over all places where one may begin and has room: 1 + a₁ + a₁a₂ + …"""
    found = []
    for row in rows:
        chances = np.array(row)
        for start in range(len(chances) - drafted + 1):
            found.append(1 + float(np.cumprod(chances[start : start + drafted]).sum()))
    return statistics.mean(found)


@torch.inference_mode()
def distributions(stage: Any, model: Any, text: Any, spoken: NDArray[np.uint16], settings: Sampling) -> Tensor:
    """[T, size] that each token was drawn from; the end is left out."""
    scores = []
    for given in (text, NOTHING)[: 2 if settings.guidance != 1.0 else 1]:
        row = stage.layout.row(given, NOTHING, NOTHING, spoken, ends=False)
        ids, positions = torch.from_numpy(row.ids), torch.from_numpy(row.positions)
        hidden = model.language_model.hidden(ids[None, :-1], positions=positions[None, :-1])
        scores.append(model.language_model.logits(hidden[0, row.first_target - 1 :])[-len(spoken) :])
    guided = guide(scores[0], scores[-1], settings.guidance)
    first = stage.layout.vocabulary.start("semantic")
    body = guided[:, first : first + stage.specs.semantic.size].double()
    return torch.stack([narrowed(row.softmax(-1), settings) for row in body])


def narrowed(shares: Tensor, settings: Sampling) -> Tensor:
    """Probabilities [V] under temperature and top-p, as `lm/sampling.py` has them."""
    shares = (shares.clamp(min=1e-30).log() / settings.temperature).softmax(-1)
    most, ids = shares.sort(descending=True)
    kept = torch.where(most.cumsum(-1) - most < settings.top_p, most, 0.0)
    return torch.zeros_like(shares).scatter(0, ids, kept / kept.sum())


class NGrams:
    """Counts of training clips, longer contexts leaning on shorter ones (Witten and Bell 1991)."""

    def __init__(self, clips: Sequence[NDArray[np.uint16]], size: int) -> None:
        self.size = size
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for clip in clips:
            ids = clip.tolist()
            for at, id in enumerate(ids):
                for length in range(min(ORDER, at + 1)):
                    self.counts[tuple(ids[at - length : at])][id] += 1

    def after(self, before: NDArray[np.uint16]) -> Tensor:
        """Probabilities [size] of the next id."""
        ids, found = before.tolist(), torch.full((self.size,), 1 / self.size, dtype=torch.float64)
        for length in range(min(ORDER, len(ids) + 1)):
            counts = self.counts.get(tuple(ids[len(ids) - length :]))
            if counts is None:
                break
            found *= len(counts)
            found[list(counts)] += torch.tensor(list(counts.values()), dtype=torch.float64)
            found /= len(counts) + sum(counts.values())
        return found


def cost(rounds: int) -> None:
    """Prints what k tokens of one request cost, with a head of 1,100 ids, beside one."""
    print(f"{taken_by_others():.0%} of the machine taken by others, {torch.get_num_threads()} threads")
    for name, shape in SHAPES.items():
        transformer = Transformer(shape).eval()
        for precision in PRECISIONS:
            print(name, precision, *relative(transformer, precision, rounds), sep="  ")


@torch.inference_mode()
def relative(transformer: Transformer, precision: Precision, rounds: int) -> list[str]:
    engine = make_engine(transformer, precision, 10**9)
    dim = transformer.config.dim
    head, cache, x = engine.product(torch.randn(1100, dim)), engine.cache(320), torch.randn(8, dim)
    engine.read(x[:1].expand(256, -1), torch.arange(256.0), [cache] * 256)
    taken: dict[int, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for k in range(1, 9):
            began = time.perf_counter()
            for _ in range(10):
                cache.filled = 256
                head(engine.read(x[:k], torch.arange(256.0, 256.0 + k), [cache] * k))
            taken[k].append((time.perf_counter() - began) / 10)
    one = statistics.median(taken[1])
    return [
        engine.tier,
        f"1: {one * 1e3:.2f} ms",
        *(f"{k}: {statistics.median(taken[k]) / one:.2f}" for k in range(2, 9)),
    ]


if __name__ == "__main__":
    main()
