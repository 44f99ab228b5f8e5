"""Semantic tokens: waveform -> encoder features -> id of the nearest centroid.

    semantic/
      tokenizer.json            layer, rates, whether features are standardised; what a person wants to read; windows
                                and dtype where they are not the default
      centroids.safetensors     [K, D] float16
      encoder/                  a transformers folder, cut above the layer, float16; its CTC head where that is heard

    waveform --to 16 kHz--> [N] --encoder--> [N // hop, D] --compared.py--> nearest --> [N // hop]

Of a recording longer than a window only its samples are held: its features pass through a file that has no name.

Invariant: the ids of a clip depend on that clip and the fingerprint alone. Knows how nothing was fitted.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from triptych.tokenizers.hub import expanded
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.ctc_head import CtcHead
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.semantic.inputs import FrontEnd
from triptych.tokenizers.semantic.moments import Moments
from triptych.tokenizers.semantic.windows import Windows
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
    "conv_pos_kernel_size",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "activation_function",
    "scale_embedding",
)
"""keys of config.json that decide which features come out; others come and go with versions of transformers"""
ROWS = 10_000
"""frames that are compared with all centroids at once"""
SPOOL_BYTES = 1 << 28
"""of a long recording's features; more of them wait in a file for the moments of the whole"""


class SemanticTokenizer:
    """Made by `load`, or of its parts by a fit."""

    def __init__(self, encoder: Encoder, centroids: Tensor, compared: Compared, *, source: str = "") -> None:
        """`centroids` [K, D]; they and the weights are rounded to float16 here, before any token is made.

        Raises:
            ValueError: the centroids do not have the width of what they are compared with.
        """
        width = compared.width(encoder.dim)
        if centroids.dim() != 2 or centroids.shape[1] != width:
            raise ValueError(f"centroids of shape {list(centroids.shape)} do not fit features of {width} numbers")
        encoder.round()
        self.encoder = encoder
        self.centroids = centroids.half().float()
        self.compared = compared
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
                "front": front_record(self.encoder.front),
                "centroids": weights_digest({"centroids": self.centroids}),
                "standardise": self.compared.standardise,
                "resampler": "soxr HQ",
                "dtype": f"float16 weights, {self.encoder.dtype} arithmetic",
                **self._windows(),
                **self._phonemes(),
            }
        )

    def _phonemes(self) -> dict[str, Any]:
        """What the fingerprint knows of the phonemes that are heard."""
        head = self.compared.head
        if not self.compared.phonemes or head is None:
            return {}
        digest = weights_digest({"weight": head.weight, "bias": head.bias})
        return {"phonemes": self.compared.phonemes, "head": digest, "steps": head.steps}

    def _windows(self) -> dict[str, Any]:
        windows = self.encoder.windows
        return {} if windows == Windows() else {"windows": asdict(windows)}

    @classmethod
    def load(
        cls, folder: Path, *, device: str | torch.device = "cpu", batch_seconds: float = 0.0
    ) -> "SemanticTokenizer":
        """
        Args:
            batch_seconds: padded seconds that are heard together; 0: one clip at a time. Batches are faster on a GPU
                and round otherwise, so that a few ids in ten thousand may differ.
        Raises:
            ValueError: not such a folder, of a later format, or changed since it was written; one line.
        """
        folder = Path(expanded(folder))
        record = read_json(folder / "tokenizer.json")
        if not isinstance(record, dict) or record.get("kind") != "semantic":
            raise ValueError(f"{folder}: tokenizer.json does not describe a semantic tokenizer")
        if record.get("format") != FORMAT:
            raise ValueError(f"{folder} has format {record.get('format')}; not {FORMAT}: update triptych")
        try:
            centroids = load_file(folder / "centroids.safetensors")["centroids"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(f"{folder / 'centroids.safetensors'} cannot be read: {error}") from None
        encoder = Encoder.load(
            folder / "encoder",
            int(record["layer"]),
            device=device,
            windows=Windows(**record.get("windows", {})),
            dtype=record.get("dtype", "fp32"),
        )
        encoder.batch_samples = int(batch_seconds * SAMPLE_RATE)
        compared = Compared(bool(record["standardise"]))
        if phonemes := float(record.get("phonemes", 0.0)):
            compared = hearing(folder / "encoder", int(record["layer"]), bool(record["standardise"]), phonemes)
        loaded = cls(encoder, centroids, compared, source=str(record["source"]))
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
            if self.compared.phonemes and self.compared.head:
                self.compared.head.save(beside / "encoder")
            save_file({"centroids": self.centroids.half().contiguous()}, beside / "centroids.safetensors")
            record = {
                "format": FORMAT,
                **self.spec.to_json(),
                "layer": self.encoder.layer,
                "standardise": self.compared.standardise,
                **({"phonemes": self.compared.phonemes} if self.compared.phonemes else {}),
                "padding": self.encoder.front.padding,
                "normalise": self.encoder.front.normalise,
                "source": self.source,
                **({} if self.encoder.dtype == "fp32" else {"dtype": self.encoder.dtype}),
                **self._windows(),
            }
            write_json(beside / "tokenizer.json", record)

    def encode(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[NDArray[np.uint16]]:
        """Waveforms [N] -> ids [T] of each, T = floor(seconds * frame rate) exactly; shorter than a frame: none."""
        heard = [to_rate(waveform, sample_rate) for waveform in waveforms]
        found: list[NDArray[np.uint16]] = [np.zeros(0, dtype=np.uint16) for _ in heard]
        short = [row for row, waveform in enumerate(heard) if not self._is_long(waveform)]
        for row, frames in zip(short, self._whole([heard[row] for row in short]), strict=True):
            found[row] = self.assign(frames)
        for row in set(range(len(heard))) - set(short):
            found[row] = np.concatenate([self.assign(frames) for frames in self._pieces(heard[row])])
        return found

    def features(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Tensor]:
        """What the centroids are compared with: [T, D] of each waveform, fp32."""
        return self._whole([to_rate(waveform, sample_rate) for waveform in waveforms])

    def _whole(self, heard: Sequence[Waveform]) -> list[Tensor]:
        return [self.compared(frames) for frames in self.encoder.features(heard)]

    def _is_long(self, waveform: Waveform) -> bool:
        return len(waveform) >= self.encoder.window_samples + self.encoder.hop

    def _pieces(self, waveform: Waveform) -> Iterator[Tensor]:
        """What the centroids are compared with, of a long recording in order, [t, D] each; one is in memory."""
        pieces = self.encoder.pieces(waveform)
        if not self.compared.standardise:
            yield from map(self.compared, pieces)
            return
        dim = self.encoder.dim
        moments = Moments(dim)
        with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            for piece in pieces:
                frames = piece.numpy()
                moments.add(frames)
                spool.write(frames.tobytes())
            spool.seek(0)
            mean = torch.from_numpy(moments.mean).float()
            deviation = torch.from_numpy(moments.variance()).sqrt().float()
            while read := spool.read(ROWS * dim * 4):
                kept = torch.frombuffer(bytearray(read), dtype=torch.float32).view(-1, dim)
                yield self.compared(kept, (mean, deviation))

    def heard_in(self, tokens: NDArray[np.uint16]) -> Tensor | None:
        """What CTC hears in the centroids of tokens [T]: log-probabilities [T * steps, classes + 1]; None where tokens
        know no phonemes."""
        return self.compared.heard(self.centroids[torch.from_numpy(tokens.astype(np.int64))])

    def assign(self, frames: Tensor) -> NDArray[np.uint16]:
        """[T, D] -> [T], the nearest centroid of each frame (Euclidean, fp32)."""
        parts = frames.split(ROWS)
        near = [(self._squares - 2 * (part @ self.centroids.T)).argmin(dim=1) for part in parts]
        return torch.cat(near).numpy().astype(np.uint16)


def to_rate(waveform: Waveform, sample_rate: int) -> Waveform:
    """At 16 kHz, with exactly floor(N * 16000 / sample_rate) samples."""
    count = len(waveform) * SAMPLE_RATE // sample_rate
    if count == 0:
        return np.zeros(0, dtype=np.float32)
    resampled = resample(waveform, sample_rate, SAMPLE_RATE)[:count]
    return resampled if len(resampled) == count else np.pad(resampled, (0, count - len(resampled)))


def hearing(encoder: str | Path, layer: int, standardise: bool, phonemes: float) -> Compared:
    """Frames of `layer` with the phonemes beside them that the CTC head in the encoder's folder hears.

    Raises:
        ValueError: there is no head, or it reads another layer.
    """
    head = CtcHead.load(Path(encoder))
    if head is None:
        raise ValueError(
            f"phonemes: {encoder} has no CTC head (ctc.json): give an encoder that `fit encoder --text` made, or "
            "phonemes=0"
        )
    if head.layer != layer:
        raise ValueError(f"phonemes: the CTC head of {encoder} reads layer {head.layer}: give layer={head.layer}")
    return Compared(standardise, phonemes, head.rounded())


def front_record(front: FrontEnd) -> dict[str, Any]:
    """A way in as fingerprints know it: what only some families say is left out where it is not said."""
    return {key: value for key, value in asdict(front).items() if key not in ("mels", "longest", "floor_db") or value}


def weights_digest(weights: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and float16 values, whatever file they lie in."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {list(value.shape)}".encode())
        rounded = value.half() if value.is_floating_point() else value
        digest.update(rounded.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
