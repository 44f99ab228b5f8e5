"""From recordings to shards to stages with codecs of other rates, levels and sizes than EnCodec's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import DacConfig, DacModel, MimiConfig, MimiModel

from triptych.corpus.manifest import Recording, write_manifest
from triptych.corpus.shards import ShardConfig, ShardSet, verify, write_shards
from triptych.lm.transformer import TransformerConfig
from triptych.stages.cascade import Cascade
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.request import Settings
from triptych.stages.span import PromptConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.tokenizers.acoustic import codec as codec_module
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.spec import TokenizerSpec, WaveformSpec
from triptych.tokenizers.trio import Tokenizers

SECONDS = (0.7, 1.1)


class FrameNumbers:
    """A semantic tokenizer of 50 Hz: frame k of a clip is token k."""

    spec = TokenizerSpec("semantic", "counting", 1000, 16_000, 320, fingerprint="counting-1")

    def encode(self, waveforms: Any, sample_rate: int) -> list[np.ndarray]:
        return [np.arange(len(w) * 50 // sample_rate, dtype=np.uint16) for w in waveforms]


def dac() -> Any:
    """As descript/dac_44khz, 86.13 Hz, but for the widths: 50 Hz meets it every 5.12 s only."""
    small = {"encoder_hidden_size": 2, "decoder_hidden_size": 16, "hidden_size": 32}
    return DacModel(DacConfig(**small, downsampling_ratios=[2, 4, 8, 8], n_codebooks=9, sampling_rate=44_100))


def mimi() -> Any:
    """As kyutai/mimi, 12.5 Hz and 32 levels of 2048, but for the widths."""
    small = {"hidden_size": 16, "num_filters": 2, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8}
    shape = {"num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = MimiModel(MimiConfig(**small, **shape, upsample_groups=16))
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):
            buffer.normal_()
    return model


@pytest.fixture(params=[dac, mimi])
def tokenizers(request: pytest.FixtureRequest) -> Tokenizers:
    torch.manual_seed(0)
    model = request.param()
    codec = AcousticTokenizer(model, model.config.n_codebooks if request.param is dac else 32)
    semantic: Any = FrameNumbers()
    return Tokenizers(None, semantic, codec, WaveformSpec(codec.sample_rate, None))


@pytest.fixture
def shards(tokenizers: Tokenizers, tmp_path: Path) -> ShardSet:
    recordings = []
    for i, seconds in enumerate(SECONDS):
        path = tmp_path / f"{i}.wav"
        noise = np.random.default_rng(i).uniform(-0.5, 0.5, round(seconds * tokenizers.waveform.sample_rate))
        soundfile.write(path, noise, tokenizers.waveform.sample_rate, subtype="FLOAT")
        recordings.append(Recording(id=str(i), path=path, seconds=seconds, text=None, speaker="ann", split="train"))
    write_manifest(tmp_path / "m.jsonl", recordings)
    write_shards(tmp_path / "m.jsonl", tokenizers, tmp_path / "shards", ShardConfig())
    assert verify(tmp_path / "shards") == len(SECONDS)
    return ShardSet.open(tmp_path / "shards", tokenizers.specs, tokenizers.waveform)


def test_codes_come_back_from_shards_and_decode_to_the_clip(
    shards: ShardSet, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    codec, grid = tokenizers.acoustic, shards.grid
    for i in range(len(SECONDS)):
        tokens = tokenizers.tokens(tokenizers.prepare_file(tmp_path / f"{i}.wav"))
        np.testing.assert_array_equal(shards.codes(i), tokens.codes)
        np.testing.assert_array_equal(shards.semantic(i), tokens.semantic)
        beats = -(-tokens.samples // int(grid.beat * codec.sample_rate))
        assert tokens.codes.shape == (codec.num_levels, beats * grid.acoustic_per_beat)
        assert tokens.semantic.shape == (beats * grid.semantic_per_beat,)
        sound = codec.decode(tokens.codes)
        assert len(sound) == beats * grid.beat * codec.sample_rate >= tokens.samples
    if codec.codebook_size == 2048:  # ids that a size of 1024 could not hold
        assert max(int(shards.codes(i).max()) for i in range(len(SECONDS))) >= 1024


def test_a_recording_too_long_for_one_piece_is_rejected(
    shards: ShardSet, tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "ONE_PIECE_MINUTES", 1.0 / 60)
    summary = write_shards(tmp_path / "m.jsonl", tokenizers, tmp_path / "few", ShardConfig(max_rejected=0.5))
    assert (summary.rows, summary.rejected) == (1, 1)
    assert summary.first_reason is not None and "minutes are too long" in summary.first_reason


def test_crops_of_both_lie_at_the_same_time(shards: ShardSet, tokenizers: Tokenizers) -> None:
    """Whatever the crop, a semantic token is the encoder's frame of the moment where it lies on the codec's clock."""
    speech, codec = Speech(shards, "train"), tokenizers.acoustic
    for start in range(speech.beats(1)):
        crop = speech.clip(1, start, 2)
        begin = start * speech.grid.acoustic_per_beat / float(codec.frame_rate)
        for k, frame in enumerate(crop.semantic[: speech.grid.semantic_per_beat]):
            centre = begin + (k + 0.5) / float(speech.grid.semantic_rate)
            assert abs((int(frame) + 0.5) / 50 - centre) <= 0.01 + 0.02  # half a frame; one more where the clip ends
        assert crop.codes.shape[1] * speech.grid.semantic_per_beat == len(crop.semantic) * speech.grid.acoustic_per_beat


def test_stages_train_on_its_codes_and_a_cascade_makes_them(
    shards: ShardSet, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    speech, shape = Speech(shards, "train"), TransformerConfig(dim=16, layers=1, heads=2)
    specs = Specs(shards.specs["semantic"], shards.specs["acoustic"], None)
    prompt = PromptConfig(share=0.5, seconds=(0.3, 0.4), max_seconds=2.0)
    coarse = CoarseStage(CoarseConfig(transformer=shape, prompt=prompt), specs)
    flat = CoarseStage(CoarseConfig(layout="flattened", levels=3, transformer=shape, prompt=prompt), specs)
    fine = FineStage(
        FineConfig(transformer=TransformerConfig(dim=16, layers=1, heads=2, causal=False), prompt=prompt), specs
    )
    for stage in (coarse, flat, fine):
        rows = [stage.row(speech, i, np.random.default_rng(i)) for i in range(len(SECONDS))]
        loss, _ = stage.model().loss(stage.collate(rows))
        ids = specs.acoustic.size if stage is not flat else 3 * specs.acoustic.size + specs.semantic.size
        assert float(loss.detach()) == pytest.approx(np.log(ids), rel=0.2)
    stages = {stage.name: (stage, stage.model().eval()) for stage in (coarse, fine)}
    cascade = Cascade(tokenizers, stages, {}, Settings(prompt_seconds=0.4))
    converted = cascade.convert(tmp_path / "0.wav", voice=tmp_path / "1.wav")
    beats = speech.beats(0)
    np.testing.assert_array_equal(converted.semantic, speech.clip(0).semantic)
    assert converted.codes.shape == (specs.acoustic.levels, beats * speech.grid.acoustic_per_beat)
    assert converted.codes.max() < specs.acoustic.size
    assert len(converted.waveform) == beats * speech.grid.beat * tokenizers.acoustic.sample_rate
