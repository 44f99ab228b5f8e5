"""What masked frames are predicted as: cluster ids of the clean clip, by k-means.

    first time      MFCCs of the log-mels, 13 and two differences, averaged over the frame
    later           features of an encoder that was trained before, standardised over the clip (HuBERT's iterations)

Knows neither the model that learns them nor how batches are made.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.pretrain_data import Shelf
from triptych.tokenizers.semantic.tokenizer import standardised, to_rate

MOST_FRAMES = 400_000
"""that k-means sees"""

Ids = list[NDArray[np.int64]]
"""[T] cluster ids of each clip of a shelf"""


def make_targets(
    shelves: Sequence[Shelf],
    heard: Sequence[tuple[Clips, Sequence[int]]],
    *,
    clusters: int,
    seed: int,
    source: str | None,
    layer: int,
) -> tuple[NDArray[np.float32], list[Ids]]:
    """Centroids [K, D], fitted on the first shelf, and the ids of all shelves; `heard`: where their clips came from.

    Args:
        source: folder or hub id of an earlier encoder; none: MFCCs.
    Raises:
        ValueError: no such encoder or layer, or one of another rate.
    """
    if source is None:
        found = [[mfcc_features(shelf, row) for row in range(len(shelf))] for shelf in shelves]
    else:
        encoder = Encoder.load(source, layer)
        if encoder.hop != shelves[0].front.hop:
            raise ValueError(
                f"targets_from: {source} has a frame every {encoder.hop} samples, the new encoder every "
                f"{shelves[0].front.hop}: choose encoders of one rate"
            )
        found = [
            [own_features(encoder, clips, i, int(count)) for i, count in zip(indices, shelf.frames, strict=True)]
            for shelf, (clips, indices) in zip(shelves, heard, strict=True)
        ]
    centroids = fit_clusters(found[0], clusters, seed)
    return centroids, [[nearest(features, centroids) for features in shelf] for shelf in found]


def mfcc_features(shelf: Shelf, row: int) -> NDArray[np.float32]:
    """[T, 39]"""
    return filterbank.mfcc(shelf.mels[row].astype(np.float32), shelf.front.stride)[: shelf.frames[row]]


def own_features(encoder: Encoder, clips: Clips, index: int, frames: int) -> NDArray[np.float32]:
    """[T, D] of an earlier encoder, standardised over the clip."""
    waveform = to_rate(clips.waveform(index), clips.sample_rate)
    return standardised(encoder.features([waveform])[0]).numpy()[:frames]


def fit_clusters(features: Sequence[NDArray[np.float32]], clusters: int, seed: int) -> NDArray[np.float32]:
    """[clusters, D] k-means of at most MOST_FRAMES frames, drawn at random."""
    from sklearn.cluster import MiniBatchKMeans

    frames = np.concatenate(features)
    if len(frames) > MOST_FRAMES:
        frames = frames[np.sort(np.random.default_rng((seed, 3)).choice(len(frames), MOST_FRAMES, replace=False))]
    means = MiniBatchKMeans(min(clusters, len(frames)), batch_size=4096, n_init=1, max_iter=20, random_state=seed)
    return np.asarray(means.fit(frames).cluster_centers_, dtype=np.float32)


def nearest(frames: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """[T] index of the nearest centroid of each frame."""
    distance = np.square(centroids).sum(axis=1) - 2 * frames @ centroids.T
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)
