"""Several losses of one output, each with the share of the gradient that its weight says, whatever its own scale.

    G = norm · Σ_i  λ_i / Σ_j λ_j  ·  g_i / ⟨|g_i|⟩          g_i = ∂ loss_i / ∂ output

EnCodec (Défossez et al. 2022), section 3.4, equation 5. ⟨|g_i|⟩ is a moving average, begun without bias, of the norm of
the gradient at one row, averaged over all ranks' rows that have one. Knows no model and no loss.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from triptych.training.distributed import mean_over_ranks


class Balancer(nn.Module):
    """Keeps the averages, so that a resumed run balances as an uninterrupted one."""

    def __init__(self, weights: Mapping[str, float], norm: float, decay: float) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.norm, self.decay = norm, decay
        self.register_buffer("norms", torch.zeros(len(self.weights)))
        self.register_buffer("seen", torch.zeros(()))
        self.norms: Tensor
        self.seen: Tensor

    def forward(self, losses: Mapping[str, Tensor], output: Tensor, some: Mapping[str, int] | None = None) -> Tensor:
        """The gradient [B, N] to follow at the output [B, N] of which the losses are made; their graphs are kept.

        Each loss is a mean over rows, or over `some` of them, which is their number; no row at all leaves its average
        as it is. So is what the gradient stands for: it does not grow with the batch, and averaged over ranks it is
        that of one process with all rows.
        """
        rows = len(output)
        of = [(some or {}).get(name, rows) for name in self.weights]
        with torch.autocast(output.device.type, enabled=False):
            gradients = [
                torch.autograd.grad(losses[name], output, retain_graph=True)[0].float() * count
                for name, count in zip(self.weights, of, strict=True)
            ]
        sizes = torch.stack([gradient.flatten(1).norm(dim=1).sum() for gradient in gradients])
        total, count = mean_over_ranks(torch.stack([sizes, sizes.new_tensor(of)]))
        newest, seen = total / count.clamp(min=1e-6), self.seen * self.decay + (1 - self.decay)
        moved = torch.where(self.norms > 0, torch.lerp(newest, self.norms, self.decay), newest * seen)
        stayed = self.norms / self.seen.clamp(min=1e-6) * seen
        self.norms.copy_(torch.where(count > 0, moved, stayed))
        self.seen.copy_(seen)
        shares = torch.tensor(list(self.weights.values()), device=output.device) / sum(self.weights.values())
        scales = self.norm / rows * shares / (self.norms / self.seen + 1e-12)
        return torch.stack([scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]).sum(0)
