"""Phonemes beside the features: what CTC tells apart, tokens tell apart; nothing changes without them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.tokenizers.semantic.compared import Compared, standardised
from triptych.tokenizers.semantic.ctc_head import CtcHead
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer, hearing
from triptych.tokenizers.semantic.windows import Windows
from triptych.tokenizers.waveform import Waveform

Sound = Callable[[int, int], Waveform]
STEPS, CLASSES = 2, ("a", "b", "c")


def head(dim: int = 32, layer: int = 2) -> CtcHead:
    torch.manual_seed(0)
    return CtcHead(3 * torch.randn(STEPS * 4, dim), torch.zeros(STEPS * 4), layer, STEPS, CLASSES)


@pytest.fixture
def encoder(checkpoints: dict[str, Path]) -> Path:
    """A checkpoint with a CTC head beside it, as `fit encoder --text` leaves it."""
    folder = checkpoints["wav2vec2-bert-"]
    head().save(folder)
    return folder


def test_sure_and_different_is_as_far_as_unrelated() -> None:
    """The scale that the config states, on features and probabilities that are as sure as they can be."""
    dim = 64
    rows = torch.zeros(STEPS * 4, dim)
    rows[:, 0] = torch.tensor([1e3, -1e3, -2e3, -2e3] * STEPS)  # the sign of feature 0 says which of two classes it is
    sure = Compared(True, 1.0, CtcHead(rows, torch.zeros(STEPS * 4), 2, STEPS, CLASSES))
    frames = torch.randn(4000, dim, generator=torch.Generator().manual_seed(1))
    ready = sure(frames)
    assert ready.shape == (4000, sure.width(dim)) == (4000, dim + STEPS * 4)
    assert torch.equal(ready[:, :dim], standardised(frames))
    heard = ready[:, dim:]
    a, b = heard[frames[:, 0] > 0.1], heard[frames[:, 0] < -0.1]
    assert torch.allclose((a[0] - b[0]).square().sum(), torch.tensor(2.0 * dim), rtol=1e-3)
    assert (a - a[0]).abs().max() < 1e-3
    unrelated = (ready[:2000, :dim] - ready[2000:, :dim]).square().sum(dim=1).mean()
    assert abs(float(unrelated) / (2 * dim) - 1) < 0.05
    assert Compared(True).width(dim) == dim and torch.equal(Compared(True)(frames), standardised(frames))
    with pytest.raises(ValueError, match="CTC head"):
        Compared(True, 1.0)


def test_tokens_follow_the_head(encoder: Path, clips: Callable[[int], Any], tmp_path: Path) -> None:
    """Of frames with one token, the share that CTC hears alike grows with the weight."""
    config = SemanticFitConfig(encoder=str(encoder), layer=2, clusters=12, buffer_frames=100, batch_frames=50)
    alike = []
    for phonemes in (0.0, 3.0):
        fit_semantic(clips(6), tmp_path / str(phonemes), replace(config, phonemes=phonemes))
        made = SemanticTokenizer.load(tmp_path / str(phonemes))
        waveforms = [clips(6).waveform(i) for i in range(6)]
        ids = np.concatenate(made.encode(waveforms, 16000)).astype(np.int64)
        frames = torch.cat(made.encoder.features(waveforms))
        said = head().rounded().log_probabilities(frames).argmax(dim=1).view(len(ids), STEPS) @ torch.tensor([4, 1])
        counts = np.zeros((12, 16))
        np.add.at(counts, (ids, said.numpy()), 1)
        alike.append(counts.max(axis=1).sum() / counts.sum())
        assert (tmp_path / str(phonemes) / "encoder" / "ctc.json").exists() == bool(phonemes)
    assert alike[1] > alike[0] + 0.05


def test_long_recordings_and_other_weights(encoder: Path, sound: Sound, tmp_path: Path) -> None:
    compared = hearing(encoder, 2, True, 0.7)
    made = SemanticTokenizer(
        Encoder.load(encoder, 2, windows=Windows(4, 2)), torch.randn(20, compared.width(32)), compared
    )
    waveform = sound(15 * 16000, 0)
    (ids,) = made.encode([waveform], 16000)
    assert np.array_equal(ids, made.assign(made.features([waveform], 16000)[0]))
    made.save(tmp_path / "semantic")
    again = SemanticTokenizer.load(tmp_path / "semantic")
    assert again.spec == made.spec and np.array_equal(again.encode([waveform], 16000)[0], ids)
    other = SemanticTokenizer(made.encoder, made.centroids, replace(compared, phonemes=0.8))
    assert other.spec.fingerprint != made.spec.fingerprint


def test_mistakes_are_one_line(
    checkpoints: dict[str, Path], encoder: Path, clips: Callable[[int], Any], tmp_path: Path
) -> None:
    config = SemanticFitConfig(encoder=str(checkpoints["wavlm-layer"]), layer=2, clusters=12, phonemes=0.5)
    with pytest.raises(ValueError, match="no CTC head"):
        fit_semantic(clips(6), tmp_path / "one", config)
    with pytest.raises(ValueError, match="give layer=2"):
        fit_semantic(clips(6), tmp_path / "one", replace(config, encoder=str(encoder), layer=1))
    with pytest.raises(ValueError, match="phonemes"):
        fit_semantic(clips(6), tmp_path / "one", replace(config, encoder=str(encoder), phonemes=-1.0))
    assert not (tmp_path / "one").exists()
