"""The residual quantizer while it learns: codebooks that follow the latent by moving averages, on all ranks alike.

    residual 0 = latent ─nearest entry of level 0─▶ residual 1 ─nearest of level 1─▶ … ─▶ residual Q

  1. all levels are looked up under the entries as they are
  2. counts [Q, K] and sums [Q, K, D] of what fell to each entry, summed over ranks, move the averages
     (van den Oord et al. 2017, appendix A.1; Razavi et al. 2019, equation 2, with Laplace smoothing)
  3. entries used less than `DEAD` of an even use begin anew as residuals of this step (Dhariwal et al. 2020; Zeghidour
     et al. 2021, section III-C)
The codebooks start as k-means of given latents, level by level. Sizes, rules and the names of the states are those of
vector-quantize-pytorch, which is the slow reference in the tests. Invariant: all ranks draw the same random numbers and
add the same sums, so codebooks are equal everywhere. Knows no waveform.
"""

import torch
from torch import Tensor, nn

from triptych.training.distributed import rank, sum_over_ranks, take_from_first, world

DEAD = 0.1
"""share of an even use, averaged, below which an entry begins anew, and which it is then said to have: at once dead
again unless something falls to it, since the latent moves on"""
KMEANS_ROUNDS = 10
SMOOTHING = 1e-5


class Codebook(nn.Module):
    """Entries [1, K, D] of one level and their averages; the leading 1 is that of the files."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("initted", torch.tensor(False))
        self.register_buffer("cluster_size", torch.ones(1, size))
        self.register_buffer("embed_avg", torch.zeros(1, size, width))
        self.register_buffer("embed", torch.zeros(1, size, width))
        self.initted: Tensor
        self.cluster_size: Tensor
        self.embed_avg: Tensor
        self.embed: Tensor

    def nearest(self, vectors: Tensor) -> Tensor:
        """Ids [N] of vectors [N, D]: the least |v - e|², |v|² left out."""
        entries = self.embed[0]
        return torch.addmm(entries.square().sum(1), vectors, entries.T, alpha=-2).argmin(1)

    def start(self, vectors: Tensor) -> None:
        """k-means of vectors [N, D]."""
        size = self.embed.shape[1]
        means = vectors[draw(len(vectors), size).to(vectors.device)]
        for _ in range(KMEANS_ROUNDS):
            self.embed[0] = means
            counts, sums = tally(self.nearest(vectors), vectors, size)
            means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), means)
        self.cluster_size[0], self.embed_avg[0] = counts, means * counts[:, None]
        self.initted.fill_(True)
        self.settle()
        take_from_first([self.cluster_size, self.embed_avg, self.embed])  # sums on a GPU come in any order

    def follow(self, counts: Tensor, sums: Tensor, decay: float) -> None:
        """Moves the averages towards counts [K] and sums [K, D] of a step."""
        self.cluster_size[0].lerp_(counts, 1 - decay)
        self.embed_avg[0].lerp_(sums, 1 - decay)
        self.settle()

    def settle(self) -> None:
        """Entries = averaged sums / smoothed averaged counts."""
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + SMOOTHING) / (total + self.cluster_size.shape[1] * SMOOTHING) * total
        self.embed.copy_(self.embed_avg / smoothed[..., None])

    def restart(self, entries: Tensor, vectors: Tensor, uses: float) -> None:
        """`entries` [n] begin anew as vectors [n, D], said to have `uses` a step."""
        self.embed[0, entries] = vectors
        self.cluster_size[0, entries] = uses
        self.embed_avg[0, entries] = vectors * uses


class Level(nn.Module):
    """A codebook under the name that files give it."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self._codebook = Codebook(size, width)


class TrainableQuantizer(nn.Module):
    """Q codebooks in a row."""

    def __init__(self, levels: int, size: int, width: int, decay: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Level(size, width) for _ in range(levels))
        self.size, self.decay = size, decay
        self.newest_counts = torch.zeros(levels, size)
        """uses [Q, K] of each entry in the newest training step, on all ranks; not saved"""

    @property
    def levels(self) -> list[Codebook]:
        return [layer._codebook for layer in self.layers]  # type: ignore[misc]

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """The codebooks of all levels from latents [N, D], the same on all ranks."""
        residual = vectors
        for level in self.levels:
            level.start(residual)
            residual = residual - level.embed[0][level.nearest(residual)]

    @torch.no_grad()
    def go_on(self, entries: list[Tensor], uses: float) -> None:
        """The codebooks of all levels as given, entries [K, D] each, said to have `uses` a step."""
        for level, given in zip(self.levels, entries, strict=True):
            level.restart(torch.arange(self.size), given, uses)
            level.initted.fill_(True)

    @property
    def started(self) -> bool:
        """Whether the codebooks have entries."""
        return bool(self.levels[0].initted)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Looks latents [B, T', D] up and, in training, lets the codebooks follow.

        Returns:
            entries [Q, B, T', D], under the codebooks as they were; ids [Q, B, T']; the commitment, summed over levels,
            which is differentiable in the latent (van den Oord et al. 2017, equation 3).
        """
        residuals, ids, entries = [latent.flatten(0, 1)], [], []
        for level in self.levels:
            ids.append(level.nearest(residuals[-1].detach()))
            entries.append(level.embed[0][ids[-1]])
            residuals.append(residuals[-1] - entries[-1])
        commitment = torch.stack([residual.square().mean() for residual in residuals[1:]]).sum()
        if self.training:
            self.follow(torch.stack(ids), torch.stack(residuals[:-1]).detach())
        shape = (len(ids), *latent.shape)
        return torch.stack(entries).view(shape), torch.stack(ids).view(shape[:-1]), commitment

    @torch.no_grad()
    def follow(self, ids: Tensor, residuals: Tensor) -> None:
        """Moves all codebooks by ids [Q, N] of residuals [Q, N, D], and restarts their dead entries."""
        counts, sums = zip(*(tally(*pair, self.size) for pair in zip(ids, residuals, strict=True)), strict=True)
        packed = sum_over_ranks(torch.cat([torch.stack(counts)[..., None], torch.stack(sums)], dim=-1))
        self.newest_counts = packed[..., 0]
        for level, now in zip(self.levels, packed, strict=True):
            level.follow(now[:, 0], now[:, 1:], self.decay)
        self._restart_dead(residuals)

    def _restart_dead(self, residuals: Tensor) -> None:
        """Each dead entry takes another residual; with fewer residuals than dead entries, the rest wait."""
        rows = residuals.shape[1] * world()
        even = rows / self.size
        entries, mine = [], []
        for level, own in zip(self.levels, residuals, strict=True):
            dead = (level.cluster_size[0] < DEAD * even).nonzero()[:, 0]
            if len(dead) > rows:
                dead = dead[torch.randperm(len(dead))[:rows].to(dead.device)]
            entries.append(dead)
            mine.append(self._own(own, draw(rows, len(dead))))
        if any(len(dead) for dead in entries):
            vectors = sum_over_ranks(torch.cat(mine)).split([len(dead) for dead in entries])
            for level, dead, new in zip(self.levels, entries, vectors, strict=True):
                level.restart(dead, new, DEAD * even)

    @staticmethod
    def _own(vectors: Tensor, at: Tensor) -> Tensor:
        """Rows `at` of all ranks' vectors laid end to end; zero where another rank holds them."""
        at = at.to(vectors.device) - rank() * len(vectors)
        here = (at >= 0) & (at < len(vectors))
        return vectors[at.clamp(0, len(vectors) - 1)] * here[:, None]


def draw(rows: int, count: int) -> Tensor:
    """`count` of `rows` row numbers, all different where there are enough. From torch's CPU generator, which the loop
    seeds alike on all ranks and at each step."""
    if not count:
        return torch.empty(0, dtype=torch.long)
    return torch.randperm(rows)[:count] if rows >= count else torch.randint(0, rows, (count,))


def tally(ids: Tensor, vectors: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Counts [size] and sums [size, D] of vectors [N, D] by id [N]."""
    counts = torch.bincount(ids, minlength=size).to(vectors.dtype)
    return counts, torch.zeros(size, vectors.shape[1], device=vectors.device).index_add_(0, ids, vectors)
