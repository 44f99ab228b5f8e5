"""A pretrained speech encoder, cut at one layer: 16 kHz waveforms in, features out, exactly N // hop frames.

    hidden_states[0]   what enters block 1
    hidden_states[k]   what leaves block k

    a clip        ──────────────────────────────────────────▶ [N // hop, D]    alone, or in a batch with others
    a long one    ──moments of the whole──▶ windows ──cut──▶ [N // hop, D]    piece by piece

Whisper always hears 30 s, so clips are followed by silence up to there, and that silence is attended to: a clip's
features depend, a little, on how long it is. Longer recordings come in windows of 30 s at most. Frames are kept to
N // 320; of the 1500 that it makes, the rest belong to the silence.

Invariant: a clip's features depend on that clip alone, in a batch to rounding. Knows no clusters.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from triptych.tokenizers.hub import expanded
from triptych.tokenizers.semantic.families import quiet, read_model, save_front_end
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.semantic.inputs import FrontEnd, encoder_input, parts_of, unit_variance, whole_of
from triptych.tokenizers.semantic.moments import Moments
from triptych.tokenizers.semantic.padding import Padding
from triptych.tokenizers.semantic.windows import Span, Windows, spans
from triptych.tokenizers.waveform import Waveform
from triptych.training.device import pick_device
from triptych.training.precision import Dtype, check_bf16

__all__ = ["Encoder", "quiet"]


class Encoder:
    """Made by `load`, or of a model and its way in."""

    def __init__(
        self,
        model: PreTrainedModel,
        front: FrontEnd,
        layer: int,
        *,
        windows: Windows | None = None,
        dtype: Dtype = "fp32",
    ) -> None:
        """
        Raises:
            ValueError: bf16 where this processor has none, or gets it wrong.
        """
        self.model = model.eval().requires_grad_(False)
        self.front = front
        self.layer = layer
        self.windows = windows or Windows()
        self.dtype = dtype
        self.batch_samples = 0
        """padded samples of a batch; 0 hears one clip at a time, so that no clip depends on its neighbours"""
        check_bf16(dtype, self.model)
        self._padding = Padding(model, front)

    @property
    def family(self) -> str:
        return str(self.model.config.model_type)

    @property
    def hop(self) -> int:
        """Samples a frame, at 16 kHz."""
        return self.front.hop

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def window_samples(self) -> int:
        """Whole frames of a window; longer recordings are heard in several."""
        window = int(self.windows.seconds * SAMPLE_RATE) // self.hop * self.hop
        return min(window, self.front.longest) if self.front.longest else window

    @classmethod
    def load(
        cls,
        name: str | Path,
        layer: int,
        *,
        device: str | torch.device = "cpu",
        windows: Windows | None = None,
        dtype: Dtype = "fp32",
    ) -> "Encoder":
        """Reads a transformers folder, a hub id or a checkpoint file of fairseq2, up to `layer`; weights in fp32.

        Raises:
            ValueError: not a checkpoint of one of the families, a layer that it has not, weights that are missing
                or a front end that does not fit; one line.
        """
        name = expanded(name)
        if Path(name).is_file():
            from triptych.tokenizers.semantic.fairseq2 import read_checkpoint

            model, front = read_checkpoint(Path(name), layer)
        else:
            model, front = read_model(name, layer)
        moved: Any = model.to(pick_device(device, "device"))  # type: ignore[arg-type]
        return cls(moved, front, layer, windows=windows, dtype=dtype)

    def round(self) -> None:
        """Rounds the weights to float16 in place, the precision that `save` writes.

        Raises:
            ValueError: a weight that float16 cannot hold.
        """
        round_weights(self.model)

    def save(self, folder: Path) -> None:
        """A transformers folder with the blocks up to the layer, in float16."""
        with quiet():  # Whisper's encoder stands alone here, and not behind the names of the model it was read from
            original = self.family != "whisper"
            copy.deepcopy(self.model).half().save_pretrained(folder, save_original_format=original)
        save_front_end(self.front, folder)

    @torch.no_grad()
    def features(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """Waveforms [N] at 16 kHz -> features [N // hop, D] of each, fp32, on the CPU."""
        found = [torch.zeros(self.front.frames(len(waveform)), self.dim) for waveform in waveforms]
        for rows in self._batches([len(waveform) for waveform in waveforms]):
            heard = [waveforms[row][: self.front.longest or None] for row in rows]
            hidden = self.hidden([encoder_input(waveform, self.front) for waveform in heard])
            for frames, row in zip(hidden, rows, strict=True):
                found[row].copy_(frames[: len(found[row])])
        for row, waveform in enumerate(waveforms):
            if len(waveform) >= self.window_samples + self.hop:
                begin = 0
                for piece in self.pieces(waveform):
                    found[row][begin : begin + len(piece)] = piece
                    begin += len(piece)
        return found

    @torch.no_grad()
    def pieces(self, waveform: Waveform) -> Iterator[Tensor]:
        """The frames of a waveform [N] at 16 kHz in order, as [t, D] a window; holds no more than a batch of windows.

        Normalised by the moments of all of it, the group norm of the first convolution as well.
        """
        window, frames = self.window_samples // self.hop, self.front.frames(len(waveform))
        overlap = min(int(self.windows.overlap * SAMPLE_RATE) // self.hop, window // 2)
        whole = whole_of(waveform, self.front)
        heard_in_whole = self._padding.moments(
            unit_variance(part, whole.moments) if whole else part for part in parts_of(waveform)
        )
        waiting = iter(spans(frames, window, overlap))
        together = max(1, self.batch_samples // self.window_samples)
        while batch := list(islice(waiting, together)):
            heard = [encoder_input(self._samples(waveform, span, frames), self.front, whole) for span in batch]
            for span, hidden in zip(batch, self.hidden(heard, heard_in_whole), strict=True):
                yield hidden[span.first - span.begin : span.last - span.begin]

    def _samples(self, waveform: Waveform, span: Span, frames: int) -> Waveform:
        end = len(waveform) if span.end == frames and not self.front.longest else span.end * self.hop
        return waveform[span.begin * self.hop : end]

    def _batches(self, samples: Sequence[int]) -> Iterator[list[int]]:
        """Rows of about one length that are heard together: those of a frame to a window."""
        batch: list[int] = []
        short = range(self.hop, self.window_samples + self.hop)
        for row in sorted((row for row, count in enumerate(samples) if count in short), key=samples.__getitem__):
            if batch and (self.front.longest or samples[row]) * (len(batch) + 1) > self.batch_samples:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def hidden(self, inputs: Sequence[NDArray[np.float32]], whole: Moments | None = None) -> Tensor:
        """Inputs [n, ...] of several lengths n -> hidden states [B, T, D] of the layer, fp32, on the CPU.

        Args:
            whole: what the group norm takes for the moments of each row; None: the row's own.
        """
        lengths = [len(x) for x in inputs]
        padded = torch.zeros(len(inputs), max(lengths), *inputs[0].shape[1:])
        for row, x in enumerate(inputs):
            padded[row, : len(x)] = torch.from_numpy(x)
        self._padding.lengths = lengths if min(lengths) < max(lengths) else None
        self._padding.whole = whole
        kept: list[Tensor] = []
        hook = self._listen(kept, self.layer)
        try:
            with self._arithmetic():
                self._hear(padded.to(self.model.device), self._padding.lengths)
        finally:
            hook.remove()
            self._padding.lengths = self._padding.whole = None
        return kept[0].float().cpu()

    def _hear(self, padded: Tensor, lengths: list[int] | None) -> None:
        """Runs the model over a batch [B, n, ...]; `lengths` of its rows where they differ."""
        mask = None
        if lengths is not None:
            mask = (torch.arange(padded.shape[1])[None] < torch.tensor(lengths)[:, None]).long().to(padded.device)
        self.model(padded, attention_mask=mask)

    @property
    def _blocks(self) -> Any:
        return getattr(self.model, "encoder", self.model).layers

    def states(self, heard: Tensor) -> list[Tensor]:
        """Input of one length [B, n, ...] -> hidden states 1 to `layer` [B, T, D] (of layer 0: that one), in the
        arithmetic of the caller; gradients pass."""
        kept: list[Tensor] = []
        hooks = [self._listen(kept, layer) for layer in range(min(1, self.layer), self.layer + 1)]
        try:
            self._hear(heard, None)
        finally:
            for hook in hooks:
                hook.remove()
        return kept

    def _listen(self, kept: list[Tensor], layer: int) -> Any:
        block = self._blocks[max(0, layer - 1)]

        def enters(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            kept.append(given[0] if given else named["hidden_states"])

        def leaves(_: Any, __: Any, out: Any) -> None:
            kept.append(out[0] if isinstance(out, tuple) else out)

        if layer:
            return block.register_forward_hook(leaves)
        return block.register_forward_pre_hook(enters, with_kwargs=True)

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """bf16: products of matrices and convolutions; sums, norms and softmax stay in fp32."""
        if self.dtype == "fp32":
            return nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)


def round_weights(module: torch.nn.Module) -> None:
    """To float16 and back, in place.

    Raises:
        ValueError: a weight that float16 cannot hold.
    """
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            rounded = value.half().float()
            if not rounded.isfinite().all():
                raise ValueError(f"weight {name} of the encoder does not fit float16")
            value.copy_(rounded)
