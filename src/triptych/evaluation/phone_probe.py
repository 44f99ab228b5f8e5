"""How well phonemes can be read from tokens: a small network that hears nothing else, trained by CTC.

    ids [T] ─▶ embedding ─▶ 3 convolutions over 5 frames ─▶ CTC [T * steps, classes + 1]

Its error on held-out clips is the least that a stage which reads these tokens must expect. Knows no tokenizer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.evaluation.tokens import Ids
from triptych.tokenizers.semantic.ctc import ctc_fits, edit_distance, greedy

STEPS_PER_SECOND = 50
"""of CTC, at least: fast speech says 20 phonemes in a second, and twins need a blank between them"""
BATCH = 16
LEARNING_RATE, WARMUP_STEPS = 2e-3, 100
LAYERS, KERNEL, DROPOUT = 3, 5, 0.1


@dataclass(frozen=True)
class Said:
    """Tokens of a clip and the phonemes that they should say."""

    ids: Ids
    text: Ids
    """[L]"""


class PhoneProbe(nn.Module):
    """Made and trained by `fit_probe`."""

    def __init__(self, size: int, classes: int, frame_rate: float, width: int) -> None:
        super().__init__()
        self.steps = max(1, math.ceil(STEPS_PER_SECOND / frame_rate))
        """of CTC a frame"""
        self.blank, self.pad = classes, size
        self.embedding = nn.Embedding(size + 1, width, padding_idx=size)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(LAYERS))
        self.mixers = nn.ModuleList(nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2) for _ in range(LAYERS))
        self.head = nn.Linear(width, self.steps * (classes + 1))

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T], padded with `pad` -> log-probabilities [B, T * steps, classes + 1]"""
        inside = (ids != self.pad)[..., None]
        hidden = nn.functional.dropout(self.embedding(ids), DROPOUT, self.training)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            mixed = nn.functional.gelu(mixer((norm(hidden) * inside).transpose(1, 2)).transpose(1, 2))
            hidden = hidden + nn.functional.dropout(mixed, DROPOUT, self.training)
        steps: Tensor = self.head(hidden).reshape(len(ids), -1, self.blank + 1)
        return steps.log_softmax(dim=-1)

    @torch.no_grad()
    def hear(self, ids: Ids) -> NDArray[np.float32]:
        """One clip [T] -> log-probabilities [T * steps, classes + 1]"""
        return np.asarray(self(torch.from_numpy(ids)[None])[0].numpy(), dtype=np.float32)


def fit_probe(
    rows: Sequence[Said],
    size: int,
    classes: int,
    frame_rate: float,
    *,
    steps: int,
    width: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> PhoneProbe:
    """Trains on `rows`; the same arguments give the same probe, and torch's own chance is left as it was.

    Raises:
        ValueError: no row has a text that its tokens could say.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = PhoneProbe(size, classes, frame_rate, width)
        usable = [row for row in rows if ctc_fits(row.text, len(row.ids) * probe.steps)]
        if not usable:
            raise ValueError("no clip has a text that its tokens could say: give texts, or leave --text out")
        usable.sort(key=lambda row: len(row.ids))
        optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        generator, warmup = np.random.default_rng((seed, 7)), max(1, min(WARMUP_STEPS, steps // 5))
        for step in range(1, steps + 1):
            rate = LEARNING_RATE * min(1.0, step / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            begin = int(generator.integers(0, max(1, len(usable) - BATCH + 1)))
            loss = probe_loss(probe, usable[begin : begin + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress:
                progress(step, steps)
    return probe.eval()


def probe_loss(probe: PhoneProbe, rows: Sequence[Said]) -> Tensor:
    """CTC, a phoneme."""
    ids = torch.full((len(rows), max(len(row.ids) for row in rows)), probe.pad)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.from_numpy(row.ids)
    return nn.functional.ctc_loss(
        probe(ids).transpose(0, 1),
        torch.from_numpy(np.concatenate([row.text for row in rows])),
        torch.tensor([len(row.ids) * probe.steps for row in rows]),
        torch.tensor([len(row.text) for row in rows]),
        blank=probe.blank,
    )


def probe_error(probe: PhoneProbe, row: Said) -> float:
    """Edits between what the probe reads and the text, a phoneme of the text."""
    if not len(row.ids):
        return 1.0
    read = greedy(probe.hear(row.ids).argmax(axis=1).astype(np.int64), probe.blank)
    return edit_distance(read, row.text.tolist()) / len(row.text)
