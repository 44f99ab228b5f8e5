"""Three kinds of codec behind one face, each with the model that transformers has for it.

    family    frames                               levels                              a clip that ends within a frame
    encodec   hop = its ratios multiplied          each quantizes what the last left   reflected, layer by layer
    dac       likewise                             likewise, each in a small space     zeros up to the whole frame
    mimi      … times that of its downsampling     0 alone (semantic), then a chain    zeros up to the whole frame

Each takes samples [N] to ids [Q, T'], T' = ceil(N / hop), and ids [q, T'] to T' · hop samples, as its own package does
(Défossez et al. 2022; Kumar et al. 2023; Défossez et al. 2024). All levels of a frame share one rate, which is what
makes a grid of them. Refused, since they have none:

  - EnCodec 48 kHz: stereo, cut in chunks of a second, each divided by its own loudness. The codes of a chunk do not say
    how loud it is, and a language model over codes could not tell the decoder.
  - SNAC: its levels run at rates of their own, each a half of the next.

Knows no file, no resampling and no fingerprint.
"""

import math
from collections.abc import Iterator
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, pad


class Codec(Protocol):
    """What a family tells of its model, and does with it. The model is in float32 and in evaluation mode."""

    name: str
    """encodec, dac or mimi"""
    sample_rate: int
    """Hz"""
    hop: int
    """samples a frame"""
    levels: int
    """all that the model has"""
    size: int
    """entries of a level"""
    settings: dict[str, Any]
    """what decides the codes beside the weights, where the weights alone do not say it"""

    def encode(self, samples: Tensor, levels: int) -> Tensor:
        """Ids [levels, ceil(N / hop)] of samples [N]."""

    def decode(self, ids: Tensor, shift: Tensor | None = None) -> Tensor:
        """Samples [T' · hop] of ids [q, T'], with any q from 1 to `levels`; shift [D, T'] is added to their latent."""

    def entries(self, level: int) -> Tensor:
        """[size, D]: what each entry of a level adds to the latent."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that decide the codes, under names that no version of transformers changes."""


class Encodec:
    """EnCodec: facebook/encodec_24khz, facebook/encodec_32khz, and what `fit acoustic` trains."""

    name = "encodec"

    def __init__(self, model: Any) -> None:
        config = model.config
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s:
            raise ValueError(
                "this EnCodec model is stereo, normalised or cut in chunks, so its codes lie on no [Q, T'] grid: "
                "use a mono one such as facebook/encodec_24khz"
            )
        self.model = model
        for layer in model.decoder.modules():
            if isinstance(layer, nn.ConvTranspose1d):
                layer.forward = MethodType(transposed, layer)  # type: ignore[method-assign]
        self.sample_rate, self.hop = config.sampling_rate, config.hop_length
        self.levels, self.size = config.num_quantizers, config.codebook_size
        self.settings: dict[str, Any] = {}

    def encode(self, samples: Tensor, levels: int) -> Tensor:
        residual, codes = self.model.encoder(samples[None, None]), []
        for layer in self.model.quantizer.layers[:levels]:
            ids = layer.encode(residual)
            residual = residual - layer.decode(ids)
            codes.append(ids[0])
        return torch.stack(codes)

    def decode(self, ids: Tensor, shift: Tensor | None = None) -> Tensor:
        layers = zip(self.model.quantizer.layers, ids, strict=False)
        latent = torch.stack([layer.decode(row[None]) for layer, row in layers]).sum(0)
        sound: Tensor = self.model.decoder(latent if shift is None else latent + shift)[0, 0]
        return sound[: ids.shape[1] * self.hop]

    def entries(self, level: int) -> Tensor:
        found: Tensor = self.model.quantizer.layers[level].codebook.embed
        return found

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return _under(self.model.state_dict(), "encoder.", "quantizer.")


def transposed(layer: nn.ConvTranspose1d, hidden: Tensor) -> Tensor:
    """EnCodec's transposed convolution, [B, C, T] to [B, C', (T - 1) · stride + kernel], as one matrix product.

    oneDNN, which torch asks on a CPU, takes up to four seconds to make this layer for a length that is new to it; the
    product takes as long as the layer, once that is made.
    """
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    columns = layer.weight.flatten(1).t() @ hidden
    length = (hidden.shape[-1] - 1) * stride + kernel
    made = fold(columns, (1, length), (1, kernel), stride=(1, stride))[:, :, 0]
    return made if layer.bias is None else made + layer.bias[:, None]


class Dac:
    """Descript's codec: descript/dac_16khz, dac_24khz, dac_44khz."""

    name = "dac"

    def __init__(self, model: Any) -> None:
        config = model.config
        self.model = model
        # not config.hop_length: the published config of dac_24khz says 512, and its ratios say 320
        self.sample_rate, self.hop = config.sampling_rate, math.prod(config.downsampling_ratios)
        self.levels, self.size = config.n_codebooks, config.codebook_size
        self.settings = {"name": self.name, "sample_rate": self.sample_rate, "ratios": list(config.downsampling_ratios)}

    def encode(self, samples: Tensor, levels: int) -> Tensor:
        codes: Tensor = self.model.encode(whole_frames(samples, self.hop)[None, None], n_quantizers=levels).audio_codes
        return codes[0]

    def decode(self, ids: Tensor, shift: Tensor | None = None) -> Tensor:
        latent = self.model.quantizer.from_codes(ids[None])[0]
        sound: Tensor = self.model.decoder(latent if shift is None else latent + shift)[0, 0]
        return pad(sound, (0, ids.shape[1] * self.hop - len(sound)))  # odd ratios leave the last few samples out

    @torch.inference_mode()
    def entries(self, level: int) -> Tensor:
        quantizer = self.model.quantizer.quantizers[level]
        found: Tensor = quantizer.out_proj(quantizer.codebook.weight.t()[None])[0].t()
        return found

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return _under(self.model.state_dict(), "encoder.", "quantizer.")


class Mimi:
    """Kyutai's codec, kyutai/mimi. Level 0 was taught by a speech encoder and carries most of what is said."""

    name = "mimi"

    def __init__(self, model: Any) -> None:
        config = model.config
        if config.audio_channels != 1:
            raise ValueError("this Mimi model is stereo: use a mono one such as kyutai/mimi")
        self.model = model
        self.sample_rate, self.hop = config.sampling_rate, math.prod(config.upsampling_ratios) * config.latent_stride
        self.levels, self.size = config.num_quantizers, config.codebook_size
        decide = (
            "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "hidden_act", "norm_eps",
            "pad_mode", "use_causal_conv", "num_semantic_quantizers",
        )  # fmt: skip
        self.settings = {"name": self.name, "sample_rate": self.sample_rate, "ratios": list(config.upsampling_ratios)}
        self.settings |= {key: getattr(config, key) for key in decide}
        self.settings["rope_theta"] = float(config.rope_parameters["rope_theta"])

    def encode(self, samples: Tensor, levels: int) -> Tensor:
        whole = whole_frames(samples, self.hop)[None, None]
        codes: Tensor = self.model.encode(whole, num_quantizers=levels).audio_codes
        return codes[0]

    def decode(self, ids: Tensor, shift: Tensor | None = None) -> Tensor:
        assert shift is None, "nobody knows its entries"
        sound: Tensor = self.model.decode(ids[None]).audio_values[0, 0]
        return sound

    def entries(self, level: int) -> Tensor:
        raise ValueError("expected_levels: Mimi's entries are not known here; leave it at 0")

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        flat = {}  # as kyutai/mimi names them; newer versions of transformers keep encoder and decoder as two halves
        for name, tensor in self.model.state_dict().items():
            for part in ("encoder_seanet.", "encoder_transformer.", "downsample."):
                name = name.replace(f"encoder.{part}", part)
            flat[name.replace("encoder_seanet.", "encoder.")] = tensor
        return _under(flat, "encoder.", "encoder_transformer.", "downsample.", "quantizer.")


def family_of(model: Any) -> Codec:
    """The family of a model of transformers: an EncodecModel, DacModel or MimiModel."""
    families: dict[str, type[Codec]] = {"encodec": Encodec, "dac": Dac, "mimi": Mimi}
    return families[model.config.model_type](model)  # type: ignore[call-arg]


def whole_frames(samples: Tensor, hop: int) -> Tensor:
    """Samples [N] with zeros up to a whole number of frames."""
    return pad(samples, (0, -len(samples) % hop))


def _under(state: dict[str, Tensor], *prefixes: str) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in sorted(state.items()) if name.startswith(prefixes))
