"""k-means over a stream of features: mini-batches (Sculley 2010), dead centroids revived, a state that can be saved.

    buffer of frames ──shuffle──▶ batches ──partial_fit──▶ centroids ──look at the buffer again──▶ inertia
                                                                └── unseen for long: moved to a frame that lies far

scikit-learn makes the start (k-means++) and the steps. Its own reassignment is off: it moves every centroid below a
hundredth of the largest count, and silence makes that nearly all of them.

Invariant: `saved` and `load` lie on the way of a run without changing where it leads, bit for bit. Knows no clips.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.tokenizers.semantic.stream import Frames

UNSEEN_FRAMES = 50
"""a centroid: dead once this many frames a centroid went by, all nearer to others"""
ROWS = 10_000
"""frames whose distances are held at once"""


@dataclass(frozen=True)
class Step:
    """What one buffer did."""

    inertia: float
    """mean squared distance of its frames to their centroids afterwards, a feature"""
    revived: int
    """centroids that were moved"""


class StreamMeans:
    """Centroids [K, D] on their way; `step` moves them."""

    def __init__(self, clusters: int, batch_frames: int, seed: int) -> None:
        self.clusters, self.batch_frames = clusters, batch_frames
        self.generator = np.random.default_rng((seed, 1))
        self._means: Any = _estimator(clusters, batch_frames, seed)
        self._unseen = np.zeros(clusters, dtype=np.int64)

    @property
    def centroids(self) -> Frames:
        """[K, D]"""
        return np.asarray(self._means.cluster_centers_, dtype=np.float32)

    def begin_at(self, centroids: Frames, counts: NDArray[np.int64]) -> None:
        """Starts from centroids [K, D] that are the means of `counts` [K] frames each, in place of k-means++."""
        means = self._means
        # scikit-learn has no door for this: a first step on the centroids themselves makes all that it keeps beside.
        means.set_params(init=centroids).partial_fit(centroids)
        means.cluster_centers_ = centroids.copy()
        means._counts = counts.astype(means._counts.dtype)

    def step(self, frames: Frames) -> Step:
        """One pass over a buffer [R, D], in an order of its own.

        Raises:
            ValueError: the first buffer has fewer frames than there are clusters.
        """
        started = hasattr(self._means, "cluster_centers_")
        if not started and len(frames) < self.clusters:
            raise ValueError(
                f"{len(frames)} frames are too few for {self.clusters} clusters: give more clips, or a smaller "
                "clusters="
            )
        frames = frames[self.generator.permutation(len(frames))]
        size = self.batch_frames if started else max(self.batch_frames, 3 * self.clusters)
        for begin in range(0, len(frames), size):
            self._means.partial_fit(frames[begin : begin + size])
        ids, squared = nearest(frames, self.centroids)
        counts = np.bincount(ids, minlength=self.clusters)
        self._unseen = np.where(counts > 0, 0, self._unseen + len(frames))
        revived = self._revive(frames, squared)
        return Step(float(squared.mean()) / frames.shape[1], revived)

    def _revive(self, frames: Frames, squared: NDArray[np.float64]) -> int:
        """Dead centroids go to frames drawn by squared distance, as k-means++ draws; then weigh least."""
        dead = np.flatnonzero(self._unseen > UNSEEN_FRAMES * self.clusters)[: int(np.count_nonzero(squared))]
        if len(dead) == 0:
            return 0
        chosen = self.generator.choice(len(frames), len(dead), replace=False, p=squared / squared.sum())
        alive = self._means._counts[self._unseen == 0]
        self._means.cluster_centers_[dead] = frames[chosen]
        self._means._counts[dead] = alive.min()
        self._unseen[dead] = 0
        return len(dead)

    def saved(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All that the next step depends on: arrays, and a JSON-able record."""
        arrays = {"centroids": self.centroids, "counts": self._means._counts, "unseen": self._unseen}
        return {name: value.copy() for name, value in arrays.items()}, {
            "steps": self._means.n_steps_,
            "generator": self.generator.bit_generator.state,
        }

    def load(self, arrays: dict[str, NDArray[Any]], record: dict[str, Any]) -> None:
        """Goes back to what was `saved`."""
        self.generator.bit_generator.state = record["generator"]
        self._unseen = arrays["unseen"].copy()
        self.begin_at(arrays["centroids"], arrays["counts"])
        self._means.n_steps_ = record["steps"]


def _estimator(clusters: int, batch_frames: int, seed: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(
        clusters,
        init="k-means++",
        n_init=1,
        batch_size=batch_frames,
        compute_labels=False,
        reassignment_ratio=0.0,
        random_state=seed,
    )


def nearest(frames: Frames, centroids: Frames) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """[R, D] and [K, D] -> id of the nearest centroid and squared distance to it, [R] each."""
    ids = np.zeros(len(frames), dtype=np.int64)
    squared = np.zeros(len(frames))
    squares = np.square(centroids).sum(axis=1)
    for begin in range(0, len(frames), ROWS):
        part = frames[begin : begin + ROWS]
        distance = squares - 2 * part @ centroids.T
        ids[begin : begin + ROWS] = distance.argmin(axis=1)
        squared[begin : begin + ROWS] = distance.min(axis=1) + np.square(part).sum(axis=1)
    return ids, np.maximum(squared, 0.0)
