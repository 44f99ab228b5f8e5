"""Checkpoints of fairseq2 in transformers' classes: what fairseq2 0.8.1 itself heard, and one line for what is not one.

The folders beside were made by the real fairseq2 (`fairseq2/make.py`).
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.fairseq2 import read_checkpoint
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.waveform import Waveform

MADE = Path(__file__).parent / "fairseq2"
LAYERS = {"wav2vec2_group": 2, "wav2vec2_layer": 1, "w2vbert2": 2}


@pytest.mark.parametrize("name", LAYERS)
def test_it_hears_what_fairseq2_heard(name: str) -> None:
    heard = load_file(MADE / name / "hidden.safetensors")
    for layer in range(LAYERS[name] + 1):
        model, front = read_checkpoint(MADE / name / "model.pt", layer)
        given = heard["input"]
        if not front.wave:
            given = given.reshape(len(given) // front.stride, -1)
        with torch.no_grad():
            found = Encoder(model, front, layer).hidden([given.numpy()])[0]
        expected = heard[f"hidden_{layer}"]
        assert found.shape == expected.shape
        assert expected.std() > 0.1
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_tokenizer_of_it_is_an_ordinary_one(tmp_path: Path, sound: Callable[[int, int], Waveform]) -> None:
    encoder = Encoder.load(MADE / "w2vbert2" / "model.pt", 1)
    made = SemanticTokenizer(encoder, torch.randn(9, 16), Compared(standardise=True))
    made.save(tmp_path / "semantic")
    again = SemanticTokenizer.load(tmp_path / "semantic")
    assert again.spec == made.spec
    (one,), (two,) = (tokenizer.encode([sound(16000, 0)], 16000) for tokenizer in (made, again))
    assert np.array_equal(one, two) and len(one) == 50


def test_what_shapes_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    shutil.copy(MADE / "wav2vec2_group" / "model.pt", tmp_path / "model.pt")
    model, front = read_checkpoint(tmp_path / "model.pt", 1)
    assert model.config.num_attention_heads == 1  # 64 numbers a head, where nothing beside the file says otherwise
    assert front.normalise
    assert not read_checkpoint(MADE / "wav2vec2_group" / "model.pt", 1)[1].normalise


@pytest.mark.parametrize("broken", ["noise", "other", "lost", "batch norm", "layer"])
def test_files_of_something_else_are_refused_in_one_line(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "model.pt"
    weights = torch.load(MADE / "w2vbert2" / "model.pt", weights_only=True)["model"]
    if broken == "noise":
        path.write_bytes(b"not a checkpoint")
    elif broken == "other":
        torch.save({"model": {"decoder.weight": torch.zeros(2)}}, path)
    elif broken == "lost":
        torch.save({k: v for k, v in weights.items() if "layers.1.ffn2.inner_proj.weight" not in k}, path)
    elif broken == "batch norm":
        torch.save({**weights, "w2v2_model.encoder.layers.0.conv.batch_norm.weight": torch.zeros(16)}, path)
    else:
        torch.save(weights, path)
    with pytest.raises(ValueError) as caught:
        Encoder.load(path, 3 if broken == "layer" else 2)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_backend_says_what_is_in_its_way(tmp_path: Path, clips: Callable[[int], object]) -> None:
    try:
        import fairseq2  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        config = SemanticFitConfig(encoder=str(MADE / "w2vbert2" / "model.pt"), layer=1, backend="fairseq2")
        with pytest.raises(ValueError, match=r"torch .* requirements-fairseq2\.txt, or leave backend=transformers"):
            fit_semantic(clips(2), tmp_path / "semantic", config)  # type: ignore[arg-type]
        return
    from triptych.tokenizers.semantic.fairseq2_backend import Fairseq2Encoder

    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    for name, layer in LAYERS.items():
        path = MADE / name / "model.pt"
        (own,), (twin,) = (kind.load(path, layer).features([noise]) for kind in (Fairseq2Encoder, Encoder))
        assert torch.allclose(own, twin, atol=1e-5)
