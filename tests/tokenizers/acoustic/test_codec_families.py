"""Every family of codecs behind the one face: equality with the package it came from, frames, levels, saving."""

import importlib
import json
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel

from triptych.tokenizers.acoustic import codec as codec_module
from triptych.tokenizers.acoustic.codec import AcousticTokenizer

RATE = 24_000
PACKAGES = {"encodec": "encodec", "dac": "dac", "mimi": "moshi"}


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.3).astype(np.float32)


def test_codes_and_sound_are_those_of_the_original_package(codec: AcousticTokenizer, originals: Any) -> None:
    """Frozen answers of encodec 0.1.1, descript-audio-codec 1.0.0 and moshi 0.2.13: see originals/originals.py."""
    answers = np.load(originals.HERE / "answers.npz")
    codes, sound = answers[f"{codec.spec.name}_codes"], answers[f"{codec.spec.name}_sound"]
    np.testing.assert_array_equal(codec.encode(originals.waveform().numpy(), RATE), codes)
    assert len(np.unique(codes)) > 10
    np.testing.assert_allclose(codec.decode(codes)[:: originals.STRIDE][: len(sound)], sound, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 319, 1921, 30_000])
def test_any_length_equals_the_original_package(codec: AcousticTokenizer, originals: Any, samples: int) -> None:
    package = PACKAGES[codec.spec.name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; its frozen answers are held by the test above")
    original = originals.ORIGINALS[codec.spec.name]()
    waveform = originals.waveform(samples, seed=samples)
    with torch.inference_mode():
        codes = original.encode(waveform)
        sound = original.decode(codes).numpy()
    np.testing.assert_array_equal(codec.encode(waveform.numpy(), RATE), codes.numpy())
    np.testing.assert_allclose(codec.decode(codes.numpy())[: len(sound)], sound, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(samples=st.integers(1, 6000))
def test_frames_are_a_ceiling_and_decoding_gives_them_back(codec: AcousticTokenizer, samples: int) -> None:
    codes = codec.encode(noise(samples), RATE)
    assert codes.dtype == np.uint16
    assert codes.shape == (codec.num_levels, -(-samples // codec.spec.hop)) and codes.max() < codec.codebook_size
    assert codec.decode(codes).shape == (codes.shape[1] * codec.spec.hop,)
    assert codec.decode(codes[:, :0]).shape == (0,)


def test_a_shift_from_entry_to_entry_is_as_if_the_other_were_drawn(codec: AcousticTokenizer) -> None:
    if codec.spec.name == "mimi":
        with pytest.raises(ValueError, match="leave it at 0"):
            codec.entries(0)
        return
    codes = codec.encode(noise(60 * RATE + 5000), RATE)  # longer than what EnCodec decodes in one piece
    wanted, shift = codes.copy(), 0.0
    for level in (1, 2):
        entries = codec.entries(level).numpy()
        wanted[level] = (codes[level] + 1) % codec.codebook_size
        shift = shift + (entries[wanted[level]] - entries[codes[level]]).T
    said = codec.decode(wanted)
    np.testing.assert_allclose(codec.decode(codes, np.float32(shift)), said, atol=1e-3)
    assert np.abs(codec.decode(codes) - said).max() > 0.01


def test_nouns_are_those_of_the_spec(codec: AcousticTokenizer) -> None:
    rate, levels = {"encodec": (75, 4), "dac": (75, 4), "mimi": (Fraction(25, 2), 6)}[codec.spec.name]
    assert (codec.sample_rate, codec.frame_rate, codec.num_levels, codec.codebook_size) == (RATE, rate, levels, 64)


def test_fewer_levels_are_the_first_ones(codec: AcousticTokenizer, checkpoints: dict[str, Path]) -> None:
    source, waveform = checkpoints[codec.spec.name], noise(5000)
    codes = codec.encode(waveform, RATE)
    for levels in (1, 2):
        few = AcousticTokenizer.load(source, levels)
        np.testing.assert_array_equal(few.encode(waveform, RATE), codes[:levels])
        np.testing.assert_array_equal(few.decode(codes[:levels]), codec.decode(codes[:levels]))
        assert few.spec.fingerprint != codec.spec.fingerprint
    with pytest.raises(ValueError, match=r"levels=99: this codec has 1 to \d levels"):
        AcousticTokenizer.load(source, 99)


def test_a_tilde_is_the_home_folder(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoints["dac"].parent))
    for source in checkpoints.values():
        assert AcousticTokenizer.load(f"~/{source.name}").spec == AcousticTokenizer.load(source).spec


def test_what_is_heard_in_one_piece_has_a_longest(
    codec: AcousticTokenizer, ahead: AcousticTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "ONE_PIECE_MINUTES", 0.1)
    assert codec.encode(noise(6 * RATE), RATE).shape[1] == 6 * codec.frame_rate
    for one in (codec, ahead):
        in_spans = one is codec and codec.spec.name == "encodec"
        refused = pytest.raises(
            ValueError, match=r"the recording: 0\.1 minutes are too long for this .* one piece: cut"
        )
        with nullcontext() if in_spans else refused:
            assert one.encode(noise(7 * RATE), RATE).shape[1] == 7 * one.frame_rate


@pytest.mark.parametrize("rounded", [False, True])
def test_saved_and_loaded_is_the_same_tokenizer(
    codec: AcousticTokenizer, checkpoints: dict[str, Path], tmp_path: Path, rounded: bool
) -> None:
    """In float16 where the weights were rounded to it before, else in float32; used and shipped ones are the same."""
    model = AcousticTokenizer.load(checkpoints[codec.spec.name]).model
    own = AcousticTokenizer(model.half() if rounded else model, 3)
    own.save(tmp_path)
    kept = {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()}
    assert kept == ({torch.float16} if rounded else {torch.float32})
    copy, waveform = AcousticTokenizer.load(tmp_path), noise(9000)
    assert copy.spec == own.spec and copy.num_levels == 3
    codes = own.encode(waveform, RATE)
    np.testing.assert_array_equal(copy.encode(waveform, RATE), codes)
    np.testing.assert_array_equal(copy.decode(codes), own.decode(codes))


def test_saved_folders_keep_the_published_names(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for family in ("dac", "mimi"):
        AcousticTokenizer.load(checkpoints[family]).save(tmp_path / family)
        saved, published = (
            load_file(home / family / "model.safetensors") for home in (tmp_path, checkpoints[family].parent)
        )
        assert saved.keys() == published.keys()


def test_the_fingerprint_is_of_what_decides_the_codes(codec: AcousticTokenizer, checkpoints: dict[str, Path]) -> None:
    def changed(part: str) -> str:
        model = AcousticTokenizer.load(checkpoints[codec.spec.name]).model
        with torch.no_grad():
            next(p for name, p in model.state_dict().items() if name.startswith(part) and p.dim() > 1).add_(0.1)
        return AcousticTokenizer(model, codec.num_levels).spec.fingerprint

    assert changed("decoder.") == codec.spec.fingerprint
    assert len({changed("encoder."), changed("quantizer."), codec.spec.fingerprint}) == 3


def test_mimi_is_known_by_published_names_and_by_its_window(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = checkpoints["mimi"]
    mimi = AcousticTokenizer.load(source)
    published = load_file(source / "model.safetensors")
    decide = {name for name in published if not name.startswith(("decoder", "upsample"))}
    assert {name for name, _ in mimi.codec.weights()} == decide
    config = json.loads((source / "config.json").read_text()) | {"sliding_window": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    assert AcousticTokenizer.load(tmp_path).spec.fingerprint != mimi.spec.fingerprint


def test_weights_that_are_missing_are_not_made_up(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for family in ("dac", "mimi"):
        folder = tmp_path / family
        folder.mkdir()
        (folder / "config.json").write_bytes((checkpoints[family] / "config.json").read_bytes())
        with pytest.raises(ValueError, match="no codec checkpoint that can be loaded"):
            AcousticTokenizer.load(folder)
        tensors = load_file(checkpoints[family] / "model.safetensors")
        lost = next(name for name in tensors if name.startswith("quantizer"))
        save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=f"lack 1 tensors of the model, the first .*{lost}"):
            AcousticTokenizer.load(folder)
        (folder / "model.safetensors").write_bytes(b"no safetensors")
        with pytest.raises(ValueError, match="no codec checkpoint that can be loaded"):
            AcousticTokenizer.load(folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"sampling_rate": 24000, "vq_strides": [4, 2, 1], "codebook_size": 4096},
            r"SNAC.*rates of their own.*\[4, 2, 1\]",
        ),
        ({"model_type": "wavlm"}, "model_type wavlm; codecs are encodec, dac, mimi"),
        ({}, "model_type None"),
    ],
)
def test_folders_of_no_codec_are_refused(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=says):
        AcousticTokenizer.load(tmp_path)


@settings(max_examples=6, deadline=None)
@given(samples=st.integers(1, 4000))
def test_an_encodec_that_looks_ahead_counts_alike(ahead: AcousticTokenizer, samples: int) -> None:
    codes = ahead.encode(noise(samples), 32_000)
    assert codes.shape == (4, -(-samples // 640)) and ahead.frame_rate == 50 and ahead.codebook_size == 2048
    assert len(ahead.decode(codes)) == codes.shape[1] * 640
    with torch.no_grad():
        theirs = ahead.model.encode(torch.from_numpy(noise(samples))[None, None], bandwidth=2.2).audio_codes[0, 0]
    np.testing.assert_array_equal(codes, theirs)


@pytest.fixture(scope="module")
def ahead() -> AcousticTokenizer:
    """As facebook/encodec_32khz: mono, 50 Hz, 4 levels of 2048, convolutions that look ahead."""
    torch.manual_seed(0)
    sizes = {"num_filters": 2, "hidden_size": 8, "num_lstm_layers": 1, "codebook_size": 2048}
    rates = {"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "target_bandwidths": [2.2]}
    model = EncodecModel(EncodecConfig(**sizes, **rates, use_causal_conv=False))
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    return AcousticTokenizer(model, 4)
