"""EnCodec as a tokenizer: frames, levels, equality with transformers, and a codec of one's own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.families import transposed
from triptych.tokenizers.acoustic.fit import fit_acoustic
from triptych.tokenizers.acoustic.trainee import CodecFitConfig, CodecTrainee, perplexity
from triptych.training.config import TrainingConfig

torch.set_num_threads(1)
TINY = CodecFitConfig(
    training=TrainingConfig(max_steps=8, warmup_steps=2, final_ratio=1.0, checkpoint_every=4, threads=1),
    ratios=(3, 4, 5, 8), filters=4, hidden=16, lstm_layers=1, levels=3, codebook_size=32, crop_seconds=0.3, batch=2,
    unquantised_steps=3, reservoir=128, mel_windows=(256, 1024), validation_clips=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small real checkpoint with the field names of facebook/encodec_24khz."""
    torch.manual_seed(0)
    config = EncodecConfig(
        num_filters=4, hidden_size=16, codebook_size=64, num_lstm_layers=1, target_bandwidths=[1.8, 3.6]
    )
    model = EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    path = tmp_path_factory.mktemp("codec")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def codec(folder):
    return AcousticTokenizer.load(folder)


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 4000))
def test_frames_are_a_ceiling_and_decoding_gives_them_back(codec, samples):
    codes = codec.encode(np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * 0.1, 24_000)
    assert codes.shape == (codec.spec.levels, -(-samples // codec.spec.hop)) and codes.max() < codec.spec.size
    assert codec.decode(codes).shape == (codes.shape[1] * codec.spec.hop,)


def test_codes_and_sound_equal_transformers(codec, folder):
    model = EncodecModel.from_pretrained(folder).eval()
    waveform = np.random.default_rng(0).standard_normal(9600).astype(np.float32) * 0.1
    with torch.no_grad():
        theirs = model.encode(torch.from_numpy(waveform)[None, None], bandwidth=3.6).audio_codes
        sound = model.decode(theirs, [None]).audio_values[0, 0]
    ours = codec.encode(waveform, 24_000)
    assert (theirs[0, 0].numpy() == ours[: theirs.shape[2]]).all()
    assert np.allclose(codec.decode(theirs[0, 0].numpy()), sound[:9600].numpy(), atol=1e-5)


def test_fewer_levels_are_the_first_ones(codec, folder):
    waveform = np.random.default_rng(0).standard_normal(4800).astype(np.float32) * 0.1
    two = AcousticTokenizer.load(folder, num_levels=2)
    assert (two.encode(waveform, 24_000) == codec.encode(waveform, 24_000)[:2]).all()
    assert two.spec.fingerprint != codec.spec.fingerprint
    with pytest.raises(ValueError, match="levels=99"):
        AcousticTokenizer.load(folder, num_levels=99)


def test_what_lies_on_no_grid_is_refused(tmp_path):
    stereo = {"audio_channels": 2, "normalize": True, "chunk_length_s": 1.0}
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_size=8, target_bandwidths=[0.45], **stereo)
    EncodecModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="grid"):
        AcousticTokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        AcousticTokenizer.load(tmp_path / "absent")


def test_saved_and_loaded_is_the_same_tokenizer(codec, tmp_path):
    codec.save(tmp_path / "copy")
    copy = AcousticTokenizer.load(tmp_path / "copy")
    waveform = np.random.default_rng(1).standard_normal(4800).astype(np.float32) * 0.1
    assert (copy.encode(waveform, 24_000) == codec.encode(waveform, 24_000)).all()


class Noise:
    """Clips of coloured noise."""

    sample_rate = 24_000

    def __len__(self):
        return 3

    def seconds(self, i):
        return 0.5

    def waveform(self, i):
        rng = np.random.default_rng(i)
        return (np.cumsum(rng.standard_normal(12_000)) * 0.002).astype(np.float32)

    def text(self, i):
        return None

    def speaker(self, i):
        return None

    def name(self, i):
        return f"noise {i}"


def test_a_fitted_codec_is_an_ordinary_checkpoint_and_resumes_exactly(tmp_path):
    fitted = fit_acoustic(Noise(), Noise(), tmp_path / "codec", TINY)
    model = EncodecModel.from_pretrained(tmp_path / "codec")
    assert model.config.hop_length == TINY.hop == fitted.spec.hop and fitted.spec.levels == 3
    short = replace(TINY, training=replace(TINY.training, max_steps=4))
    fit_acoustic(Noise(), Noise(), tmp_path / "half", short)
    run = tmp_path / "again.run"
    (tmp_path / "half.run").rename(run)
    resumed = fit_acoustic(Noise(), Noise(), tmp_path / "again", TINY, resume=True)
    assert resumed.spec.fingerprint == fitted.spec.fingerprint
    with pytest.raises(ValueError, match="exists already"):
        fit_acoustic(Noise(), Noise(), tmp_path / "codec", TINY)


def test_a_decoder_learns_on_under_the_same_codes(tmp_path):
    first = fit_acoustic(Noise(), Noise(), tmp_path / "codec", TINY)
    further = replace(TINY, decoder_of=str(tmp_path / "codec"))
    second = fit_acoustic(Noise(), Noise(), tmp_path / "further", further)
    assert second.spec == first.spec
    waveform = Noise().waveform(0)
    codes = first.encode(waveform, 24_000)
    assert (second.encode(waveform, 24_000) == codes).all()
    assert not np.allclose(second.decode(codes), first.decode(codes))
    with pytest.raises(ValueError, match="hop"):
        fit_acoustic(Noise(), Noise(), tmp_path / "other", replace(further, ratios=(3, 4, 5, 4)))
    third = fit_acoustic(Noise(), Noise(), tmp_path / "between", replace(further, decoder_share=0.25))
    ends = [codec.model.decoder.state_dict() for codec in (first, second)]
    for name, weight in third.model.decoder.state_dict().items():
        torch.testing.assert_close(weight, torch.lerp(ends[0][name], ends[1][name], 0.25), rtol=2e-3, atol=1e-5)
    with pytest.raises(ValueError, match="decoder_share is for decoder_of"):
        fit_acoustic(Noise(), Noise(), tmp_path / "other", replace(TINY, decoder_share=0.5))


def test_codebooks_start_from_real_vectors_and_are_used():
    torch.manual_seed(0)
    model = CodecTrainee(TINY).train()
    batch = torch.from_numpy(np.stack([Noise().waveform(i)[:7200] for i in range(2)]))
    for step in range(1, TINY.unquantised_steps + 2):
        model.begin_step(step)
        loss, metrics = model.loss(batch)
    assert float(metrics["perplexity_0"]) > 4
    latent = model.encoder(batch[:, None]).transpose(1, 2)
    errors = []
    for kept in (1, 3):
        quantised, _, _ = model.eval().quantise(latent, torch.full((2,), kept))
        errors.append(float((quantised - latent).square().mean()))
    assert errors[1] < errors[0]
    loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_a_signal_keeps_its_variance_through_a_new_codec():
    torch.manual_seed(0)
    model = CodecTrainee(CodecFitConfig(filters=8, ratios=(3, 4, 5, 8), lstm_layers=1))
    speech = torch.randn(2, 1, 24_000) * 0.07
    latent = model.encoder(speech)
    sound = model.decoder(latent)
    assert 0.2 < float(latent.std()) < 5 and 0.2 < float(sound.std() / speech.std()) < 5
    assert float(latent.std(dim=2).mean()) > 0.2  # it moves with the signal


def test_perplexity_counts_what_is_used():
    assert float(perplexity(torch.zeros(100, dtype=torch.long), 8)) == pytest.approx(1.0, abs=1e-4)
    assert float(perplexity(torch.arange(800) % 8, 8)) == pytest.approx(8.0, rel=1e-4)


def test_the_fingerprint_is_of_what_decides_the_codes(folder):
    def changed(part):
        model = EncodecModel.from_pretrained(folder)
        with torch.no_grad():
            next(part(model).parameters()).add_(0.1)
        return AcousticTokenizer(model, 2).spec.fingerprint

    own = AcousticTokenizer.load(folder, num_levels=2).spec.fingerprint
    assert changed(lambda model: model.decoder) == own
    assert changed(lambda model: model.encoder) != own


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(16, 8, True), (6, 3, False), (2, 2, True)])
def test_the_transposed_convolution_is_torchs(kernel, stride, bias):
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose1d(6, 4, kernel, stride, bias=bias)
    for frames in (1, 2, 37):
        hidden = torch.randn(2, 6, frames)
        torch.testing.assert_close(transposed(layer, hidden), layer(hidden))


def test_a_copied_codec_computes_with_its_own_weights(codec):
    other = copy.deepcopy(codec.model)
    with torch.no_grad():
        for layer in other.decoder.modules():
            if isinstance(layer, torch.nn.ConvTranspose1d):
                layer.bias.fill_(3.0)
    latent = torch.zeros(1, codec.model.config.hidden_size, 4)
    before, after = codec.model.decoder(latent), other.decoder(latent)
    assert (before - after).abs().max() > 0.01


def test_a_clip_that_cannot_be_used_says_how_to_go_on(tmp_path):
    class Silent(Noise):
        def waveform(self, i):
            raise ValueError(f"{i}.wav: silence throughout")

    with pytest.raises(ValueError, match=r"silence throughout: take noise \d out of the manifest.*prepare --strict"):
        fit_acoustic(Silent(), Noise(), tmp_path / "codec", TINY)
