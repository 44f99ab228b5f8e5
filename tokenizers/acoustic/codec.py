"""EnCodec as an acoustic tokenizer: waveform [N] to codes [Q, T'] and back, through transformers.

    bundle/tokenizers/acoustic/
      config.json  model.safetensors  preprocessor_config.json     an ordinary EncodecModel folder
      tokenizer.json                                               levels kept; written by `save`

Invariant: T' = ceil(N / hop), and decode(codes) has T' · hop samples. Mono models that code a clip in one piece only.
Knows no language model.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.waveform import Waveform, resample
from triptych.training.files import fingerprint_of, read_json, write_json

Codes = NDArray[np.uint16]
"""[Q, T'] ids, each below codebook_size"""


class AcousticTokenizer:
    """An EncodecModel, cut to its first `num_levels` quantizer levels."""

    def __init__(self, model: Any, num_levels: int) -> None:
        config = model.config
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s:
            raise ValueError(
                "this EnCodec model is stereo, normalised or cut in chunks, so its codes lie on no [Q, T'] grid: "
                "use a mono one such as facebook/encodec_24khz"
            )
        available = config.num_quantizers
        if not 1 <= num_levels <= available:
            raise ValueError(f"levels={num_levels}: this codec has 1 to {available} levels")
        self.model = model.eval()
        self.spec = TokenizerSpec(
            kind="acoustic",
            name="encodec",
            size=config.codebook_size,
            sample_rate=config.sampling_rate,
            hop=config.hop_length,
            levels=num_levels,
            fingerprint=fingerprint_of({"weights": _digest(model), "levels": num_levels, "dtype": "float32"}),
        )

    @classmethod
    def load(cls, source: Path | str, num_levels: int | None = None) -> "AcousticTokenizer":
        """Loads a folder or a hub id such as facebook/encodec_24khz.

        Args:
            num_levels: quantizer levels to keep; by default those of tokenizer.json, else all of the model.
        Raises:
            ValueError: no EnCodec checkpoint there, or one that lies on no grid.
        """
        from transformers import EncodecModel

        settings = Path(source) / "tokenizer.json"
        if num_levels is None and settings.exists():
            num_levels = int(read_json(settings)["levels"])
        try:
            model = EncodecModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{source}: no EnCodec checkpoint that can be loaded: {str(error).splitlines()[0]}"
            ) from None
        return cls(model, num_levels or model.config.num_quantizers)

    def save(self, folder: Path) -> None:
        """Writes the transformers folder; weights keep the precision that they were rounded to."""
        from transformers import EncodecFeatureExtractor

        self.model.save_pretrained(folder)
        EncodecFeatureExtractor(feature_size=1, sampling_rate=self.spec.sample_rate).save_pretrained(folder)
        write_json(folder / "tokenizer.json", {"name": "encodec", "levels": self.spec.levels})

    @torch.inference_mode()
    def encode(self, waveform: Waveform, sample_rate: int) -> Codes:
        """Codes [Q, ceil(N / hop)] of a mono waveform [N]; resampled to the codec's rate first."""
        samples = torch.from_numpy(resample(waveform, sample_rate, self.spec.sample_rate))
        latent = self.model.encoder(samples[None, None])
        codes = self._quantizer_encode(latent)
        assert codes.shape[1] == math.ceil(len(samples) / self.spec.hop)
        return codes.to(torch.int32).numpy().astype(np.uint16)

    def _quantizer_encode(self, latent: torch.Tensor) -> torch.Tensor:
        residual, codes = latent, []
        for layer in self.model.quantizer.layers[: self.spec.levels]:
            ids = layer.encode(residual)
            residual = residual - layer.decode(ids)
            codes.append(ids[0])
        return torch.stack(codes)

    @torch.inference_mode()
    def decode(self, codes: NDArray[Any]) -> Waveform:
        """Waveform [T' · hop] of codes [q, T'], with any q up to the number of levels."""
        if codes.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        ids = torch.from_numpy(codes.astype(np.int64))
        latent = torch.stack(
            [layer.decode(row[None]) for layer, row in zip(self.model.quantizer.layers, ids, strict=False)]
        ).sum(0)
        waveform: torch.Tensor = self.model.decoder(latent)[0, 0]
        return np.asarray(waveform[: codes.shape[1] * self.spec.hop].float().numpy())


def _digest(model: Any) -> str:
    """Over encoder and quantizer: they decide which codes come out. A decoder may learn on under the same codes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("encoder.", "quantizer.")):
            digest.update(name.encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
