"""Files of the original `encodec` package: read as tensors or refused with one line, never run."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.tokenizers.acoustic.codec import AcousticTokenizer


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_a_malicious_pickle_is_not_run(tmp_path: Path, write: Any) -> None:
    for name, content in (("bare", Evil(tmp_path / "ran")), ("inside", {"encoder": Evil(tmp_path / "ran")})):
        path = tmp_path / f"{name}.th"
        write(content, path)
        with pytest.raises(ValueError, match="holds more than tensors: it is not opened") as refused:
            AcousticTokenizer.load(path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_folder_with_pickled_weights_is_not_opened(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoints["dac"] / "config.json").read_bytes())
    torch.save({"encoder.conv1.weight": Evil(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no codec checkpoint that can be loaded"):
        AcousticTokenizer.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def state_of(checkpoints: dict[str, Path]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoints["encodec"], weights_only=True)
    return state


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: {"best_state": state}, "holds no state dict"),
        (lambda state: {}, "holds no state dict"),
        (lambda state: {"fc.weight": torch.zeros(2, 2)}, "holds no EnCodec of 24 kHz"),
        (lambda state: state | {"more": torch.zeros(1)}, "holds no EnCodec of 24 kHz.*more"),
        (lambda state: {k: v for k, v in state.items() if "lstm" not in k}, "holds no EnCodec of 24 kHz"),
        (lambda state: state | {"encoder.model.0.conv.norm.weight": torch.ones(2)}, "holds EnCodec 48 kHz.*stereo"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_one_line(
    checkpoints: dict[str, Path], tmp_path: Path, change: Any, says: str
) -> None:
    torch.save(change(state_of(checkpoints)), tmp_path / "other.th")
    with pytest.raises(ValueError, match=says) as refused:
        AcousticTokenizer.load(tmp_path / "other.th")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"PK\x03\x04 and no zip"])
def test_files_that_torch_cannot_read_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.th").write_bytes(content)
    with pytest.raises(ValueError, match="is no checkpoint of the original encodec package"):
        AcousticTokenizer.load(tmp_path / "broken.th")


def test_a_th_file_becomes_an_ordinary_folder(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """In the older, unzipped format of torch.save as well."""
    torch.save(OrderedDict(state_of(checkpoints)), tmp_path / "old.th", _use_new_zipfile_serialization=False)
    original = AcousticTokenizer.load(tmp_path / "old.th", num_levels=2)
    original.save(tmp_path / "folder")
    from transformers import EncodecModel

    model = EncodecModel.from_pretrained(tmp_path / "folder").eval()
    waveform = np.random.default_rng(0).standard_normal(4800).astype(np.float32)
    with torch.no_grad():
        theirs = model.encode(torch.from_numpy(waveform)[None, None], bandwidth=1.8).audio_codes[0, 0]
    np.testing.assert_array_equal(original.encode(waveform, 24_000), theirs[:2])
    assert AcousticTokenizer.load(tmp_path / "folder").spec == original.spec
