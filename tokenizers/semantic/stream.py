"""The features of clips, in the order that is asked for, made by several processes and kept while they fit.

    order   3 0 2 1 …
    worker 0    3   2        each hears one clip at a time
    worker 1      0   1
    consumer    3 0 2 1 …    takes them in order, so that the number of workers changes nothing

At most a few clips a worker wait for the consumer, whatever the hours. A clip that cannot be read has no frames.
Knows no clusters.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from triptych.tokenizers.clips import Clips, Refused
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.tokenizer import to_rate

Frames = NDArray[np.float32]
"""[T, D], as centroids are compared with them"""


class Features(Dataset[Any]):
    """index of a clip -> its features, or the ValueError that says why there are none."""

    def __init__(self, clips: Clips, encoder: Encoder, compared: Compared) -> None:
        self.clips, self.encoder, self.compared = clips, encoder, compared

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Frames | ValueError:
        try:
            waveform = to_rate(self.clips.waveform(index), self.clips.sample_rate)
        except ValueError as error:  # handed over, since a worker's own way adds its traceback
            return error
        frames = self.encoder.features([waveform])[0]
        return self.compared(frames).numpy()


class Heard:
    """Clips as features; `workers` processes make them, 0: this one."""

    def __init__(
        self,
        clips: Clips,
        encoder: Encoder,
        compared: Compared,
        *,
        workers: int = 0,
        memory_gb: float = 0.0,
        refused: Refused | None = None,
    ) -> None:
        """
        Args:
            refused: where clips that cannot be read are noted; none: the first is an error.
        Raises:
            ValueError: workers beside a GPU, which one process keeps busy.
        """
        if workers and encoder.model.device.type != "cpu":
            raise ValueError(f"workers = {workers}: several processes are for device=cpu; give workers=0")
        self.features, self.workers, self.refused = Features(clips, encoder, compared), workers, refused
        self._none: Frames = np.zeros((0, compared.width(encoder.dim)), dtype=np.float32)
        self._kept: dict[int, Frames] = {}
        self._free = int(memory_gb * 2**30)

    def __call__(self, order: Sequence[int]) -> Iterator[Frames]:
        """The features of each clip of `order`, which names none twice.

        Raises:
            ValueError: a clip too many cannot be read; names it.
        """
        made = iter(self._made([index for index in order if index not in self._kept]))
        for index in order:
            found = self._kept[index] if index in self._kept else next(made)
            if isinstance(found, ValueError):
                if self.refused is None:
                    raise found
                self.refused.add(self.features.clips.name(index), found)
                found = self._none
            if index not in self._kept and found.nbytes <= self._free:
                self._kept[index] = found
                self._free -= found.nbytes
            yield found

    def _made(self, order: list[int]) -> Any:
        workers = min(self.workers, len(order))
        seeded = torch.Generator()  # the loader draws a seed for its workers, who draw nothing
        return DataLoader(
            self.features, batch_size=None, sampler=order, num_workers=workers, collate_fn=as_is, generator=seeded
        )


def as_is(found: Any) -> Any:
    """Arrays travel as they are, not as tensors in shared memory, which containers are short of."""
    return found
