"""What a language model is judged by, over targets that the caller has already selected. Knows nothing of padding."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood in nats of targets [N] under logits [N, V], over all of V; computed in fp32."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


@torch.no_grad()
def illegal_mass(logits: Tensor, legal: Tensor) -> Tensor:
    """Mean probability, 0..1, that logits [N, V] give to ids outside `legal` (bool [V] or [N, V]); must go to 0."""
    return logits.float().softmax(-1).masked_fill(legal, 0.0).sum(-1).mean()


@torch.no_grad()
def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share, 0..1, of the targets [N] that are the likeliest id of logits [N, V]."""
    return (logits.argmax(-1) == targets).float().mean()
