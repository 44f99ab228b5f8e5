"""Fitting semantic tokens: k-means over the features of an encoder, in a stream, so that any corpus fits in memory.

    clips --shuffled--> encoder features --standardise--> buffers of frames, shuffled --> MiniBatchKMeans
          first buffer: k-means++ start      every buffer: one step      last pass: usage, dead centroids moved

The folder that comes out is whole: encoder, centroids, record. Knows no text.
"""

from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass as record
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer, standardised, to_rate
from triptych.training.config import STRICT
from triptych.training.files import refuse_existing, write_json

MOST_CLUSTERS = 2**16
"""ids are stored as uint16"""


@dataclass(frozen=True, config=STRICT)
class SemanticFitConfig:
    """How semantic tokens are fitted."""

    encoder: str
    """folder of a transformers checkpoint, or hub id: wav2vec2, hubert, wavlm or wav2vec2-bert"""
    layer: int = 3
    """hidden_states[k]: 0 enters the first block, k leaves block k"""
    clusters: int = 512
    """entries of the alphabet"""
    standardise: bool = True
    """features to zero mean and unit variance over each clip: takes most of the speaker out"""
    passes: int = 3
    """over the clips"""
    buffer_frames: int = 50_000
    """frames gathered and shuffled before k-means steps over them; the first buffer also starts the centroids"""
    batch_frames: int = 10_000
    """frames of one k-means step"""
    max_hours: float = 20.0
    """of clips, drawn at random where there are more"""
    seed: int = 0
    """of all draws"""
    memory_gb: float = 2.0
    """features up to this size are kept, so that later passes need no encoder"""
    device: str = "cpu"
    """where the encoder runs: cpu or cuda"""


@record(frozen=True)
class FitReport:
    """How the alphabet is used by the clips that it was fitted on."""

    frames: int
    """of one pass"""
    usage: float
    """share of the ids that occur"""
    entropy: float
    """bits an id; log2 of the alphabet's size at most"""
    inertia: float
    """mean squared distance to the nearest centroid, a feature"""
    moved: int
    """centroids that no frame was nearest to, moved to a frame that none was near"""


def fit_semantic(
    clips: Clips,
    folder: Path,
    config: SemanticFitConfig,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> FitReport:
    """Fits centroids on `clips` and writes the tokenizer to `folder`, with report.json beside.

    Args:
        progress: called with what is done, clips done and clips in all.
    Raises:
        ValueError: a folder in the way, too few frames, or no such encoder.
    """
    refuse_existing(folder)
    if not 2 <= config.clusters <= MOST_CLUSTERS:
        raise ValueError(f"clusters = {config.clusters}: choose 2 to {MOST_CLUSTERS}")
    encoder = Encoder.load(config.encoder, config.layer, device=config.device)
    encoder.round()  # to the precision that is shipped, before anything is fitted to it
    chosen = draw_clips(clips, config.max_hours, config.seed)
    heard = Heard(clips, encoder, config)
    centroids = stream_means(heard, chosen, config, progress)
    centroids, moved = mend(heard, chosen, centroids, progress)
    tokenizer = SemanticTokenizer(
        encoder, torch.from_numpy(centroids), standardise=config.standardise, source=Path(config.encoder).name
    )
    report = measure(heard, chosen, tokenizer, moved, progress)
    tokenizer.save(folder)
    said = {**asdict(config), "encoder": Path(config.encoder).name}  # a path of this machine is nobody else's business
    write_json(folder / "report.json", {**asdict(report), "config": said})
    return report


def draw_clips(clips: Clips, max_hours: float, seed: int) -> list[int]:
    """Indices in random order, up to `max_hours`; one at least."""
    order = np.random.default_rng((seed, 0)).permutation(len(clips))
    if len(order) == 0:
        raise ValueError("there are no clips to fit semantic tokens on: check the manifest and its split")
    hours = np.cumsum([clips.seconds(int(i)) for i in order]) / 3600
    return [int(i) for i in order[: max(1, int(np.searchsorted(hours, max_hours, side="right")))]]


class Heard:
    """Features [T, D] of clips, computed when they are asked for, and kept while they fit."""

    def __init__(self, clips: Clips, encoder: Encoder, config: SemanticFitConfig) -> None:
        self._clips, self._encoder, self._standardise = clips, encoder, config.standardise
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._free = int(config.memory_gb * 2**30)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index in self._kept:
            return self._kept[index]
        frames = self._encoder.features([to_rate(self._clips.waveform(index), self._clips.sample_rate)])[0]
        found = (standardised(frames) if self._standardise else frames).numpy()
        if found.nbytes <= self._free:
            self._kept[index] = found
            self._free -= found.nbytes
        return found


def stream_means(
    heard: Heard,
    chosen: list[int],
    config: SemanticFitConfig,
    progress: Callable[[str, int, int], None] | None,
) -> NDArray[np.float32]:
    """[K, D] by mini-batch k-means (Sculley 2010) over `passes` shuffles of the clips."""
    from sklearn.cluster import MiniBatchKMeans

    means: Any = MiniBatchKMeans(
        config.clusters, init="k-means++", n_init=1, batch_size=config.batch_frames, random_state=config.seed
    )
    generator = np.random.default_rng((config.seed, 1))
    kept: list[NDArray[np.float32]] = []
    done = held = 0
    for _ in range(config.passes):
        order = [chosen[i] for i in generator.permutation(len(chosen))]
        for index in order:
            kept.append(heard[index])
            held += len(kept[-1])
            done += 1
            if progress:
                progress("k-means", done, config.passes * len(chosen))
            if held >= config.buffer_frames or done == config.passes * len(chosen):
                _steps(means, np.concatenate(kept), config, generator)
                kept, held = [], 0
    return np.asarray(means.cluster_centers_, dtype=np.float32)


def _steps(means: Any, frames: NDArray[np.float32], config: SemanticFitConfig, generator: np.random.Generator) -> None:
    started = hasattr(means, "cluster_centers_")
    if not started and len(frames) < config.clusters:
        raise ValueError(
            f"{len(frames)} frames are too few for {config.clusters} clusters: give more clips, or a smaller clusters="
        )
    frames = frames[generator.permutation(len(frames))]
    size = config.batch_frames if started else max(config.batch_frames, 3 * config.clusters)
    for begin in range(0, len(frames), size):
        means.partial_fit(frames[begin : begin + size])


def mend(
    heard: Heard,
    chosen: list[int],
    centroids: NDArray[np.float32],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[NDArray[np.float32], int]:
    """Moves each centroid that no frame is nearest to onto one of the frames that lie farthest from all of them."""
    counts = np.zeros(len(centroids), dtype=np.int64)
    far: list[tuple[float, NDArray[np.float32]]] = []
    for done, index in enumerate(chosen, 1):
        frames = heard[index]
        if len(frames):
            distance = np.square(centroids).sum(axis=1) - 2 * frames @ centroids.T
            counts += np.bincount(distance.argmin(axis=1), minlength=len(centroids))
            lost = distance.min(axis=1) + np.square(frames).sum(axis=1)
            far.append((float(lost.max()), frames[lost.argmax()]))  # one a clip, so that they differ
        if progress:
            progress("dead centroids", done, len(chosen))
    dead = np.flatnonzero(counts == 0)
    far.sort(key=lambda pair: -pair[0])
    for place, (_, frame) in zip(dead, far, strict=False):
        centroids[place] = frame
    return centroids, min(len(dead), len(far))


def measure(
    heard: Heard,
    chosen: list[int],
    tokenizer: SemanticTokenizer,
    moved: int,
    progress: Callable[[str, int, int], None] | None,
) -> FitReport:
    """Usage and entropy of the finished tokenizer."""
    counts = np.zeros(tokenizer.spec.size, dtype=np.int64)
    squared = 0.0
    for done, index in enumerate(chosen, 1):
        frames = torch.from_numpy(heard[index])
        ids = tokenizer.assign(frames)
        counts += np.bincount(ids, minlength=len(counts))
        squared += float((frames - tokenizer.centroids[ids.astype(np.int64)]).square().sum())
        if progress:
            progress("usage", done, len(chosen))
    share = counts[counts > 0] / max(1, counts.sum())
    return FitReport(
        frames=int(counts.sum()),
        usage=float((counts > 0).mean()),
        entropy=float(-(share * np.log2(share)).sum()),
        inertia=squared / max(1, int(counts.sum())) / tokenizer.encoder.dim,
        moved=moved,
    )
