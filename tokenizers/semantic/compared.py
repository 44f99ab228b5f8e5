"""What centroids are compared with: the frames of a clip, and beside them the phonemes that CTC hears in each.

    features [T, D] ──standardise over the clip──────────────────────────────▶ [T, D] ─┐
               └─────CTC head──▶ probabilities [T, steps, classes + 1] ──root, * scale─▶ [T, C] ─┴▶ [T, D + C]

k-means spends its centroids where the variance is, and CTC's borders lie elsewhere: what CTC tells apart, clusters of
features mix. The roots of its probabilities (their distance is Hellinger's) are far apart where phonemes differ, and
nowhere else. Knows no clusters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.tokenizers.semantic.ctc_head import CtcHead

STEADY = 1e-5
"""added to a deviation before it divides"""


@dataclass(frozen=True)
class Compared:
    """How frames are made ready."""

    standardise: bool
    """features to zero mean and unit variance over each clip"""
    phonemes: float = 0.0
    """weight of what CTC hears; 1: two frames that are surely of other phonemes lie as far apart by this as two
    unrelated frames do by their features"""
    head: CtcHead | None = None
    """what hears it; of the layer that the features are of"""

    def __post_init__(self) -> None:
        if self.phonemes and self.head is None:
            raise ValueError("phonemes beside the features ask for a CTC head")

    def width(self, dim: int) -> int:
        """Numbers a frame, of `dim` features."""
        return dim + (self.head.steps * (self.head.blank + 1) if self.head and self.phonemes else 0)

    def __call__(self, frames: Tensor, moments: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[T, D] of a clip -> [T, width], fp32.

        Args:
            moments: mean and deviation [D] of the clip that these are a part of; None: their own.
        """
        if not self.standardise:
            ready = frames
        elif moments is None:
            ready = standardised(frames)
        else:
            ready = (frames - moments[0]) / (moments[1] + STEADY)
        if not self.phonemes or self.head is None:
            return ready
        heard = roots(self.head.log_probabilities(frames), frames.shape[1], self.head.steps, self.phonemes)
        return torch.cat([ready, heard], dim=1)

    def heard(self, ready: Tensor) -> Tensor | None:
        """What CTC hears in frames [T, width] as they are compared: log-probabilities [T * steps, classes + 1]; None
        where it has no part in that."""
        if not self.phonemes or self.head is None:
            return None
        classes = self.head.blank + 1
        heard = ready[:, ready.shape[1] - self.head.steps * classes :].reshape(-1, classes).clamp(min=1e-3)
        return heard.square().log().log_softmax(dim=-1)


def roots(log_probabilities: Tensor, dim: int, steps: int, weight: float) -> Tensor:
    """What CTC hears [..., T * steps, C], beside `dim` features a frame: [..., T, steps * C]; `weight` as
    `Compared.phonemes`."""
    scale = weight * (dim / steps) ** 0.5
    frames = log_probabilities.shape[-2] // steps
    heard: Tensor = (log_probabilities / 2).exp() * scale
    return heard.reshape(*heard.shape[:-2], frames, -1)


def standardised(frames: Tensor) -> Tensor:
    """Zero mean and unit variance of each feature over the clip [T, D]; takes most of the speaker out."""
    if len(frames) < 2:
        return torch.zeros_like(frames)
    variance, mean = torch.var_mean(frames, dim=0, correction=0)
    return (frames - mean) / (variance.sqrt() + STEADY)
