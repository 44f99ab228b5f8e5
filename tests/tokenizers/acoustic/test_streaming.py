"""An encoder that hears spans, or several clips at once, gives the codes of the whole clip alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel
from typer.testing import CliRunner

from triptych.cli.main import app
from triptych.tokenizers.acoustic import streaming
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.families import Encodec
from triptych.tokenizers.acoustic.streaming import can_stream, encode_clips
from triptych.training.precision import has_bf16

LOUD = 5.0
"""noise that makes random weights say something"""
KINDS = {
    "published": {"pad_mode": "reflect", "upsampling_ratios": [8, 5, 4, 2]},
    "starter": {"pad_mode": "constant", "use_conv_shortcut": False, "upsampling_ratios": [3, 4, 5, 8]},
    "dilated": {"num_residual_layers": 3, "upsampling_ratios": [4, 2], "target_bandwidths": [60.0]},
}


def tiny(kind: str) -> EncodecModel:
    """Random weights, and codebooks that lie where its latents do."""
    torch.manual_seed(1)
    sizes = {"num_filters": 2, "hidden_size": 8, "codebook_size": 32, "num_lstm_layers": 2, "target_bandwidths": [1.8]}
    model = EncodecModel(EncodecConfig(**sizes | KINDS[kind])).eval()
    with torch.inference_mode():
        latent = model.encoder(torch.randn(1, 1, 48_000) * LOUD)[0].T
        model.encoder.layers[-1].conv.bias -= latent.mean(dim=0)  # so that distances round by little
    for level, layer in enumerate(model.quantizer.layers):
        layer.codebook.embed.copy_(torch.randn(32, 8) * latent.std(dim=0) * 0.5**level)
    return model


MODELS = {kind: tiny(kind) for kind in KINDS}
CLIPS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 3)), min_size=1, max_size=5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(clips=CLIPS, span=st.integers(16, 40), piece=st.integers(20, 90), together=st.booleans())
def test_spans_and_batches_give_the_latents_of_the_whole(
    kind: str, clips: list[tuple[int, int]], span: int, piece: int, together: bool
) -> None:
    """`span` and `piece` in frames; clips of whole frames and of some samples more; alone, or together as on CUDA."""
    model = MODELS[kind]
    hop = model.config.hop_length
    generator = torch.Generator().manual_seed(len(clips))
    sounds = [torch.randn(max(1, whole * hop + more), generator=generator) * LOUD for whole, more in clips]
    long = [sound for sound in sounds if len(sound) % hop == 0 and len(sound) >= streaming.SHORTEST_FRAMES * hop]
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(streaming, "SPAN_SAMPLES", span * hop)
        patch.setattr(streaming, "SHORTEST_SPAN", span)
        patch.setattr(streaming, "PIECE_FRAMES", piece)
        patch.setattr(streaming, "quantize", lambda _, latent, levels: (latent * 1e6).round())  # fits int32
        heard = long if together else sounds
        found = streaming._encode_batch(model, long, 1) if together else encode_clips(model, sounds, 1)
        for sound, micro in zip(heard, found, strict=True):
            torch.testing.assert_close(micro.float() / 1e6, model.encoder(sound[None, None])[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_one_clip_at_a_time(kind: str) -> None:
    model = MODELS[kind]
    hop = model.config.hop_length
    generator = torch.Generator().manual_seed(3)
    sounds = [torch.randn(n, generator=generator) * LOUD for n in (hop * 40, hop * 61, hop * 200, hop * 17 + 1, 5)]
    levels = min(4, model.config.num_quantizers)
    with torch.inference_mode():
        alone = [Encodec(model).encode(sound, levels) for sound in sounds]
        for ours, theirs in zip(encode_clips(model, sounds, levels), alone, strict=True):
            assert torch.equal(ours.long(), theirs)
            assert theirs.shape[1] < 20 or len(theirs.unique()) > 16  # codes that say something
    tokenizer = AcousticTokenizer(model, levels)
    batch = tokenizer.encode_batch([sound.numpy() for sound in sounds], tokenizer.sample_rate)
    assert all((ours == theirs.numpy()).all() for ours, theirs in zip(batch, alone, strict=True))


def test_a_model_that_looks_ahead_is_heard_whole() -> None:
    model = EncodecModel(EncodecConfig(num_filters=2, hidden_size=8, codebook_size=32, use_causal_conv=False)).eval()
    assert not can_stream(model)
    tokenizer = AcousticTokenizer(model, 2)
    sounds = [torch.randn(n).numpy() * 0.1 for n in (3200, 6400)]
    batch = tokenizer.encode_batch(sounds, 24_000)
    assert [codes.shape for codes in batch] == [(2, 10), (2, 20)]
    with pytest.raises(ValueError, match="dtype=bf16: only causal EnCodec"):
        AcousticTokenizer(model, 2, "bf16")


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no bf16 arithmetic")
def test_bf16_is_another_tokenizer(tmp_path: Path) -> None:
    plain, other = AcousticTokenizer(tiny("starter"), 4), AcousticTokenizer(tiny("starter"), 4, "bf16")
    assert plain.spec.fingerprint != other.spec.fingerprint
    sound = torch.randn(48_000, generator=torch.Generator().manual_seed(0)).numpy() * LOUD
    left, right = plain.encode(sound, 24_000), other.encode(sound, 24_000)
    assert left.shape == right.shape
    assert 0 < (left != right).mean() < 0.5
    plain.save(tmp_path / "plain")
    line = ["fit", "acoustic", "-", "-o", tmp_path / "other", "--from", tmp_path / "plain", "levels=4", "dtype=bf16"]
    assert CliRunner().invoke(app, list(map(str, line))).exit_code == 0
    assert AcousticTokenizer.load(tmp_path / "other").spec == other.spec


def test_bf16_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.training.precision.has_bf16", lambda device: False)
    with pytest.raises(ValueError, match="no bf16 arithmetic"):
        AcousticTokenizer(tiny("starter"), 4, "bf16")
