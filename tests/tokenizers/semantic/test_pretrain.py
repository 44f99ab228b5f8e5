"""An encoder trained here is an ordinary checkpoint; batches are a function of the step; CTC counts right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel

from triptych.tokenizers.semantic.architecture import Architecture, front_end
from triptych.tokenizers.semantic.ctc import TextClasses, ctc_fits, edit_distance, greedy
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.inputs import FrontEnd
from triptych.tokenizers.semantic.masked import LossWeights, MaskedPrediction
from triptych.tokenizers.semantic.pretrain import EncoderFitConfig, fit_encoder
from triptych.tokenizers.semantic.pretrain_data import Batch, Buckets, Shelf, collate, fill_shelf, span_mask
from triptych.training.config import TrainingConfig
from triptych.training.files import read_json
from triptych.training.run import find_checkpoint

WITHOUT_CTC = LossWeights(visible=0.1, ctc=0.0, ctc_layer=None, ctc_steps=1)
FAMILIES = ["wav2vec2-bert", "wavlm", "hubert"]


def tiny(family: str = "wav2vec2-bert", **changes: object) -> EncoderFitConfig:
    architecture = Architecture(family=family, dim=16, layers=2, heads=2, ffn=32, front_dim=8, position_kernel=8)
    training = TrainingConfig(max_steps=3, warmup_steps=1, log_every=1, threads=1, device="cpu")
    settings = {"architecture": architecture, "clusters": 6, "frames_per_batch": 60, "training": training, **changes}
    return EncoderFitConfig(**settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_result_loads_everywhere(family: str, clips: Callable, letters: object, tmp_path: Path) -> None:
    folder = fit_encoder(clips(4), tmp_path / "encoder", tiny(family), letters)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert model.dtype == torch.float16
    assert model.config.mask_time_prob == model.config.layerdrop == 0
    encoder = Encoder.load(folder, 2)
    assert encoder.front == front_end(tiny(family).architecture)
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum('"train"' in row for row in rows) == 3
    assert "ctc_error" in rows[-1]
    head, record = load_file(folder / "ctc.safetensors"), read_json(folder / "ctc.json")
    assert record["classes"] == ["a", "b", "c"]  # stress and the full stop are not told apart, or left out
    assert len(head["bias"]) == record["steps"] * (record["blank"] + 1)


def test_resumed_is_uninterrupted(clips: Callable, letters: object, tmp_path: Path) -> None:
    training = TrainingConfig(max_steps=4, warmup_steps=1, checkpoint_every=2, threads=1, device="cpu")
    config = tiny(training=training)
    fit_encoder(clips(4), tmp_path / "whole", config, letters)
    fit_encoder(clips(4), tmp_path / "parts", config, letters)
    run = tmp_path / "parts" / "run"
    (run / "latest").write_text("step-00000002")  # as if it had been killed after step 3
    fit_encoder(clips(4), tmp_path / "parts", config, letters, resume=True)
    one, other = (
        load_file(find_checkpoint(tmp_path / name / "run") / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="resume"):
        fit_encoder(clips(4), tmp_path / "parts", config, letters)


def test_second_iteration_learns_from_the_first(clips: Callable, tmp_path: Path) -> None:
    fit_encoder(clips(3), tmp_path / "one", tiny(), None)
    fit_encoder(clips(3), tmp_path / "two", tiny(targets_from=str(tmp_path / "one"), targets_layer=1), None)
    assert not (tmp_path / "two" / "ctc.json").exists()
    with pytest.raises(ValueError, match="one rate"):
        fit_encoder(
            clips(3), tmp_path / "three", tiny("hubert", targets_from=str(tmp_path / "one"), targets_layer=1), None
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_neighbours_are_not_heard(family: str, clips: Callable) -> None:
    config = tiny(family)
    shelf = fill_shelf(clips(3), front_end(config.architecture), None, [0, 1, 2], 20.0)
    model = MaskedPrediction(config.architecture, WITHOUT_CTC, 6, 0).eval()
    with torch.no_grad():
        together = model(clean_batch(shelf, [0, 1, 2]))[0]
        for row in range(3):
            alone = model(clean_batch(shelf, [row]))[0][0]
            assert torch.allclose(alone, together[row, : len(alone)], atol=1e-4)


def clean_batch(shelf: Shelf, rows: list[int], mask_start: float = 0.0) -> Batch:
    return collate(
        shelf,
        np.array(rows),
        [np.zeros(int(frames), dtype=np.int64) for frames in shelf.frames],
        np.random.default_rng(1),
        augmentation=None,
        mask_start=mask_start,
        mask_span=3,
        ctc_steps=1,
    )


def test_masked_frames_are_not_heard(clips: Callable) -> None:
    config = tiny()
    shelf = fill_shelf(clips(1), front_end(config.architecture), None, [0], 20.0)
    model = MaskedPrediction(config.architecture, WITHOUT_CTC, 6, 0).eval()
    batch = clean_batch(shelf, [0], mask_start=0.2)
    before = model(batch)[0]
    batch.inputs[batch.masked] = 5.0
    assert torch.equal(before, model(batch)[0])
    batch.inputs[~batch.masked] = 5.0
    assert not torch.equal(before, model(batch)[0])


def test_text_that_cannot_be_said_is_counted(clips: Callable, letters: object, tmp_path: Path) -> None:
    said = clips(4)
    said.text = lambda i: "bad" if i < 2 else "abc" * 40 if i == 2 else "ab"
    fit_encoder(
        said, tmp_path / "encoder", tiny(held_out=0.01, training=TrainingConfig(max_steps=1)), letters, validation=said
    )
    row = (tmp_path / "encoder" / "run" / "metrics.jsonl").read_text().splitlines()[0]
    assert '"clips_that_cannot_be_spoken": 2.0' in row
    assert '"clips_whose_text_does_not_fit": 1.0' in row


def test_what_cannot_be_learned_is_refused_at_once(clips: Callable, letters: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clips"):
        fit_encoder(clips(0), tmp_path / "e", tiny(), letters)
    with pytest.raises(ValueError, match="layers 1 to 2"):
        fit_encoder(clips(3), tmp_path / "e", tiny(ctc_layer=3), letters)
    with pytest.raises(ValueError, match="no run"):
        fit_encoder(clips(3), tmp_path / "e", tiny(), letters, resume=True)
    silent = clips(3)
    silent.text = lambda i: None
    with pytest.raises(ValueError, match="ctc_weight=0"):
        fit_encoder(silent, tmp_path / "e", tiny(), letters)
    short = clips(3)
    short.waveform = lambda i: np.zeros(100, dtype=np.float32)
    with pytest.raises(ValueError, match="640 samples"):
        fit_encoder(short, tmp_path / "e", tiny(), None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=40).filter(any), st.integers(60, 200), st.integers(0, 5))
def test_buckets_deal_every_row_once_an_epoch(lengths: list[int], budget: int, seed: int) -> None:
    frames = np.array(lengths)
    buckets, again = Buckets(frames, budget, seed), Buckets(frames, budget, seed)
    assert np.array_equal(again.rows(7), buckets.rows(7))  # whatever was asked before
    dealt: list[int] = []
    number = 0
    while len(dealt) < (frames > 0).sum():
        rows = buckets.rows(number)
        assert len(rows) == 1 or len(rows) * frames[rows].max() <= budget
        dealt += rows.tolist()
        number += 1
    assert sorted(dealt) == np.flatnonzero(frames > 0).tolist()


def test_buckets_jump_to_any_step() -> None:
    frames = np.random.default_rng(0).integers(1, 50, 30)
    forward = Buckets(frames, 100, 3)
    rows = [forward.rows(i) for i in range(40)]
    assert np.array_equal(Buckets(frames, 100, 3).rows(39), rows[39])


@given(st.integers(1, 60), st.floats(0.0, 0.5), st.integers(1, 8), st.integers(0, 100))
def test_span_masks_something(frames: int, start: float, span: int, seed: int) -> None:
    masked = span_mask(frames, start, span, np.random.default_rng(seed))
    assert masked.shape == (frames,)
    assert masked.any()


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_edit_distance(said: list[int], meant: list[int]) -> None:
    distance = edit_distance(said, meant)
    assert distance == edit_distance(meant, said)
    assert abs(len(said) - len(meant)) <= distance <= max(len(said), len(meant))
    assert (distance == 0) == (said == meant)
    assert edit_distance([*said, 9], meant) <= distance + 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_greedy_undoes_an_alignment(classes: list[int]) -> None:
    steps = [step for item in classes for step in (item, item, 4)]
    assert greedy(np.array(steps), blank=4) == classes
    text = np.array(classes)
    best = [classes[0]]
    for item, before in zip(classes[1:], classes[:-1], strict=True):
        best += [4, item] if item == before else [item]
    assert greedy(np.array(best), blank=4) == classes
    assert ctc_fits(text, len(best))
    assert not ctc_fits(text, len(best) - 1)


def test_text_classes_leave_out_and_merge(letters: object) -> None:
    merged = TextClasses.of(letters, skip=(".",), stress=False)
    apart = TextClasses.of(letters, skip=(".",), stress=True)
    assert (merged.names, apart.names) == (("a", "b", "c"), ("a", "ˈb", "b", "c"))
    assert merged.class_of == (0, 1, 1, 2, -1)


def test_wave_shelf_keeps_samples(clips: Callable) -> None:
    shelf = fill_shelf(clips(2), FrontEnd(wave=True, stride=2, padding=40), None, [1, 0], 0.5)
    assert shelf.frames.tolist() == [25, 25]
    assert [len(wave) for wave in shelf.waves] == [8000, 8000]
