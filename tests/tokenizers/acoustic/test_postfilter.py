"""The post-filter: nothing until it has learned, near-sighted, and saved beside the codec. test_fit.py trains one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.postfilter import Postfilter
from triptych.tokenizers.acoustic.settings import PostfilterConfig

torch.set_num_threads(1)
SMALL = PostfilterConfig(layers=2, dim=8, hidden=16)


def random_one(seed: int = 0) -> Postfilter:
    """One that changes much."""
    torch.manual_seed(seed)
    made = Postfilter(SMALL).eval().requires_grad_(False)
    made.leave.weight.normal_(std=0.3)
    return made


@pytest.mark.parametrize("samples", [1, 239, 240, 4_801])
def test_untrained_it_changes_nothing(samples):
    sound = torch.randn(2, samples) * 0.07
    torch.testing.assert_close(Postfilter(SMALL)(sound), sound, rtol=0, atol=1e-6)


def test_a_sample_depends_on_those_within_its_reach():
    made = random_one()
    sound = torch.randn(1, 12_000) * 0.07
    other = sound.clone()
    other[:, 6_000] += 0.5
    changed = (made(sound) - made(other)).abs()[0]
    assert changed[6_000 - 240 : 6_000 + 240].max() > 1e-3
    assert changed[: 6_000 - made.reach].max() < 1e-6 and changed[6_000 + made.reach :].max() < 1e-6


def codec_of(ratios: list[int]) -> AcousticTokenizer:
    torch.manual_seed(1)
    config = EncodecConfig(
        num_filters=4, hidden_size=8, codebook_dim=8, codebook_size=16, num_lstm_layers=1, upsampling_ratios=ratios,
        target_bandwidths=[0.6],
    )  # fmt: skip
    model = EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    return AcousticTokenizer(model, 2)


@pytest.fixture
def codec() -> AcousticTokenizer:
    return codec_of([3, 4, 5, 8])


def test_a_codec_keeps_it_beside_its_own_files(tmp_path, codec):
    codes = np.random.default_rng(0).integers(0, 16, (2, 40)).astype(np.uint16)
    filtered = AcousticTokenizer(codec.model, 2, postfilter=random_one())
    filtered.save(tmp_path / "filtered")
    again = AcousticTokenizer.load(tmp_path / "filtered")
    assert again.spec == codec.spec and codec.ahead == 0 and again.ahead == -(-again.postfilter.reach // 480)
    assert EncodecModel.from_pretrained(tmp_path / "filtered").config.hop_length == codec.spec.hop
    np.testing.assert_array_equal(again.decode(codes), filtered.decode(codes))
    assert np.abs(again.decode(codes) - codec.decode(codes)).max() > 1e-3
    with torch.inference_mode():
        mended = again.postfilter(torch.from_numpy(codec.decode(codes))[None])[0].numpy()
    np.testing.assert_array_equal(again.decode(codes), mended)


@pytest.mark.parametrize("ratios", [[3, 4, 5, 8], [8, 5, 4, 2]])
def test_spans_are_those_of_the_whole(ratios):
    """Wherever they begin, and with no more after them than `ahead`: what a stream has."""
    filtered = AcousticTokenizer(codec_of(ratios).model, 2, postfilter=random_one())
    codes = np.random.default_rng(0).integers(0, 16, (2, 500)).astype(np.uint16)
    whole, hop, ends = filtered.decode(codes), filtered.spec.hop, [0, 171, 322, 400]
    for first, stop in itertools.pairwise(ends):
        span = filtered.decode_span(codes[:, : stop + filtered.ahead], first, stop)
        assert np.abs(span - whole[first * hop : stop * hop]).max() < 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("name", ["postfilter.json", "postfilter.safetensors"])
def test_half_of_it_is_refused(tmp_path, codec, name):
    AcousticTokenizer(codec.model, 2, postfilter=random_one()).save(tmp_path / "filtered")
    (tmp_path / "filtered" / name).unlink()
    with pytest.raises(ValueError, match=name):
        AcousticTokenizer.load(tmp_path / "filtered")


def test_weights_of_another_shape_are_refused(tmp_path, codec):
    AcousticTokenizer(codec.model, 2, postfilter=random_one()).save(tmp_path / "filtered")
    (tmp_path / "other").mkdir()
    Postfilter(replace(SMALL, dim=16)).save(tmp_path / "other")
    (tmp_path / "other" / "postfilter.safetensors").rename(tmp_path / "filtered" / "postfilter.safetensors")
    with pytest.raises(ValueError, match=r"postfilter\.safetensors cannot be read.*size mismatch"):
        AcousticTokenizer.load(tmp_path / "filtered")


def test_spectra_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="a third"):
        PostfilterConfig(layers=1, window=512, hop=256)
