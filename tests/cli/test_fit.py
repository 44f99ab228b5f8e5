"""`fit`: a codec that is taken keeps what its folder says, and clips are prepared as the tokenizers beside say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import EncodecConfig, EncodecModel

from triptych.cli.fit import read_clips
from triptych.corpus.manifest import Recording, write_manifest
from triptych.tokenizers.acoustic import codec as codec_module
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.trio import write_waveform_spec

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    sound = np.concatenate([np.zeros(8000), np.sin(np.arange(8000) * 0.1) * 0.1, np.zeros(8000)])
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    recording = Recording(id="a", path=tmp_path / "a.wav", seconds=1.5, text=None, speaker=None, split="train")
    write_manifest(tmp_path / "manifest.jsonl", [recording])
    return tmp_path / "manifest.jsonl"


def write_codec(folder: Path, levels: int) -> Path:
    """As facebook/encodec_24khz, but for the sizes."""
    torch.manual_seed(0)
    sizes = {"num_filters": 2, "hidden_size": 8, "num_lstm_layers": 1, "codebook_size": 16}
    EncodecModel(EncodecConfig(**sizes, target_bandwidths=[levels * 4 * 75 / 1000])).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("levels", [4, 16])
def test_a_codec_is_taken_with_all_its_levels(run_line: Run, manifest: Path, tmp_path: Path, levels: int) -> None:
    source = write_codec(tmp_path / "codec", levels)
    line = ["fit", "acoustic", str(manifest), "--from", str(source)]
    assert run_line(*line, "-o", str(tmp_path / "all"))[0] == 0
    assert AcousticTokenizer.load(tmp_path / "all").num_levels == levels
    assert run_line(*line, "-o", str(tmp_path / "two"), "levels=2")[0] == 0
    assert AcousticTokenizer.load(tmp_path / "two").num_levels == 2
    assert run_line(*line[:-1], str(tmp_path / "two"), "-o", str(tmp_path / "again"))[0] == 0
    assert AcousticTokenizer.load(tmp_path / "again").num_levels == 2


def test_a_codec_is_taken_with_its_dtype(
    run_line: Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "check_bf16", lambda *_: None)
    source = write_codec(tmp_path / "codec", 2)
    (source / "tokenizer.json").write_text(json.dumps({"name": "encodec", "levels": 2, "dtype": "bf16"}))
    line = ["fit", "acoustic", str(manifest), "--from", str(source)]
    assert run_line(*line, "-o", str(tmp_path / "own"))[0] == 0
    assert run_line(*line, "-o", str(tmp_path / "said"), "dtype=fp32")[0] == 0
    assert [AcousticTokenizer.load(tmp_path / name).dtype for name in ("own", "said")] == ["bf16", "fp32"]


def test_clips_are_prepared_as_the_tokenizers_beside_say(manifest: Path, tmp_path: Path) -> None:
    write_waveform_spec(tmp_path, WaveformSpec(24_000, None, 40.0))
    clips = read_clips(manifest, 16_000, "train", tmp_path / "semantic")
    assert clips.spec == WaveformSpec(16_000, None, 40.0)
    assert len(clips.waveform(0)) < 12_000 and abs(np.abs(clips.waveform(0)).max() - 0.1) < 0.01
    for beside in (None, tmp_path / "elsewhere" / "semantic"):
        assert read_clips(manifest, 16_000, "train", beside).spec == WaveformSpec(16_000)
