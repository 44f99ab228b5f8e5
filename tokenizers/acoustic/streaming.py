"""EnCodec's encoder, a span of a clip at a time, with the codes of the clip heard whole.

    clip    [====span 0====][====span 1====][=====span 2======]      a short rest belongs to the last span
                            ↑ each convolution keeps the last samples that it has heard, the LSTM its state

Every layer of a causal EnCodec looks back only, so that a span with the layers' memory gives the very frames of the
whole, and an hour takes the memory of a minute. On a CPU clips go one by one, which is no slower than several at once,
and sums are those of the whole to the bit, up to `PIECE_FRAMES` for the LSTM: a convolution adds up alike in spans that
are not tiny. The first layers, of few channels and many samples, run with the channels innermost: the first
convolution then takes a sixteenth of its time, and its sums are the same.

On a GPU clips are encoded together, with zeros at the end, which a causal model hears too late; sums round otherwise
there. Clips that end within a frame, or are hardly longer than the last convolution looks back, where layers mirror
their beginning and end, are encoded alone. Knows no file and no fingerprint.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

SPAN_SAMPLES = 61_440
"""about so many, of a span on a CPU"""
SHORTEST_SPAN = 64
"""frames; the convolutions of shorter ones are too small for the kernels that a whole clip gets"""
PIECE_FRAMES = 4096
"""of a clip go through the LSTM and the quantizer at a time"""
NARROW = 16
"""channels, up to which a convolution's input has them innermost"""
ROUND_FRAMES = 32
"""to which clips are lengthened with zeros: a processor's kernels are made anew for each length, which takes as long"""
SHORTEST_FRAMES = 16
"""of a clip that is encoded beside others"""

Memory = dict[int, Any]
"""layer -> what it has heard: the last samples of a convolution [B, C, 1, n], the state of an LSTM"""


def can_stream(model: Any) -> bool:
    """Whether the encoder of an EncodecModel looks back only."""
    return bool(model.config.use_causal_conv) and model.config.norm_type == "weight_norm"


def encode_clips(model: Any, clips: Sequence[Tensor], levels: int) -> list[Tensor]:
    """Ids [levels, ceil(N / hop)] of each clip [N], for a model that `can_stream`; int32, on the CPU."""
    hop, on_cpu = model.config.hop_length, next(model.parameters()).device.type == "cpu"
    together = [] if on_cpu else [i for i, clip in enumerate(clips) if not len(clip) % hop]
    together = [i for i in together if len(clips[i]) >= SHORTEST_FRAMES * hop]
    found: dict[int, Tensor] = {}
    with parametrize.cached():  # weight norm is worked out once, not once a span
        for batch in [together, *([i] for i in range(len(clips)) if i not in together)]:
            found |= zip(batch, _encode_batch(model, [clips[i] for i in batch], levels), strict=True)
    return [found[i] for i in range(len(clips))]


def _encode_batch(model: Any, clips: Sequence[Tensor], levels: int) -> list[Tensor]:
    """Clips of whole frames, or one of any length."""
    if not clips:
        return []
    hop, device = model.config.hop_length, next(model.parameters()).device
    layers = list(model.encoder.layers)
    lstm = next(i for i, layer in enumerate(layers) if type(layer).__name__ == "EncodecLSTM")
    memory: Memory = {}
    ids, longest = [], max(map(len, clips))
    if longest >= SHORTEST_SPAN * hop and longest % hop == 0:
        longest += -longest % (ROUND_FRAMES * hop)
    span = max(SHORTEST_SPAN, SPAN_SAMPLES // hop) if device.type == "cpu" else PIECE_FRAMES
    for piece, end in cuts(0, longest, PIECE_FRAMES * hop):
        latents = []
        for first, last in cuts(piece, end, span * hop):
            heard = torch.zeros(len(clips), last - first)
            for row, clip in zip(heard, clips, strict=True):
                row[: max(0, len(clip) - first)] = clip[first:last]
            latents.append(run(layers[:lstm], heard[:, None, None].to(device), memory))
        latent = run(layers[lstm:], torch.cat(latents, dim=-1), memory)
        ids.append(quantize(model, latent[:, :, 0].float(), levels).to(torch.int32).cpu())
    joined = torch.cat(ids, dim=2)
    return [joined[row, :, : -(-len(clip) // hop)] for row, clip in enumerate(clips)]


def cuts(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """[begin, end) in steps, the last of which is one to two steps long."""
    while end - begin >= 2 * step:
        yield begin, begin + step
        begin += step
    yield begin, end


def quantize(model: Any, latent: Tensor, levels: int) -> Tensor:
    """Latent [B, D, T'] to ids [B, levels, T'], in float32: each level takes what the ones before left."""
    ids = []
    with torch.autocast(latent.device.type, enabled=False):
        for layer in model.quantizer.layers[:levels]:
            ids.append(layer.encode(latent))
            latent = latent - layer.decode(ids[-1])
    return torch.stack(ids, dim=1)


def run(layers: Any, x: Tensor, memory: Memory) -> Tensor:
    """[B, C, 1, n] through layers of an EncodecEncoder, after what `memory` says came before."""
    from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecLSTM, EncodecResnetBlock

    for number, layer in enumerate(layers):
        if isinstance(layer, EncodecConv1d):
            x = convolve(layer, x, memory)
        elif isinstance(layer, EncodecResnetBlock):
            inner = run(layer.block, x, memory)
            x = (convolve(layer.shortcut, x, memory) if isinstance(layer.shortcut, EncodecConv1d) else x) + inner
        elif isinstance(layer, EncodecLSTM):
            steps = x[:, :, 0].permute(2, 0, 1)
            out, memory[id(layer)] = layer.lstm(steps, memory.get(id(layer)))
            x = (out + steps).permute(1, 2, 0)[:, :, None]
        else:  # in place, but where a block begins: its shortcut needs what came in
            x = torch.nn.functional.elu(x, layer.alpha, inplace=number > 0)
    return x


def convolve(layer: Any, x: Tensor, memory: Memory) -> Tensor:
    """An EncodecConv1d; the model's own padding stands before the first samples of a clip, and after the last."""
    conv = layer.conv
    stride, reach = conv.stride[0], conv.dilation[0] * (conv.kernel_size[0] - 1) + 1
    back, missing = reach - stride, -x.shape[-1] % stride
    before = memory.get(id(layer))
    if before is None and back and layer.pad_mode == "constant":
        before = x.new_zeros((*x.shape[:-1], back))
    elif before is None and back and layer.pad_mode == "reflect" and x.shape[-1] > back:
        before = x[..., 1 : back + 1].flip(-1)
    left = back if before is None else 0
    order = torch.channels_last if conv.in_channels <= NARROW else torch.contiguous_format
    if before is not None:  # torch.cat would give the order up
        both = torch.empty((*x.shape[:-1], back + x.shape[-1]), dtype=x.dtype, device=x.device, memory_format=order)
        both[..., :back], both[..., back:] = before, x
        x = both
    if left or missing:
        x = layer._pad1d(x[:, :, 0], (left, missing), mode=layer.pad_mode)[:, :, None]
    if back:
        memory[id(layer)] = x[..., -back:]
    if conv.in_channels > NARROW:
        out: Tensor = conv(x[:, :, 0].contiguous())
        return out[:, :, None]
    weight, x = conv.weight[:, :, None].contiguous(memory_format=order), x.contiguous(memory_format=order)
    out = torch.nn.functional.conv2d(x, weight, conv.bias, (1, stride), dilation=(1, conv.dilation[0]))
    return out if conv.out_channels <= NARROW else out.contiguous()
