"""A post-filter: it mends in the spectrum what a codec's decoder leaves dull or rough; any codec's, at any levels.

    sound [B, N] ──STFT──▶ S [B, F, M] ─┬─ log |S|, S / |S|^0.7 ─▶ ConvNeXt blocks ─▶ gain g, turn φ  [B, F, M]
                                        └──────────────── × exp(g + iφ) ◀──────────────┘ ──inverse STFT──▶ sound [B, N]

    acoustic/postfilter.json  postfilter.safetensors (float16)       beside the codec's own files

Blocks after Vocos (Siuzdak 2023): convolutions along time alone, at a hundred frames a second, so that a decoder's
costly last layers are left as they are. Invariant: untrained it changes nothing, and a sample depends on those within
`reach` of it alone. Codes, and the fingerprint that stands for them, do not know it. Knows no codec and no training.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triptych.tokenizers.acoustic.settings import PostfilterConfig
from triptych.training.config import build
from triptych.training.files import read_json, write_json

FILES = "postfilter.json", "postfilter.safetensors"
KERNEL = 7
"""frames, of each block's convolution"""
LOUDEST = 3.0
"""nats, the most by which a bin is raised"""
FLOOR = 1e-3
"""of a magnitude, where speech at -23 LUFS has about 1: below it there is nothing to mend"""


class Block(nn.Module):
    """A ConvNeXt block along time (Liu et al. 2022), [B, D, M] to the same."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.along(x).transpose(1, 2))
        out: Tensor = x + self.down(nn.functional.gelu(self.up(inner))).transpose(1, 2)
        return out


class Postfilter(nn.Module):
    """Waveforms [B, N] to waveforms [B, N], at the codec's rate."""

    def __init__(self, config: PostfilterConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.window // 2 + 1
        self.enter = nn.Linear(3 * bins, config.dim)
        self.blocks = nn.ModuleList(Block(config.dim, config.hidden) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.leave = nn.Linear(config.dim, 2 * bins)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("hann", torch.hann_window(config.window), persistent=False)
        self.hann: Tensor

    @property
    def reach(self) -> int:
        """Samples before and after a sample on which it depends."""
        return self.config.layers * (KERNEL // 2) * self.config.hop + self.config.window

    def forward(self, sound: Tensor) -> Tensor:
        with torch.autocast(sound.device.type, enabled=False):
            sound = sound.float()
            size, hop = self.config.window, self.config.hop
            given = torch.stft(
                sound, size, hop, window=self.hann, center=True, pad_mode="constant", return_complex=True
            )
            gain, turn = self._change(given).chunk(2, dim=1)
            mended = given * torch.polar(gain.clamp(max=LOUDEST).exp(), turn)
            made: Tensor = torch.istft(mended, size, hop, window=self.hann, center=True, length=sound.shape[-1])
        return made

    def _change(self, spectrum: Tensor) -> Tensor:
        """[B, F, M] to what is done to it [B, 2F, M]: nats, and radians."""
        size = spectrum.abs() + FLOOR
        parts = torch.view_as_real(spectrum) / size.pow(0.7)[..., None]
        x = self.enter(torch.cat([size.log(), parts[..., 0], parts[..., 1]], dim=1).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        done: Tensor = self.leave(self.norm(x.transpose(1, 2))).transpose(1, 2)
        return done

    def rounded(self) -> "Postfilter":
        """A copy for use, on the CPU, with weights that float16 holds."""
        made = Postfilter(self.config)
        made.load_state_dict({name: value.half().float() for name, value in self.state_dict().items()})
        return made.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Writes its two files into a folder that is there, weights in float16."""
        weights = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / FILES[1])
        write_json(folder / FILES[0], asdict(self.config))

    @classmethod
    def load(cls, folder: Path) -> "Postfilter | None":
        """None where the codec has none.

        Raises:
            ValueError: one of its two files is missing or damaged; one line.
        """
        record, weights = (folder / name for name in FILES)
        if not record.exists() and not weights.exists():
            return None
        made = cls(build(PostfilterConfig, read_json(record), where=str(record)))
        try:
            made.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            problem = " ".join(str(error).split())[:160]
            raise ValueError(f"{weights} cannot be read, copy it and {FILES[0]} again: {problem}") from None
        return made
