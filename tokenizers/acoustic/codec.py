"""A codec as the acoustic tokenizer: waveform [N] to codes [Q, T'] and back.

    bundle/tokenizers/acoustic/
      config.json  model.safetensors  preprocessor_config.json     an ordinary EncodecModel, DacModel or MimiModel
      tokenizer.json                                               levels kept; written by `save`
      postfilter.json  postfilter.safetensors                      where there is one: postfilter.py

Invariant: T' = ceil(N / hop), decode(codes) has T' · hop samples, and a tokenizer computes in float32 with the very
numbers that `save` writes. What the families do differently stands in families.py. Knows no language model.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.tokenizers.acoustic.checkpoints import read_checkpoint, read_original
from triptych.tokenizers.acoustic.families import Codec, family_of
from triptych.tokenizers.acoustic.postfilter import Postfilter
from triptych.tokenizers.acoustic.streaming import can_stream, encode_clips
from triptych.tokenizers.hub import expanded
from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.waveform import Waveform, resample
from triptych.training.files import fingerprint_of, read_json, write_json
from triptych.training.precision import Dtype, check_bf16

Codes = NDArray[np.uint16]
"""[Q, T'] ids, each below codebook_size"""
Shift = NDArray[np.float32]
"""[D, T'], in the latent that is decoded"""
WHOLE_SECONDS = 60.0
"""up to so long, a clip is decoded in one piece"""
ONE_PIECE_MINUTES = 5
"""so long a recording may be where the codec hears it in one piece: DAC and Mimi take 30 MB a second"""
BEFORE_SECONDS = 3.0
"""decoded again before a span: as far as the codec's memory reaches audibly"""
AFTER_SECONDS = 0.3
"""decoded with a span, by codecs that also look ahead"""


class AcousticTokenizer:
    """An EncodecModel, DacModel or MimiModel, cut to its first `num_levels` quantizer levels.

    Raises:
        ValueError: more levels than the codec has, a codec whose codes lie on no grid, or bf16 for one that is not
            heard in spans.
    """

    def __init__(
        self, model: Any, num_levels: int, dtype: Dtype = "fp32", postfilter: Postfilter | None = None
    ) -> None:
        """`dtype` is of the encoder's arithmetic; quantizer, decoder and post-filter compute in float32 always."""
        self.model = _in_float32(model).eval()
        self.codec: Codec = family_of(self.model)
        self.postfilter = postfilter.rounded() if postfilter is not None else None
        if not 1 <= num_levels <= self.codec.levels:
            raise ValueError(f"levels={num_levels}: this codec has 1 to {self.codec.levels} levels")
        self.dtype = dtype
        self._spans = self.codec.name == "encodec" and can_stream(model)
        if dtype == "bf16" and not self._spans:
            raise ValueError(f"dtype=bf16: only causal EnCodec models can, not this {self.codec.name}: use dtype=fp32")
        check_bf16(dtype, self.model)
        arithmetic = "float32" if dtype == "fp32" else "float32 weights, bf16 arithmetic"
        decides = {"weights": _digest(self.codec), "levels": num_levels, "dtype": arithmetic}
        self.spec = TokenizerSpec(
            kind="acoustic",
            name=self.codec.name,
            size=self.codec.size,
            sample_rate=self.codec.sample_rate,
            hop=self.codec.hop,
            levels=num_levels,
            fingerprint=fingerprint_of(decides | ({"settings": self.codec.settings} if self.codec.settings else {})),
        )

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveform that is encoded, and of the one that is decoded."""
        return self.spec.sample_rate

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, exact."""
        return self.spec.frame_rate

    @property
    def num_levels(self) -> int:
        """Levels that are kept."""
        return self.spec.levels

    @property
    def codebook_size(self) -> int:
        """Entries of one level."""
        return self.spec.size

    def weights(self) -> list[torch.Tensor]:
        """All tensors of the codec and of its post-filter."""
        parts = [self.model] if self.postfilter is None else [self.model, self.postfilter]
        return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]

    def check_length(self, seconds: float, name: str = "the recording") -> None:
        """
        Raises:
            ValueError: memory would not hold a recording so long; the message begins with `name`.
        """
        if not self._spans and seconds > 60 * ONE_PIECE_MINUTES:
            raise ValueError(
                f"{name}: {seconds / 60:.1f} minutes are too long for this {self.codec.name}, which hears a recording "
                f"in one piece: cut it to {ONE_PIECE_MINUTES} minutes at most, or take a causal EnCodec"
            )

    @property
    def ahead(self) -> int:
        """Frames after a frame on which its sound depends; 0: it looks back only."""
        own = 0 if self._spans else round(AFTER_SECONDS * float(self.spec.frame_rate))
        return own + self._filtered

    @property
    def _filtered(self) -> int:
        """Frames on either side as far as the post-filter reaches."""
        return 0 if self.postfilter is None else -(-self.postfilter.reach // self.spec.hop)

    @classmethod
    def load(cls, source: Path | str, num_levels: int | None = None, dtype: Dtype | None = None) -> "AcousticTokenizer":
        """Loads a folder, a hub id such as facebook/encodec_24khz, descript/dac_24khz or kyutai/mimi, or a `.th` file
        of the original `encodec` package.

        Args:
            num_levels: quantizer levels to keep; by default those of tokenizer.json, else all of the model.
            dtype: of its encoder's arithmetic; by default that of tokenizer.json, else fp32.
        Raises:
            ValueError: no codec's checkpoint there, a damaged one, or one whose codes lie on no grid.
        """
        source = expanded(source)
        path = Path(source)
        model = read_original(path) if path.is_file() else read_checkpoint(source)
        settings = path / "tokenizer.json"
        said = read_json(settings) if settings.exists() else {}
        levels = num_levels or said.get("levels") or family_of(model).levels
        postfilter = Postfilter.load(path) if path.is_dir() else None
        return cls(model, levels, dtype or said.get("dtype", "fp32"), postfilter)

    def save(self, folder: Path) -> None:
        """Writes the transformers folder: in float16 where that changes no weight, else in float32."""
        from transformers import DacFeatureExtractor, EncodecFeatureExtractor

        model = copy.deepcopy(self.model).half() if _fits_half(self.model) else self.model
        model.save_pretrained(folder)
        if self.codec.name == "dac":
            extractor: Any = DacFeatureExtractor(1, self.sample_rate, hop_length=self.spec.hop)
        else:
            extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=self.sample_rate)
        extractor.save_pretrained(folder)
        if self.postfilter is not None:
            self.postfilter.save(folder)
        dtype = {} if self.dtype == "fp32" else {"dtype": self.dtype}
        write_json(folder / "tokenizer.json", {"name": self.codec.name, "levels": self.num_levels, **dtype})

    def encode(self, waveform: Waveform, sample_rate: int) -> Codes:
        """Codes [Q, ceil(N / hop)] of a mono waveform [N]; resampled to the codec's rate first."""
        return self.encode_batch([waveform], sample_rate)[0]

    @torch.inference_mode()
    def encode_batch(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Codes]:
        """`encode` of each; where the codec looks back only (EnCodec), together and in spans of fixed memory.

        Raises:
            ValueError: another codec, and a waveform of more than `ONE_PIECE_MINUTES`.
        """
        for waveform in waveforms:
            self.check_length(len(waveform) / sample_rate)
        clips = [torch.from_numpy(resample(waveform, sample_rate, self.sample_rate)) for waveform in waveforms]
        device = next(self.model.parameters()).device
        if self._spans:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
                found = encode_clips(self.model, clips, self.num_levels)
        else:
            found = [self.codec.encode(clip.to(device), self.num_levels).cpu() for clip in clips]
        for clip, ids in zip(clips, found, strict=True):
            assert ids.shape == (self.num_levels, math.ceil(len(clip) / self.spec.hop)), ids.shape
        return [ids.to(torch.int32).numpy().astype(np.uint16) for ids in found]

    def entries(self, level: int) -> torch.Tensor:
        """[codebook_size, D]: what each entry of a level adds to the latent that is decoded.

        Raises:
            ValueError: Mimi's are not known.
        """
        return self.codec.entries(level)

    def decode(self, codes: NDArray[Any], shift: Shift | None = None) -> Waveform:
        """Waveform [T' · hop] of codes [q, T'], with any q up to the number of levels.

        A causal EnCodec decodes more than `WHOLE_SECONDS` span by span, in bounded memory; that agrees with the whole
        within -60 dB.

        Args:
            shift: [D, T'], added to the latent of the codes before it is decoded; see `entries`.
        """
        frames, span = codes.shape[1], round(WHOLE_SECONDS * float(self.spec.frame_rate))
        if frames <= span or not self._spans:
            return self._decode(codes, shift)
        starts = range(0, frames, span)
        return np.concatenate([self.decode_span(codes, at, min(at + span, frames), shift) for at in starts])

    def decode_span(self, codes: NDArray[Any], first: int, stop: int, shift: Shift | None = None) -> Waveform:
        """Waveform [(stop - first) · hop] of frames `first` to `stop` of codes [q, T'], amid their neighbours."""
        rate = float(self.spec.frame_rate)
        begin = max(0, first - round(BEFORE_SECONDS * rate) - self._filtered)
        if self.postfilter is not None:  # its spectra lie where those of the whole do
            begin -= begin % (math.lcm(self.spec.hop, self.postfilter.config.hop) // self.spec.hop)
        end = stop + self.ahead
        sound = self._decode(codes[:, begin:end], None if shift is None else shift[:, begin:end])
        return sound[(first - begin) * self.spec.hop : (stop - begin) * self.spec.hop]

    @torch.inference_mode()
    def _decode(self, codes: NDArray[Any], shift: Shift | None = None) -> Waveform:
        if codes.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        ids = torch.from_numpy(codes.astype(np.int64))
        sound = self.codec.decode(ids, None if shift is None else torch.from_numpy(shift))
        assert len(sound) == codes.shape[1] * self.spec.hop, sound.shape
        if self.postfilter is not None:
            sound = self.postfilter(sound[None])[0]
        return np.asarray(sound.numpy())


def _digest(codec: Codec) -> str:
    """Over encoder and quantizer: they decide which codes come out. A decoder may learn on under the same codes."""
    digest = hashlib.sha256()
    for name, tensor in codec.weights():
        digest.update(name.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _in_float32(model: Any) -> Any:
    """What loading its saved weights gives: `.float()` would keep rotary frequencies that `.half()` rounded."""
    if all(tensor.dtype == torch.float32 for tensor in model.parameters()):
        return model
    fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict())
    return fresh


def _fits_half(model: Any) -> bool:
    """Whether float16 holds every weight exactly."""
    return all(torch.equal(t, t.half().float()) for t in model.state_dict().values() if t.is_floating_point())
