"""The recogniser through transformers, on a Whisper of random weights in the format of the public ones."""

from pathlib import Path

import numpy as np
import pytest

from triptych.evaluation.recogniser import NO_REPEAT, TransformersRecogniser, load_recogniser, loops, prepared

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
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=list(SPECIAL[1:]), pad_token=SPECIAL[0]
    )
    end, start, *_, plain = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, max_target_positions=32,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, init_std=0.5,
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


def test_waveforms_heard_side_by_side_have_the_words_of_each_alone(
    whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of unlike lengths, since a frequent id also ends them; what is longer than the window is heard alone."""
    ear, rng = TransformersRecogniser(str(whisper)), np.random.default_rng(1)
    ids = ear.pipeline.model.model.decoder.embed_tokens.weight.data
    ids[ear.pipeline.tokenizer.eos_token_id] = 1.1 * ids[ear.pipeline.tokenizer.convert_tokens_to_ids(",")]
    spans = ((1, 0.1), (0.2, 0.01), (3, 0.3), (7, 0.03), (2, 0.1))
    sounds = [level * rng.normal(size=round(8000 * seconds)).astype(np.float32) for seconds, level in spans]
    alone = [ear.hear(sound, 8000) for sound in sounds]
    assert list(ear.hear_all(sounds, 8000)) == [(words, None) for words in alone]
    assert len(set(alone)) > 3 and len(set(map(len, alone))) > 2
    monkeypatch.setattr(ear, "hear", lambda sound, rate: f"{len(sound) / rate:g} s alone")
    long = np.zeros(31 * 8000, np.float32)
    assert list(ear.hear_all([sounds[0], long, sounds[1]], 8000))[1:] == [("31 s alone", None), (alone[1], None)]
    ear.pipeline.tokenizer.pad_token = None  # one that cannot be padded
    assert next(ear.hear_all(sounds, 8000)) == ("1 s alone", None)


def test_a_loop_is_heard_again_without_repetition(whisper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ear, rng = TransformersRecogniser(str(whisper)), np.random.default_rng(1)
    noise = prepared(0.1 * rng.normal(size=8000).astype(np.float32), 8000)
    (said,) = ear._ask([noise], False, no_repeat_ngram_size=NO_REPEAT)
    runs = [said[place : place + NO_REPEAT] for place in range(len(said) - NO_REPEAT + 1)]  # a letter is a token here
    assert len(runs) > 3 and len(set(runs)) == len(runs)
    loop, asked = "a male path re" + "-e" * 90, list[tuple[int, dict[str, int]]]()

    def ask(sounds: list[object], long: bool, **more: int) -> list[str]:
        asked.append((len(sounds), more))
        return ["a narrow path"] if more else ["one", loop, "three"]

    monkeypatch.setattr(ear, "_ask", ask)
    assert [text for text, _ in ear.hear_all([np.zeros(800, np.float32)] * 3, 8000)] == [
        "one",
        "a narrow path",
        "three",
    ]
    assert asked == [(3, {}), (1, {"no_repeat_ngram_size": NO_REPEAT})]
    assert not loops("A narrow path leads from the village down to the lake, and on to the next village.")


def test_a_damaged_folder_is_one_line(whisper: Path) -> None:
    (whisper / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        load_recogniser(str(whisper))
    assert "\n" not in str(error.value)
