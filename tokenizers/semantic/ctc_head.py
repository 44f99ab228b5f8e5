"""The CTC head that an encoder was trained with, as files beside the encoder: phonemes from frames.

    ctc.safetensors  ctc.json      in the folder that `fit encoder --text` writes

Knows no encoder.
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from triptych.tokenizers.hub import expanded
from triptych.training.files import atomic_file, read_json, write_json


@dataclass(frozen=True)
class CtcHead:
    """What the CTC of an encoder's training learned."""

    weight: Tensor
    """[steps * (classes + 1), D]"""
    bias: Tensor
    layer: int
    """hidden_states[k] that it reads"""
    steps: int
    """a frame"""
    classes: tuple[str, ...]
    """the blank is the class after the last"""

    @property
    def blank(self) -> int:
        return len(self.classes)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """[T, D] of `layer` -> [T * steps, classes + 1]"""
        return (features @ self.weight.T + self.bias).reshape(-1, self.blank + 1).log_softmax(dim=-1)

    def rounded(self) -> "CtcHead":
        """With weights that float16 holds."""
        return CtcHead(self.weight.half().float(), self.bias.half().float(), self.layer, self.steps, self.classes)

    def save(self, folder: Path) -> None:
        """Its two files, into a folder that is there."""
        with atomic_file(folder / "ctc.safetensors") as part:
            weights = {"weight": self.weight, "bias": self.bias}
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, part)
        head = {"layer": self.layer, "steps": self.steps, "blank": self.blank}
        write_json(folder / "ctc.json", {**head, "classes": list(self.classes)})

    @classmethod
    def load(cls, folder: Path) -> "CtcHead | None":
        """None where the encoder was trained without CTC, or elsewhere.

        Raises:
            ValueError: its files cannot be read.
        """
        folder = Path(expanded(folder))
        if not (folder / "ctc.json").exists():
            return None
        record = read_json(folder / "ctc.json")
        try:
            weights = load_file(folder / "ctc.safetensors")
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / 'ctc.safetensors'} cannot be read: {error}") from None
        classes = tuple(record["classes"])
        return cls(weights["weight"], weights["bias"], int(record["layer"]), int(record["steps"]), classes)
