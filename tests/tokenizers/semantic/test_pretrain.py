"""An encoder trained here is an ordinary checkpoint, and a run that goes on keeps its targets."""

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel

from triptych.tokenizers.semantic.architecture import Architecture, front_end
from triptych.tokenizers.semantic.augment import AugmentConfig
from triptych.tokenizers.semantic.buckets import Buckets
from triptych.tokenizers.semantic.ctc import TextClasses
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.encoder_folder import start_from
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
from triptych.tokenizers.semantic.inputs import FrontEnd, encoder_input
from triptych.tokenizers.semantic.masked import LossWeights, MaskedPrediction
from triptych.tokenizers.semantic.pretrain import EncoderFitConfig, fit_encoder
from triptych.tokenizers.semantic.pretrain_data import Batch, Shelf, collate, fill_shelf, row_input, span_mask
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.waveform import resample
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig
from triptych.training.files import read_json

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


def test_an_encoder_keeps_the_floor_that_it_learned_with(clips: Callable, tmp_path: Path) -> None:
    """In training as in use; a fit of tokens may say another, and then has other tokens."""
    config = tiny(architecture=replace(tiny().architecture, floor_db=20.0))
    folder = fit_encoder(clips(4), tmp_path / "encoder", config, None)
    encoder = Encoder.load(folder, 2)
    assert encoder.front.floor_db == 20.0
    shelf = fill_shelf(clips(4), encoder.front, None, [0], 10.0)
    heard = row_input(shelf, 0, None, np.random.default_rng(0), np.arange(1)).values
    waveform = resample(clips(4).waveform(0), clips(4).sample_rate, 16_000)
    floors = (encoder.front, replace(encoder.front, floor_db=0.0))
    with_it, without = (float(np.abs(heard - encoder_input(waveform, front)).mean()) for front in floors)
    assert with_it < 0.02 < without  # the shelf keeps float16
    fits = {}
    for floor_db in (None, 20.0, 0.0):
        fitted = SemanticFitConfig(encoder=str(folder), layer=2, clusters=4, floor_db=floor_db, passes=1)
        fit_semantic(clips(4), tmp_path / f"tokens-{floor_db}", fitted)
        fits[floor_db] = SemanticTokenizer.load(tmp_path / f"tokens-{floor_db}")
    assert [fits[floor].encoder.front.floor_db for floor in (None, 20.0, 0.0)] == [20.0, 20.0, 0.0]
    assert fits[None].spec.fingerprint == fits[20.0].spec.fingerprint != fits[0.0].spec.fingerprint
    with pytest.raises(ValueError, match=r"say architecture\.floor_db=20"):
        fit_encoder(clips(4), tmp_path / "without", tiny(init=str(folder)), None)
    assert fit_encoder(clips(4), tmp_path / "on", replace(config, init=str(folder)), None)


def weights_after(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(folder / "run") / "model.safetensors")


def stop_after_two(folder: Path) -> None:
    (folder / "run" / "latest").write_text("step-00000002")  # as if it had been killed after step 3


FOUR_STEPS = TrainingConfig(max_steps=4, warmup_steps=1, checkpoint_every=2, threads=1, device="cpu")


def test_resumed_is_uninterrupted(clips: Callable, letters: object, tmp_path: Path) -> None:
    config = tiny(training=FOUR_STEPS, invariance_weight=1.0, augment=AugmentConfig(speed=0.05, mix_share=0.5))
    fit_encoder(clips(4), tmp_path / "whole", config, letters)
    fit_encoder(clips(4), tmp_path / "parts", config, letters)
    stop_after_two(tmp_path / "parts")
    fit_encoder(clips(4), tmp_path / "parts", config, letters, resume=True)
    one, other = weights_after(tmp_path / "whole"), weights_after(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="resume"):
        fit_encoder(clips(4), tmp_path / "parts", config, letters)


def test_a_resumed_second_iteration_keeps_its_targets(clips: Callable, tmp_path: Path) -> None:
    fit_encoder(clips(3), tmp_path / "one", tiny(), None)
    config = tiny(training=FOUR_STEPS, targets_from=str(tmp_path / "one"), targets_layer=1)
    fit_encoder(clips(3), tmp_path / "two", config, None)
    whole = weights_after(tmp_path / "two")
    shutil.rmtree(tmp_path / "one")  # what the targets were made of is gone: they are read, not made anew
    stop_after_two(tmp_path / "two")
    fit_encoder(clips(3), tmp_path / "two", config, None, resume=True)
    parts = weights_after(tmp_path / "two")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_without_kept_targets_goes_on(clips: Callable, tmp_path: Path) -> None:
    config = tiny(training=FOUR_STEPS)
    fit_encoder(clips(3), tmp_path / "e", config, None)
    whole = weights_after(tmp_path / "e")
    (tmp_path / "e" / "run" / "targets.safetensors").unlink()  # as runs of version 0.1 were
    stop_after_two(tmp_path / "e")
    fit_encoder(clips(3), tmp_path / "e", config, None, resume=True)
    parts = weights_after(tmp_path / "e")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def fit_in_rank(me: int, port: int, clips: object, config: EncoderFitConfig, folder: Path) -> None:
    os.environ |= {"RANK": str(me), "LOCAL_RANK": str(me), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fit_encoder(clips, folder, config, None)


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(clips: Callable, tmp_path: Path) -> None:
    """Half of the micro-batches each, from the targets that the first rank kept."""
    alone = TrainingConfig(max_steps=3, warmup_steps=1, accumulation=2, threads=1, device="cpu")
    dry = Architecture(dim=16, layers=2, heads=2, ffn=32, dropout=0.0)
    fit_encoder(clips(4), tmp_path / "one", tiny(training=alone, architecture=dry), None)
    both = tiny(training=replace(alone, accumulation=1), architecture=dry)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (port, clips(4), both, tmp_path / "two")
    torch.multiprocessing.start_processes(fit_in_rank, given, nprocs=2, start_method="fork")
    one, two = weights_after(tmp_path / "one"), weights_after(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.parametrize("kind", ["other clips", "other recipe", "damaged"])
def test_other_targets_than_those_begun_with_are_refused(kind: str, clips: Callable, tmp_path: Path) -> None:
    config = tiny(training=FOUR_STEPS)
    fit_encoder(clips(3), tmp_path / "e", config, None)
    path = tmp_path / "e" / "run" / "targets.safetensors"
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    said = {"other clips": "manifest", "other recipe": "other clusters", "damaged": "cannot be read"}[kind]
    changed = tiny(training=FOUR_STEPS, clusters=5) if kind == "other recipe" else config
    with pytest.raises(ValueError, match=said):
        fit_encoder(clips(4 if kind == "other clips" else 3), tmp_path / "e", changed, None, resume=True)


@pytest.mark.parametrize("family", ["wav2vec2-bert", "wavlm"])
def test_an_encoder_starts_from_another(family: str, clips: Callable, letters: object, tmp_path: Path) -> None:
    still = TrainingConfig(max_steps=1, learning_rate=0.0, threads=1, device="cpu")
    fit_encoder(clips(3), tmp_path / "one", tiny(family), letters)
    fit_encoder(clips(3), tmp_path / "two", tiny(family, training=still, init=str(tmp_path / "one")), letters)
    for file in ("model.safetensors", "ctc.safetensors"):
        one, two = load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file)
        assert all(torch.equal(one[name], two[name]) for name in one), file
    named = TextClasses((0, 1, 2), ("c", "new", "a"))  # another order, and a class more
    model = MaskedPrediction(tiny(family).architecture, LossWeights(0.1, 1.0, None, 2), 6, 3)
    fresh = model.ctc_head.weight.clone().view(2, 4, -1)
    start_from(model, front_end(tiny(family).architecture), str(tmp_path / "one"), named)
    head, old = model.ctc_head.weight.view(2, 4, -1), load_file(tmp_path / "one" / "ctc.safetensors")["weight"]
    assert torch.equal(head[:, [0, 2, 3]], old.view(2, 4, -1)[:, [2, 0, 3]])
    assert torch.equal(head[:, 1], fresh[:, 1])
    wide = Architecture(family=family, dim=24, layers=2, heads=2, ffn=32, front_dim=8, position_kernel=8)
    with pytest.raises(ValueError, match="another architecture"):
        fit_encoder(clips(3), tmp_path / "three", tiny(architecture=wide, init=str(tmp_path / "one")), letters)


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
    with pytest.raises(ValueError, match="token_layer = 0"):
        fit_encoder(clips(3), tmp_path / "e", tiny(token_layer=0), letters)
    with pytest.raises(ValueError, match="leave it out"):
        fit_encoder(clips(3), tmp_path / "e", tiny(targets="best-rq", targets_from="x"), letters)
    with pytest.raises(ValueError, match="no run"):
        fit_encoder(clips(3), tmp_path / "e", tiny(), letters, resume=True)
    with pytest.raises(ValueError, match=r"none of 1 clips.*one cannot be both learned from and held out"):
        fit_encoder(clips(1), tmp_path / "e", tiny(), None)
    assert not (tmp_path / "e").exists()
    silent = clips(3)
    silent.text = lambda i: None
    with pytest.raises(ValueError, match="ctc_weight=0"):
        fit_encoder(silent, tmp_path / "e", tiny(), letters)
    short = clips(3)
    short.waveform = lambda i: np.zeros(100, dtype=np.float32)
    with pytest.raises(ValueError, match="640 samples"):
        fit_encoder(short, tmp_path / "e", tiny(), None)


@pytest.mark.parametrize("kind", ["kmeans", "kmeans of an encoder", "tokens", "best-rq"])
def test_a_clip_that_cannot_be_used_is_named_and_left_out(
    kind: str, clips: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = "wavlm" if kind == "kmeans" else "wav2vec2-bert"
    config = tiny(family, targets=kind.split()[0], max_rejected=0.3)
    if kind in ("kmeans of an encoder", "tokens"):
        earlier = fit_encoder(clips(4), tmp_path / "earlier", tiny(), None)
        config = replace(config, targets_from=str(earlier), targets_layer=1)
    if kind == "tokens":
        fit_semantic(clips(4), tmp_path / "tok", SemanticFitConfig(encoder=str(earlier), layer=2, clusters=4, passes=1))
        config = replace(config, targets_from=str(tmp_path / "tok"))
    broken = clips(4)
    broken.waveform = lambda i: clips(4).waveform(i) if i != 2 else refuse("2.wav: silence throughout")
    capsys.readouterr()
    fit_encoder(broken, tmp_path / "encoder", config, None, validation=clips(2))
    assert "clip-2 is left out: 2.wav: silence throughout\n" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"1 of 6 clips cannot be used, more than max_rejected=0\.01.*prepare --strict"
    ):
        fit_encoder(broken, tmp_path / "none", replace(config, max_rejected=0.01), None, validation=clips(2))


def refuse(reason: str) -> None:
    raise ValueError(reason)


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


def test_wave_shelf_keeps_samples(clips: Callable) -> None:
    shelf = fill_shelf(clips(2), FrontEnd(wave=True, stride=2, padding=40), None, [1, 0], 0.5)
    assert shelf.frames.tolist() == [25, 25]
    assert [len(wave) for wave in shelf.waves] == [8000, 8000]
