"""A pretrained speech encoder, cut at one layer: 16 kHz waveforms in, features out, exactly N // hop frames.

    hidden_states[0]   what enters block 1
    hidden_states[k]   what leaves block k

Families of transformers: wav2vec2, hubert, wavlm, wav2vec2-bert. Blocks above the layer are never loaded. Code from a
hub is never run, and pickles are only read with `weights_only`. Knows no clusters.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    HubertModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
)
from transformers.utils import logging as reports

from triptych.tokenizers.semantic.filterbank import MELS, SAMPLE_RATE
from triptych.tokenizers.semantic.inputs import FrontEnd, encoder_input, filterbank_front_end, wave_front_end
from triptych.tokenizers.waveform import Waveform

FAMILIES: dict[str, type[PreTrainedModel]] = {
    "wav2vec2": Wav2Vec2Model,
    "hubert": HubertModel,
    "wavlm": WavLMModel,
    "wav2vec2-bert": Wav2Vec2BertModel,
}
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, UnpicklingError, SafetensorError)
"""what transformers raises on a folder that is no checkpoint, or a broken one"""


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and its report on the blocks that were left out on purpose."""
    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()


class Encoder:
    """Made by `load`."""

    def __init__(self, model: PreTrainedModel, front: FrontEnd, layer: int, *, equal_lengths: bool) -> None:
        self.model = model
        self.front = front
        self.layer = layer
        self.equal_lengths = equal_lengths
        """a group norm hears the padding of a batch: such encoders only take clips of one length at a time"""
        self.batch_samples = 0
        """padded samples of a batch; 0 hears one clip at a time, so that no clip depends on its neighbours"""

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

    @classmethod
    def load(cls, name: str | Path, layer: int, *, device: str | torch.device = "cpu") -> "Encoder":
        """Reads a transformers folder, or a hub id, in fp32, up to `layer`.

        Raises:
            ValueError: not a checkpoint of one of the four families, a layer that it has not, weights that are missing
                or a front end that does not fit; one line.
        """
        config = _read(name, "config.json", lambda: AutoConfig.from_pretrained(name, trust_remote_code=False))
        family = str(config.model_type)
        if family not in FAMILIES:
            raise ValueError(f"{name} is a checkpoint of '{family}', not of a speech encoder: {', '.join(FAMILIES)}")
        if not 0 <= layer <= config.num_hidden_layers:
            raise ValueError(f"{name} has layers 0 to {config.num_hidden_layers}, not {layer}")
        front = _front_end(name, config)
        config.num_hidden_layers = max(1, layer)
        if family == "wav2vec2-bert":
            config.add_adapter = config.use_intermediate_ffn_before_adapter = False
        model, report = _read(
            name,
            "the weights",
            lambda: FAMILIES[family].from_pretrained(
                name, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            ),
        )
        missing = sorted(key for key in report["missing_keys"] if key != "masked_spec_embed")
        if missing or report["mismatched_keys"]:
            wrong = missing or sorted(str(key) for key in report["mismatched_keys"])
            raise ValueError(f"{name}: {len(wrong)} weights are missing or of another shape, {wrong[0]} among them")
        model.eval().requires_grad_(False).to(device)
        return cls(model, front, layer, equal_lengths=getattr(config, "feat_extract_norm", "layer") == "group")

    def round(self) -> None:
        """Rounds the weights to float16 in place, the precision that `save` writes.

        Raises:
            ValueError: a weight that float16 cannot hold.
        """
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                rounded = value.half().float()
                if not rounded.isfinite().all():
                    raise ValueError(f"weight {name} of the encoder does not fit float16")
                value.copy_(rounded)

    def save(self, folder: Path) -> None:
        """A transformers folder with the blocks up to the layer, in float16."""
        with quiet():
            copy.deepcopy(self.model).half().save_pretrained(folder)
        common: dict[str, Any] = {"sampling_rate": SAMPLE_RATE, "padding_value": 0.0, "return_attention_mask": True}
        if self.front.wave:
            extractor: Any = Wav2Vec2FeatureExtractor(feature_size=1, do_normalize=self.front.normalise, **common)
        else:
            extractor = SeamlessM4TFeatureExtractor(
                feature_size=MELS, num_mel_bins=MELS, stride=self.front.stride, **common
            )
        extractor.save_pretrained(folder)

    @torch.no_grad()
    def features(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """Waveforms [N] at 16 kHz -> features [N // hop, D] of each, fp32, on the CPU."""
        found = [torch.zeros(0, self.dim) for _ in waveforms]
        frames = [self.front.frames(len(waveform)) for waveform in waveforms]
        inputs = [encoder_input(w, self.front) if t else None for w, t in zip(waveforms, frames, strict=True)]
        for rows in self._batches([len(waveform) for waveform in waveforms], frames):
            hidden = self._forward([x for row in rows if (x := inputs[row]) is not None])
            for place, row in enumerate(rows):
                found[row] = hidden[place, : frames[row]].float().cpu()
                assert len(found[row]) == frames[row]
        return found

    def _batches(self, samples: Sequence[int], frames: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for row in sorted((row for row in range(len(samples)) if frames[row]), key=lambda row: samples[row]):
            full = samples[row] * (len(batch) + 1) > self.batch_samples
            if batch and (full or (self.equal_lengths and samples[row] != samples[batch[0]])):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _forward(self, inputs: Sequence[NDArray[np.float32]]) -> Tensor:
        device = self.model.device
        lengths = torch.tensor([len(x) for x in inputs])
        padded = torch.zeros(len(inputs), int(lengths.max()), *inputs[0].shape[1:])
        for row, x in enumerate(inputs):
            padded[row, : len(x)] = torch.from_numpy(x)
        mask = None
        if int(lengths.min()) < int(lengths.max()):
            mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long().to(device)
        kept: list[Tensor] = []
        encoder: Any = self.model.encoder
        block = encoder.layers[max(0, self.layer - 1)]

        def enters(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            kept.append(given[0] if given else named["hidden_states"])

        def leaves(_: Any, __: Any, out: Any) -> None:
            kept.append(out[0] if isinstance(out, tuple) else out)

        hook = (
            block.register_forward_hook(leaves)
            if self.layer
            else block.register_forward_pre_hook(enters, with_kwargs=True)
        )
        try:
            self.model(padded.to(device), attention_mask=mask)
        finally:
            hook.remove()
        return kept[0]


def _read(name: str | Path, what: str, read: Any) -> Any:
    try:
        with quiet():
            return read()
    except UNREADABLE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{name} is not a speech encoder that can be read ({what}): {lines[0]}") from None


def _front_end(name: str | Path, config: Any) -> FrontEnd:
    """The way in, from preprocessor_config.json."""
    what = "preprocessor_config.json"
    if config.model_type == "wav2vec2-bert":
        mels = _read(name, what, lambda: SeamlessM4TFeatureExtractor.from_pretrained(name))
        _check_rate(name, mels.sampling_rate)
        if (mels.num_mel_bins, mels.stride * MELS) != (MELS, config.feature_projection_input_dim):
            raise ValueError(
                f"{name}: {mels.stride} x {mels.num_mel_bins} filterbanks do not make the "
                f"{config.feature_projection_input_dim} inputs of the encoder"
            )
        return filterbank_front_end(mels.stride)
    waves = _read(name, what, lambda: Wav2Vec2FeatureExtractor.from_pretrained(name))
    _check_rate(name, waves.sampling_rate)
    return wave_front_end(config.conv_kernel, config.conv_stride, bool(waves.do_normalize))


def _check_rate(name: str | Path, rate: int) -> None:
    if rate != SAMPLE_RATE:
        raise ValueError(f"{name} hears {rate} Hz; encoders of {SAMPLE_RATE} Hz are supported")
