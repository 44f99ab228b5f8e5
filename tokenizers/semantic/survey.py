"""Who uses which centroid: one pass over the clips, after which those that nobody uses are moved, and counted again.

Knows no encoder.
"""

import heapq
from collections.abc import Callable

import numpy as np

from triptych.tokenizers.semantic.means import nearest
from triptych.tokenizers.semantic.moments import Moments
from triptych.tokenizers.semantic.stream import Frames, Heard

Progress = Callable[[str, int, int], None]
"""called with what is done, clips done and clips in all"""


class Survey:
    """Counts of the clips that were added."""

    def __init__(self, centroids: Frames) -> None:
        """`centroids` [K, D], in the precision that is shipped."""
        self.centroids = centroids
        self.counts = np.zeros(len(centroids), dtype=np.int64)
        """[K], frames nearest to each"""
        self.squared = 0.0
        """summed distance of all frames to their centroids"""
        self.moments = Moments(self.dim)
        """of all frames"""
        self._far: list[tuple[float, int, Frames]] = []

    @property
    def dim(self) -> int:
        return int(self.centroids.shape[1])

    @property
    def frames(self) -> int:
        return int(self.counts.sum())

    def add(self, frames: Frames) -> None:
        """The frames [T, D] of one clip."""
        if len(frames) == 0:
            return
        ids, squared = nearest(frames, self.centroids)
        self.counts += np.bincount(ids, minlength=len(self.counts))
        self.squared += float(squared.sum())
        self.moments.add(frames)
        farthest = int(squared.argmax())
        heapq.heappush(self._far, (float(squared[farthest]), self.frames, frames[farthest].copy()))
        if len(self._far) > len(self.counts):
            heapq.heappop(self._far)

    def mended(self) -> tuple[Frames, int]:
        """The centroids with each unused one moved to the farthest frame of a clip, and how many were."""
        centroids = self.centroids.copy()
        dead = np.flatnonzero(self.counts == 0)
        far = sorted(self._far, key=lambda one: -one[0])  # one a clip, so that they differ
        for place, (_, _, frame) in zip(dead, far, strict=False):
            centroids[place] = frame
        return centroids, min(len(dead), len(far))


def settle(heard: Heard, chosen: list[int], centroids: Frames, progress: Progress | None) -> tuple[Frames, Survey, int]:
    """Centroids that the clips use, what a last pass found of them, and how many had to be moved."""
    first = survey(heard, chosen, rounded(centroids), "usage", progress)
    mended, moved = first.mended()
    if not moved:
        return first.centroids, first, 0
    last = survey(heard, chosen, rounded(mended), "usage, after moving dead centroids", progress)
    return last.centroids, last, moved


def survey(heard: Heard, chosen: list[int], centroids: Frames, what: str, progress: Progress | None) -> Survey:
    """One pass over the clips."""
    found = Survey(centroids)
    for done, frames in enumerate(heard(chosen), 1):
        found.add(frames)
        if progress:
            progress(what, done, len(chosen))
    return found


def rounded(centroids: Frames) -> Frames:
    """As they are shipped: in float16."""
    return centroids.astype(np.float16).astype(np.float32)
