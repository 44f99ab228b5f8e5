"""Loaded = fitted, ids depend on the clip alone, exact frames at any rate, and a fingerprint that tells changes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers.semantic.compared import Compared, standardised
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer, to_rate
from triptych.tokenizers.waveform import Waveform
from triptych.training.precision import has_bf16

Sound = Callable[[int, int], Waveform]
KINDS = ["wav2vec2-group", "hubert-layer", "wavlm-layer", "data2vec-audio-", "wav2vec2-bert-", "whisper-"]


def make(folder: Path, layer: int = 2, seed: int = 0, standardise: bool = True) -> SemanticTokenizer:
    centroids = torch.randn(20, 32, generator=torch.Generator().manual_seed(seed))
    return SemanticTokenizer(Encoder.load(folder, layer), centroids, Compared(standardise=standardise))


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_gives_the_same_tokens(checkpoints: dict[str, Path], sound: Sound, kind: str, tmp_path: Path) -> None:
    tokenizer = make(checkpoints[kind])
    tokenizer.save(tmp_path / "semantic")
    again = SemanticTokenizer.load(tmp_path / "semantic")
    assert again.spec == tokenizer.spec
    waveforms = [sound(length, i) for i, length in enumerate([9000, 300, 12345])]
    for one, other in zip(tokenizer.encode(waveforms, 24000), again.encode(waveforms, 24000), strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == np.uint16


def test_a_clip_does_not_depend_on_its_neighbours(checkpoints: dict[str, Path], sound: Sound) -> None:
    tokenizer = make(checkpoints["wavlm-layer"])
    waveforms = [sound(length, i) for i, length in enumerate([5000, 7000, 6100])]
    together = tokenizer.encode(waveforms, 16000)
    for waveform, tokens in zip(waveforms, together, strict=True):
        assert np.array_equal(tokenizer.encode([waveform], 16000)[0], tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_give_the_tokens_of_the_clips_one_by_one(checkpoints: dict[str, Path], sound: Sound, kind: str) -> None:
    tokenizer = make(checkpoints[kind])
    waveforms = [sound(int(length), i) for i, length in enumerate(np.linspace(300, 20000, 12))]
    single = np.concatenate(tokenizer.encode(waveforms, 24000))
    tokenizer.encoder.batch_samples = 6 * 32000
    batched = np.concatenate(tokenizer.encode(waveforms, 24000))
    assert len(batched) == len(single) and (batched == single).mean() >= 0.999


@pytest.mark.parametrize("kind", ["wavlm-layer", "wav2vec2-group", "wav2vec2-bert-"])
def test_bf16_is_near_and_says_so(checkpoints: dict[str, Path], sound: Sound, kind: str, tmp_path: Path) -> None:
    if not has_bf16(torch.device("cpu")):
        pytest.skip("no bf16 on this processor")
    folder = checkpoints[kind]
    plain = make(folder)
    try:
        encoder = Encoder.load(folder, 2, dtype="bf16")
    except ValueError as error:
        assert "wrong in bf16" in str(error)  # a fault of some processors, told to the user
        pytest.skip(str(error))
    near = SemanticTokenizer(encoder, plain.centroids, Compared(standardise=True))
    assert near.spec.fingerprint != plain.spec.fingerprint
    (exact,), (rough,) = (made.features([sound(16000, 0)], 16000) for made in (plain, near))
    assert 0 < float((exact - rough).abs().mean()) < 0.05  # of features with unit variance
    near.save(tmp_path / "semantic")
    assert SemanticTokenizer.load(tmp_path / "semantic").encoder.dtype == "bf16"


def test_a_processor_that_gets_convolutions_wrong_is_told(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triptych.training.precision.has_bf16", lambda device: True)
    monkeypatch.setattr("triptych.training.precision.NEAR", -1.0)
    with pytest.raises(ValueError, match="32 channels in 4 groups wrong in bf16"):
        Encoder.load(checkpoints["wavlm-layer"], 2, dtype="bf16")


def test_bf16_is_refused_where_there_is_none(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.training.precision.has_bf16", lambda device: False)
    with pytest.raises(ValueError, match="no bf16 arithmetic"):
        Encoder.load(checkpoints["wavlm-layer"], 2, dtype="bf16")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200_000), st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]))
def test_resampled_length_is_an_exact_floor(samples: int, rate: int) -> None:
    assert len(to_rate(np.zeros(samples, dtype=np.float32), rate)) == samples * 16000 // rate


def test_whole_beats_give_whole_frames(checkpoints: dict[str, Path], sound: Sound) -> None:
    tokenizer = make(checkpoints["wav2vec2-bert-"])
    for beats in (1, 2, 13):
        (tokens,) = tokenizer.encode([sound(beats * 960, 0)], 24000)
        assert len(tokens) == beats * 2


def test_assignment_is_the_nearest_centroid(checkpoints: dict[str, Path]) -> None:
    tokenizer = make(checkpoints["hubert-layer"])
    frames = torch.randn(50, 32)
    slow = torch.cdist(frames.double(), tokenizer.centroids.double()).argmin(dim=1).numpy()
    assert np.array_equal(tokenizer.assign(frames), slow)


def test_fingerprint_tells_what_changes_tokens(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = checkpoints["hubert-layer"]
    base = make(folder)
    others = [make(folder, layer=1), make(folder, seed=1), make(folder, standardise=False)]
    others.append(make(checkpoints["wavlm-layer"]))
    assert len({t.spec.fingerprint for t in [base, *others]}) == 5
    assert make(folder).spec.fingerprint == base.spec.fingerprint


def test_a_changed_folder_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    make(checkpoints["wavlm-group"]).save(tmp_path / "a")
    make(checkpoints["wavlm-group"], seed=1).save(tmp_path / "b")
    (tmp_path / "a" / "centroids.safetensors").replace(tmp_path / "b" / "centroids.safetensors")
    with pytest.raises(ValueError, match="changed"):
        SemanticTokenizer.load(tmp_path / "b")


@pytest.mark.parametrize("record", ["{", "[]", '{"kind": "text"}', '{"kind": "semantic", "format": 99}'])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / "tokenizer.json").write_text(record)
    with pytest.raises(ValueError, match=r"tokenizer\.json|format 99"):
        SemanticTokenizer.load(tmp_path)


def test_standardised() -> None:
    frames = torch.randn(30, 4) * 5 + 3
    out = standardised(frames)
    assert torch.allclose(out.mean(dim=0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(out.std(dim=0, correction=0), torch.ones(4), atol=1e-4)
    assert torch.equal(standardised(frames[:1]), torch.zeros(1, 4))


def test_fit_uses_its_alphabet_and_is_repeatable(checkpoints: dict[str, Path], clips: Callable, tmp_path: Path) -> None:
    config = SemanticFitConfig(
        encoder=str(checkpoints["wav2vec2-bert-"]), layer=2, clusters=12, passes=2, buffer_frames=100, batch_frames=50
    )
    report = fit_semantic(clips(6), tmp_path / "one", config)
    fit_semantic(clips(6), tmp_path / "two", config)
    one, two = SemanticTokenizer.load(tmp_path / "one"), SemanticTokenizer.load(tmp_path / "two")
    assert one.spec == two.spec
    assert report.usage == 1.0
    assert 2.0 < report.entropy <= np.log2(12)
    counts = np.bincount(np.concatenate(one.encode([clips(6).waveform(i) for i in range(6)], 24000)), minlength=12)
    assert counts.sum() == report.frames
    assert (counts > 0).mean() == report.usage
    assert json.loads((tmp_path / "one" / "report.json").read_text())["usage"] == report.usage
    with pytest.raises(ValueError, match="exists already"):
        fit_semantic(clips(6), tmp_path / "one", config)


def test_fit_refuses_too_little(checkpoints: dict[str, Path], clips: Callable, tmp_path: Path) -> None:
    folder = str(checkpoints["hubert-layer"])
    with pytest.raises(ValueError, match="too few"):
        fit_semantic(clips(2), tmp_path / "t", SemanticFitConfig(encoder=folder, clusters=500, layer=1))
    with pytest.raises(ValueError, match="no clips"):
        fit_semantic(clips(0), tmp_path / "t", SemanticFitConfig(encoder=folder, layer=1))
    with pytest.raises(ValueError, match="layers 0 to 3"):
        fit_semantic(clips(2), tmp_path / "t", SemanticFitConfig(encoder=folder, layer=4))
    for device in ("gpu", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(ValueError, match=f"^device={device}: "):
            Encoder.load(folder, 1, device=device)
