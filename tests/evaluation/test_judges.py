"""Judges: what they say is the library's own number, they are asked once, and one that is missing says so."""

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest

from triptych.evaluation import judges as module
from triptych.evaluation.judges import Memory, RememberingRecogniser, RememberingSpeaker, described, load_judges
from triptych.evaluation.score import count_character_errors, count_errors
from triptych.evaluation.speaker import XVector, load_speaker
from triptych.tokenizers.waveform import Waveform

RATE = 16_000
NOISE = (0.1 * np.random.default_rng(0).normal(size=RATE)).astype(np.float32)


class Ear:
    asked = 0

    def hear(self, waveform: Waveform, sample_rate: int) -> str:
        self.asked += 1
        return "good morning"


class SureEar(Ear):
    def hear_surely(self, waveform: Waveform, sample_rate: int) -> tuple[str, float | None]:
        return self.hear(waveform, sample_rate), -0.25


class ManyEar(Ear):
    """Dies of a waveform that begins with 9."""

    def hear_all(self, waveforms: Sequence[Waveform], sample_rate: int) -> Iterator[tuple[str, float | None]]:
        for one in waveforms:
            if one[0] == 9:
                raise KeyboardInterrupt
            self.asked += 1
            yield f"{len(one)} of {len(waveforms)}", -0.5


class Voice:
    asked = 0

    def embed(self, waveform: Waveform, sample_rate: int) -> np.ndarray:
        self.asked += 1
        return np.array([1 / 3, 2.0], np.float32)


def test_a_waveform_is_heard_once_and_after_a_kill_not_again(tmp_path: Path) -> None:
    path, ear = tmp_path / "deep" / "judged.jsonl", SureEar()
    first = RememberingRecogniser(ear, "ear", Memory(path))
    assert [first.hear(NOISE, RATE) for _ in range(2)] == ["good morning"] * 2
    assert first.hear_surely(NOISE, RATE) == ("good morning", -0.25)
    with path.open("a") as stream:
        stream.write('{"key": "cut sh')
    again = RememberingRecogniser(ear, "ear", Memory(path))
    assert again.hear(NOISE, RATE) == "good morning" and ear.asked == 1
    assert RememberingRecogniser(ear, "another", Memory(path)).hear(NOISE, RATE) and ear.asked == 2
    assert again.hear(NOISE[:-1], RATE) and again.hear(NOISE, RATE // 2) and ear.asked == 4
    assert again.hear(np.zeros(100, np.float32), RATE) == "" and ear.asked == 4


def test_a_recogniser_that_does_not_say_how_sure_it_is(tmp_path: Path) -> None:
    remembering = RememberingRecogniser(Ear(), "ear", Memory(tmp_path / "j"))
    assert remembering.hear_surely(NOISE, RATE) == ("good morning", None)


def test_what_is_not_known_is_heard_side_by_side_and_kept_as_it_comes(tmp_path: Path) -> None:
    path, ear = tmp_path / "judged.jsonl", ManyEar()
    first = RememberingRecogniser(ear, "ear", Memory(path))
    first.hear(NOISE[:100], RATE)
    sounds = [NOISE[:size] for size in (100, 200, 300, 400, 200)]
    first.hear_ahead([*sounds, np.zeros(100, np.float32)], RATE, 2)
    assert ear.asked == 4
    heard = [first.hear_surely(sound, RATE) for sound in sounds]
    assert heard == [("good morning", None), ("200 of 2", -0.5), ("300 of 2", -0.5), ("400 of 1", -0.5), heard[1]]
    with pytest.raises(KeyboardInterrupt):
        first.hear_ahead([NOISE[:500], np.full(600, 9, np.float32)], RATE, 2)
    again = RememberingRecogniser(ear, "ear", Memory(path))
    assert again.hear_surely(NOISE[:500], RATE) == ("500 of 2", -0.5) and ear.asked == 5


def test_ears_that_hear_one_at_a_time_are_not_asked_ahead(tmp_path: Path) -> None:
    ear = SureEar()
    RememberingRecogniser(ear, "ear", Memory(tmp_path / "j")).hear_ahead([NOISE], RATE, 2)
    assert ear.asked == 0


def test_a_remembered_voice_is_the_same(tmp_path: Path) -> None:
    voice = Voice()
    first = RememberingSpeaker(voice, "v", Memory(tmp_path / "j")).embed(NOISE, RATE)
    second = RememberingSpeaker(voice, "v", Memory(tmp_path / "j")).embed(NOISE, RATE)
    assert voice.asked == 1 and (first == second).all() and first == pytest.approx([1 / 3, 2.0])


def test_absent_judges_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_judges("none", "none", "none", Memory(tmp_path / "j"))
    assert (found.recogniser, found.speaker, found.naturalness, dict(found.names)) == (None, None, None, {})
    assert set(found.absent) == {"recogniser", "speaker", "naturalness"}
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    found = load_judges("owner/model", "resemblyzer", "dnsmos", Memory(tmp_path / "j"))
    assert not found.names and all("pip install" in why for why in found.absent.values()) and len(found.absent) == 3


def test_errors_are_jiwers_own() -> None:
    wanted, heard = "the old bridge was closed", "the cold ridge closed now"
    assert count_errors(wanted, heard) / len(wanted.split()) == pytest.approx(jiwer.wer(wanted, heard))
    assert count_character_errors(wanted, heard) / len(wanted) == pytest.approx(jiwer.cer(wanted, heard))
    assert count_character_errors("", "abc") == count_character_errors("abc", "") == 3


def test_a_folder_is_named_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "ear").mkdir()
    (tmp_path / "ear" / "model.safetensors").write_bytes(b"weights")
    said = described(str(tmp_path / "ear"), "transformers")
    assert said.startswith("ear (9a129556") or said.startswith("ear (")
    assert str(tmp_path) not in said and "transformers 5" in said
    (tmp_path / "ear" / "model.safetensors").write_bytes(b"others")
    assert described(str(tmp_path / "ear"), "transformers") != said
    assert described("owner/model", "transformers").startswith("owner/model, transformers")


@pytest.fixture(scope="module")
def xvector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        tdnn_dim=(16, 16, 16, 16, 32), xvector_output_dim=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("xvector")
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def test_an_x_vector_is_the_models_own(xvector: Path) -> None:
    import torch
    from transformers import AutoFeatureExtractor, WavLMForXVector

    speaker = load_speaker(str(xvector))
    assert isinstance(speaker, XVector)
    found = speaker.embed(NOISE, RATE)
    given = AutoFeatureExtractor.from_pretrained(xvector)(NOISE, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        wanted = WavLMForXVector.from_pretrained(xvector).eval()(**given).embeddings[0].numpy()
    assert found.shape == (8,) and found == pytest.approx(wanted, abs=1e-5)
    assert np.isfinite(speaker.embed(NOISE[:50], RATE)).all()


def test_models_of_another_kind_are_one_line(xvector: Path, tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    with pytest.raises(ValueError, match="cannot be loaded") as error:
        load_speaker(str(tmp_path))
    assert "\n" not in str(error.value)
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    WavLMModel(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="none of an x-vector model"):
        load_speaker(str(tmp_path))


needs_dnsmos = pytest.mark.skipif(find_spec("speechmos") is None, reason="speechmos is not installed")


@needs_dnsmos
def test_naturalness_is_speechmos_own() -> None:
    from speechmos import dnsmos

    from triptych.evaluation.naturalness import Dnsmos

    found = Dnsmos().rate(NOISE * 20, RATE)
    assert found == pytest.approx(dnsmos.run(np.clip(NOISE * 20, -1, 1), RATE)["ovrl_mos"])


def test_naturalness_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from triptych.evaluation.naturalness import Dnsmos

    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(ValueError, match="pip install 'triptych"):
        Dnsmos()


def test_a_text_is_as_likely_as_the_model_says(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from tokenizers import Tokenizer, models, pre_tokenizers
    from triptych.evaluation.sense import Reader

    words = {"<s>": 0, "good": 1, "morning": 2, "<unk>": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    reader = Reader(str(tmp_path))
    ids = torch.tensor([[0, 1, 2]])
    with torch.inference_mode():
        wanted = float(reader.model(input_ids=ids, labels=ids).loss) * 2
    assert reader.nats("good morning") == pytest.approx(wanted, rel=1e-5)
    assert reader.nats(" ") is None
    with pytest.raises(ValueError, match="language_model"):
        Reader(str(tmp_path / "none"))
