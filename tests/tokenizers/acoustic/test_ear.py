"""An ear hears as its tokenizer does, lets gradients through to what was made, and is no part of a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from triptych.tokenizers.acoustic.decoder_trainee import DecoderTrainee
from triptych.tokenizers.acoustic.ear import Ear, log_mels, resample
from triptych.tokenizers.acoustic.fit import fit_acoustic
from triptych.tokenizers.acoustic.mel import SoundDistance
from triptych.tokenizers.acoustic.settings import CodecFitConfig, DiscriminatorConfig
from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.ctc_head import CtcHead
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.inputs import with_floor
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONFIG = CodecFitConfig(
    training=TrainingConfig(max_steps=6, warmup_steps=1, final_ratio=1.0, threads=1, log_every=1),
    ratios=(3, 4, 5, 8), filters=4, hidden=16, lstm_layers=1, levels=2, codebook_size=16, crop_seconds=0.4, batch=2,
    unquantised_steps=1, reservoir=64, mel_windows=(256,), validation_clips=1,
)  # fmt: skip


def tokenizer(family: str, folder: Path, phonemes: bool = False) -> SemanticTokenizer:
    torch.manual_seed(0)
    model: Any
    if family == "wav2vec2-bert":
        model, extractor = Wav2Vec2BertModel(Wav2Vec2BertConfig(**SIZES)), SeamlessM4TFeatureExtractor()
    elif family == "hubert":
        waves = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        config = HubertConfig(**SIZES, **waves, feat_extract_norm="layer", do_stable_layer_norm=True)
        model, extractor = HubertModel(config), Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    else:
        sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
        decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 60}
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        model = WhisperModel(WhisperConfig(**sizes, **decoder, **ids, max_source_positions=100))
        extractor = WhisperFeatureExtractor(chunk_length=2)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    head = CtcHead(torch.randn(2 * 4, 16), torch.randn(2 * 4), 2, 2, ("a", "b", "c")).rounded()
    compared = Compared(True, 0.5, head) if phonemes else Compared(True)
    return SemanticTokenizer(Encoder.load(folder, 2), torch.randn(4, compared.width(16)), compared)


def noise(seed: int, samples: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed)).cumsum(1) * 0.003


def test_filterbanks_are_those_of_the_tokenizer() -> None:
    waveform = noise(0, 16_050)
    wanted = filterbank.log_mels(waveform[0].numpy())
    assert log_mels(waveform).shape == (1, *wanted.shape)
    assert np.abs(log_mels(waveform)[0].numpy() - wanted).max() < 0.01


def test_a_tone_is_the_same_tone_at_another_rate() -> None:
    turn = 2 * torch.pi * 440
    at = lambda rate: torch.sin(turn * torch.arange(rate, dtype=torch.float64) / rate)[None]  # noqa: E731
    for rate in (8_000, 24_000, 48_000):
        assert (resample(at(rate), rate) - at(16_000)).abs().max() < 1e-6
    high = torch.sin(2 * torch.pi * 9_000 * torch.arange(24_000, dtype=torch.float64) / 24_000)[None]
    assert resample(high, 24_000).abs().max() < 1e-6


@pytest.mark.parametrize(("family", "floor_db"), [("wav2vec2-bert", 0.0), ("wav2vec2-bert", 20.0), ("hubert", 0.0)])
def test_it_hears_what_the_tokenizer_hears(family: str, floor_db: float, tmp_path: Path) -> None:
    heard = tokenizer(family, tmp_path)
    heard.encoder.front = with_floor(heard.encoder.front, floor_db)
    ear, waveform = Ear(heard, 16_000), noise(0, 16_000)
    with torch.no_grad():
        states, _ = ear._hear(ear._input(waveform)[0])
    (wanted,) = heard.encoder.features([waveform[0].numpy()])
    assert len(states) == heard.encoder.layer
    assert states[-1][0].shape == wanted.shape
    assert (states[-1][0] - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("family", ["wav2vec2-bert", "hubert"])
def test_it_pulls_what_was_made_towards_what_was_given(family: str, tmp_path: Path) -> None:
    ear = Ear(tokenizer(family, tmp_path, phonemes=True), 24_000)
    given, made = noise(0, 12_000, 2), noise(1, 12_000, 2).requires_grad_()
    assert float(ear.distance(given, given)) == 0.0
    before = ear.distance(made, given)
    before.backward()
    assert made.grad is not None and made.grad.isfinite().all()
    step = made.grad / made.grad.norm() * made.detach().norm() * 0.01
    assert ear.distance(made.detach() - step, given) < before
    assert not any(parameter.requires_grad for parameter in ear.encoder.model.parameters())


def test_what_was_made_is_heard_with_the_floor_of_what_was_given(tmp_path: Path) -> None:
    """So that a sound that is too faint is not taken for a good one."""
    ear = Ear(tokenizer("wav2vec2-bert", tmp_path), 24_000)
    ear.front = with_floor(ear.front, 20.0)
    given = noise(0, 12_000)
    _, known = ear._input(given)
    heard, kept = ear._input(given * 0.1, known)
    own, _ = ear._input(given * 0.1)
    assert known.floor is not None and kept.floor is known.floor
    assert float(ear.distance(given, given)) == 0.0 < float(ear.distance(given * 0.1, given))
    assert not torch.allclose(heard, own, atol=0.1)


def test_a_row_does_not_know_its_neighbours(tmp_path: Path) -> None:
    ear = Ear(tokenizer("wav2vec2-bert", tmp_path, phonemes=True), 24_000)
    given, made = noise(0, 12_000, 3) * torch.tensor([[1.0], [0.1], [3.0]]), noise(1, 12_000, 3)
    alone = [float(ear.distance(made[i : i + 1], given[i : i + 1])) for i in range(3)]
    assert float(ear.distance(made, given)) == pytest.approx(sum(alone) / 3, rel=1e-4)


def test_phonemes_are_heard_where_the_tokenizer_hears_them(tmp_path: Path) -> None:
    with_them = Ear(tokenizer("wav2vec2-bert", tmp_path / "a", phonemes=True), 24_000)
    without = Ear(tokenizer("wav2vec2-bert", tmp_path / "b"), 24_000)
    given, made = noise(0, 12_000), noise(1, 12_000)
    assert with_them.distance(made, given) > without.distance(made, given)


def test_an_encoder_that_hears_thirty_seconds_is_no_ear(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crops are shorter"):
        Ear(tokenizer("whisper", tmp_path), 24_000)


def test_the_distance_counts_it_by_its_weight(tmp_path: Path) -> None:
    ear = Ear(tokenizer("hubert", tmp_path), 24_000)
    given, made = noise(0, 12_000), noise(1, 12_000)
    plain = SoundDistance(24_000, (256,), 0.5)(made, given)[0]
    for weight in (0.0, 2.0):
        total, parts = SoundDistance(24_000, (256,), 0.5, ear, weight)(made, given)
        assert total.item() == pytest.approx((plain + weight * ear.distance(made, given)).item())
        assert set(parts) == {"mel", "waveform", "ear"}


class Noise:
    """Satisfies `Clips`."""

    sample_rate = 24_000

    def __len__(self) -> int:
        return 2

    def seconds(self, i: int) -> float:
        return 0.5

    def waveform(self, i: int) -> Any:
        return noise(i, 12_000)[0].numpy()

    def text(self, i: int) -> None:
        return None

    speaker = text

    def name(self, i: int) -> str:
        return f"noise {i}"


@pytest.mark.parametrize("adverse", [False, True])
def test_a_decoder_learns_from_it_and_keeps_none_of_its_weights(adverse: bool, tmp_path: Path) -> None:
    tokenizer("wav2vec2-bert", tmp_path / "encoder").save(tmp_path / "ear")
    fit_acoustic(Noise(), Noise(), tmp_path / "codec", CONFIG)
    config = replace(CONFIG, decoder_of=str(tmp_path / "codec"), ear=str(tmp_path / "ear"), ear_weight=5.0)
    if adverse:
        config = replace(
            config,
            discriminator=DiscriminatorConfig(start=0, alone_steps=1, windows=(256,), filters=4, ear_weight=20.0),
        )
    config = replace(config, training=replace(config.training, max_steps=25, learning_rate=2e-3))
    before = DecoderTrainee(config, str(tmp_path / "codec")).eval().listen(noise(0, 12_000)[0]).metrics["ear"]
    fit_acoustic(Noise(), Noise(), tmp_path / "after", config)
    after = DecoderTrainee(config, str(tmp_path / "after")).eval().listen(noise(0, 12_000)[0]).metrics["ear"]
    assert after < before
    saved = (find_checkpoint(tmp_path / "after.run") / "model.safetensors").stat().st_size
    plain = sum(
        x.nbytes for x in DecoderTrainee(replace(config, ear=None), str(tmp_path / "codec")).state_dict().values()
    )
    assert saved < plain + 20_000


def test_a_folder_that_is_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    fit_acoustic(Noise(), Noise(), tmp_path / "codec", CONFIG)
    config = replace(CONFIG, decoder_of=str(tmp_path / "codec"), ear=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"ear=.*nothing: .*name the folder of a semantic tokenizer") as error:
        fit_acoustic(Noise(), Noise(), tmp_path / "after", config)
    assert "\n" not in str(error.value) and not (tmp_path / "after").exists()
