"""Semantic tokens: waveform -> encoder features -> id of the nearest centroid.

    semantic/
      tokenizer.json            layer, rates, whether features are standardised; what a person wants to read
      centroids.safetensors     [K, D] float16
      encoder/                  a transformers folder, cut above the layer, float16

    waveform --to 16 kHz--> [N] --encoder--> [N // hop, D] --standardise over the clip--> nearest --> [N // hop]

Invariant: the ids of a clip depend on that clip and the fingerprint alone. Knows how nothing was fitted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.waveform import Waveform, resample
from triptych.training.files import atomic_folder, fingerprint_of, read_json, write_json

FORMAT = 1
HEARD = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_extract_norm",
    "feat_extract_activation",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "num_buckets",
    "max_bucket_distance",
    "position_embeddings_type",
    "rotary_embedding_base",
    "left_max_position_embeddings",
    "right_max_position_embeddings",
    "conv_depthwise_kernel_size",
)
"""keys of config.json that decide which features come out; others come and go with versions of transformers"""


class SemanticTokenizer:
    """Made by `load`, or of its parts by a fit."""

    def __init__(self, encoder: Encoder, centroids: Tensor, *, standardise: bool, source: str = "") -> None:
        """`centroids` [K, D]; they and the weights are rounded to float16 here, before any token is made.

        Raises:
            ValueError: the centroids do not have the width of the encoder's features.
        """
        if centroids.dim() != 2 or centroids.shape[1] != encoder.dim:
            raise ValueError(f"centroids of shape {list(centroids.shape)} do not fit features of {encoder.dim} numbers")
        encoder.round()
        self.encoder = encoder
        self.centroids = centroids.half().float()
        self.standardise = standardise
        self.source = source
        self._squares = self.centroids.square().sum(dim=1)
        self.spec = TokenizerSpec(
            kind="semantic",
            name=encoder.family,
            size=len(centroids),
            sample_rate=SAMPLE_RATE,
            hop=encoder.hop,
            fingerprint=self._fingerprint(),
        )

    def _fingerprint(self) -> str:
        config: dict[str, Any] = self.encoder.model.config.to_dict()
        return fingerprint_of(
            {
                "format": FORMAT,
                "weights": weights_digest(self.encoder.model.state_dict()),
                "config": {key: config[key] for key in HEARD if key in config},
                "layer": self.encoder.layer,
                "front": asdict(self.encoder.front),
                "centroids": weights_digest({"centroids": self.centroids}),
                "standardise": self.standardise,
                "resampler": "soxr HQ",
                "dtype": "float16 weights, fp32 arithmetic",
            }
        )

    @classmethod
    def load(cls, folder: Path, *, device: str | torch.device = "cpu") -> "SemanticTokenizer":
        """
        Raises:
            ValueError: not such a folder, of a later format, or changed since it was written; one line.
        """
        folder = Path(folder)
        record = read_json(folder / "tokenizer.json")
        if not isinstance(record, dict) or record.get("kind") != "semantic":
            raise ValueError(f"{folder}: tokenizer.json does not describe a semantic tokenizer")
        if record.get("format") != FORMAT:
            raise ValueError(f"{folder} has format {record.get('format')}; not {FORMAT}: update triptych")
        try:
            centroids = load_file(folder / "centroids.safetensors")["centroids"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(f"{folder / 'centroids.safetensors'} cannot be read: {error}") from None
        encoder = Encoder.load(folder / "encoder", int(record["layer"]), device=device)
        loaded = cls(encoder, centroids, standardise=bool(record["standardise"]), source=str(record["source"]))
        if loaded.spec.fingerprint != record["fingerprint"]:
            raise ValueError(
                f"{folder} was written as {record['fingerprint']} and reads as {loaded.spec.fingerprint}: "
                "its files were changed; copy the folder again"
            )
        return loaded

    def save(self, folder: Path) -> None:
        """Writes the folder whole; it may not exist yet."""
        with atomic_folder(Path(folder)) as beside:
            self.encoder.save(beside / "encoder")
            save_file({"centroids": self.centroids.half().contiguous()}, beside / "centroids.safetensors")
            record = {
                "format": FORMAT,
                **self.spec.to_json(),
                "layer": self.encoder.layer,
                "standardise": self.standardise,
                "padding": self.encoder.front.padding,
                "normalise": self.encoder.front.normalise,
                "source": self.source,
            }
            write_json(beside / "tokenizer.json", record)

    def encode(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[NDArray[np.uint16]]:
        """Waveforms [N] -> ids [T] of each, T = floor(seconds * frame rate) exactly; shorter than a frame: none."""
        return [self.assign(frames) for frames in self.features(waveforms, sample_rate)]

    def features(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Tensor]:
        """What the centroids are compared with: [T, D] of each waveform, fp32, standardised where that is asked for."""
        heard = self.encoder.features([to_rate(waveform, sample_rate) for waveform in waveforms])
        return [standardised(frames) for frames in heard] if self.standardise else heard

    def assign(self, frames: Tensor) -> NDArray[np.uint16]:
        """[T, D] -> [T], the nearest centroid of each frame (Euclidean, fp32)."""
        distance = self._squares - 2 * (frames @ self.centroids.T)
        return distance.argmin(dim=1).numpy().astype(np.uint16)


def to_rate(waveform: Waveform, sample_rate: int) -> Waveform:
    """At 16 kHz, with exactly floor(N * 16000 / sample_rate) samples."""
    count = len(waveform) * SAMPLE_RATE // sample_rate
    if count == 0:
        return np.zeros(0, dtype=np.float32)
    resampled = resample(waveform, sample_rate, SAMPLE_RATE)[:count]
    return np.pad(resampled, (0, count - len(resampled)))


def standardised(frames: Tensor) -> Tensor:
    """Zero mean and unit variance of each feature over the clip [T, D]; takes most of the speaker out."""
    if len(frames) < 2:
        return torch.zeros_like(frames)
    variance, mean = torch.var_mean(frames, dim=0, correction=0)
    return (frames - mean) / (variance.sqrt() + 1e-5)


def weights_digest(weights: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and float16 values, whatever file they lie in."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {list(value.shape)}".encode())
        rounded = value.half() if value.is_floating_point() else value
        digest.update(rounded.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
