"""Which micro-batches of the one global order are this rank's, at each step.

    accumulation 2, ranks 2      step 1   rank 0: 0 2   rank 1: 1 3
                                 step 2   rank 0: 4 6   rank 1: 5 7
    goes on with 1 rank          step 3   rank 0: 8 9

Invariant: over all ranks and steps every number from 0 is dealt once, in order, whatever the number of ranks was in the
meantime: a checkpoint says how many were read. Knows no data.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from triptych.training.checkpoint import find_checkpoint
from triptych.training.distributed import rank, world


@dataclass(frozen=True)
class Dealing:
    """The deal from step `after + 1` on."""

    after: int
    """steps that lie behind"""
    read: int
    """micro-batches that were read in them, by all ranks"""
    accumulation: int
    """micro-batches of a rank in one step"""
    rank: int
    ranks: int

    @classmethod
    def of(cls, run: Path | None, accumulation: int) -> "Dealing":
        """This rank's deal: from the start, or from the latest checkpoint of a run on.

        Raises:
            ValueError: the run has no checkpoint.
        """
        after, read = progress(find_checkpoint(run), accumulation) if run is not None else (0, 0)
        return cls(after, read, accumulation, rank(), world())

    def numbers(self, step: int) -> list[int]:
        """The micro-batches of this rank at `step` (from 1)."""
        first = self.read_after(step - 1)
        return [first + turn * self.ranks + self.rank for turn in range(self.accumulation)]

    def read_after(self, step: int) -> int:
        """Micro-batches that all ranks have read when `step` is done."""
        return self.read + (step - self.after) * self.accumulation * self.ranks


def progress(checkpoint: Path, accumulation: int) -> tuple[int, int]:
    """Steps, and micro-batches read in them; a checkpoint that does not say was written by one rank."""
    step = int(json.loads((checkpoint / "stage.json").read_text(encoding="utf-8"))["step"])
    file = checkpoint / "trainer" / "progress.json"
    if not file.exists():
        return step, step * accumulation
    return step, int(json.loads(file.read_text(encoding="utf-8"))["micro_batches"])
