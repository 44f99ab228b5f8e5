"""The recogniser through transformers, on a Whisper of random weights in the format of the public ones."""

from pathlib import Path

import numpy as np
import pytest

from triptych.evaluation.recogniser import TransformersRecogniser, load_recogniser

SPECIAL = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    vocabulary = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=list(SPECIAL[1:]))
    end, start, *_, plain = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, max_target_positions=32,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    generation = model.generation_config
    generation.is_multilingual, generation.no_timestamps_token_id, generation.max_length = False, plain, 12
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_heard(whisper: Path) -> None:
    ear = load_recogniser(str(whisper))
    assert isinstance(ear, TransformersRecogniser) and ear.whisper
    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1
    heard = ear.hear(noise, 8000)
    assert heard and heard == ear.hear(noise, 8000)


def test_a_damaged_folder_is_one_line(whisper: Path) -> None:
    (whisper / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        load_recogniser(str(whisper))
    assert "\n" not in str(error.value)
