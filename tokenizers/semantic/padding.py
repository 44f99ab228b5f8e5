"""Keeps the padding of a batch away from its clips, and joins windows, where transformers does neither.

    group norm      of the first convolution (base sizes): mean and variance over time would count the padding, and
                    those of a window are not those of its recording
    position convs  data2vec-audio stacks five, HuBERT may have a norm in front: behind the first, padding is not zero

Each clip of a batch then gives what it gives alone. Attention masks are transformers' own. Knows no files.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.tokenizers.semantic.inputs import FrontEnd
from triptych.tokenizers.semantic.moments import Moments


class Padding:
    """Put on a model once; `lengths` is set around each batch with padding in it."""

    def __init__(self, model: nn.Module, front: FrontEnd) -> None:
        self.front = front
        self.lengths: list[int] | None = None
        """inputs that each row brings, silence at its sides among them; None: no row is padded"""
        self.whole: Moments | None = None
        """of the recording that the rows are windows of, behind the first convolution; None: each row is whole"""
        extractor: Any = getattr(model, "feature_extractor", None)
        first: Any = extractor.conv_layers[0] if extractor is not None else None
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = ClipNorm(first.layer_norm, first.conv, self)
            self.norm: ClipNorm | None = first.layer_norm
        else:
            self.norm = None
        positions: Any = getattr(getattr(model, "encoder", None), "pos_conv_embed", None)
        for module in positions.modules() if positions is not None else ():
            if isinstance(module, nn.Conv1d):
                module.register_forward_pre_hook(self._silence)

    def moments(self, parts: Iterable[NDArray[np.float32]]) -> Moments | None:
        """Of what a long recording gives behind the first convolution, from its samples [n] in parts.

        Frames that lie on two parts are not counted, two a part. None where no group norm asks.
        """
        if self.norm is None or self.norm.groups != len(self.norm.weight):
            return None
        found = Moments(self.norm.groups)
        for part in parts:
            if len(part) >= self.norm.kernel:
                rows = self.norm.conv(torch.from_numpy(part)[None, None].to(self.norm.weight.device))[0]
                variance, mean = torch.var_mean(rows, dim=1, correction=0)
                squares = variance.double().cpu().numpy() * rows.shape[1]
                found.merge(rows.shape[1], mean.double().cpu().numpy(), squares)
        return found

    def _silence(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Zeros the frames [B, D, T] behind each clip's last one."""
        if self.lengths is None:
            return None
        (frames,) = given
        samples = [length - 2 * self.front.padding for length in self.lengths]
        count = torch.tensor([self.front.frames(length) for length in samples], device=frames.device)
        behind = torch.arange(frames.shape[-1], device=frames.device) >= count[:, None]
        return (frames.masked_fill(behind[:, None], 0.0),)


class ClipNorm(nn.Module):
    """The group norm of a model, over the frames of each clip alone: same weights, same names."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv1d, padding: Padding) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps = norm.num_groups, norm.eps
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.padding, self.conv = padding, conv.forward

    def forward(self, found: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T] in fp32; zeros behind each clip."""
        found = found.float()
        lengths, whole = self.padding.lengths, self.padding.whole
        if whole is not None:
            mean, variance = (torch.from_numpy(x).to(found) for x in (whole.mean, whole.variance()))
            return nn.functional.batch_norm(found, mean, variance, self.weight, self.bias, eps=self.eps)
        if lengths is None:
            return nn.functional.group_norm(found, self.groups, self.weight, self.bias, self.eps)
        out = torch.zeros_like(found)
        for row, length in enumerate(lengths):
            count = (length - self.kernel) // self.stride + 1
            clip = found[row : row + 1, :, :count]
            out[row, :, :count] = nn.functional.group_norm(clip, self.groups, self.weight, self.bias, self.eps)[0]
        return out
