"""Two views of a clip: what is held together, and that targets and frames stay aligned when a clip is disturbed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.cli.main import main
from triptych.tokenizers.semantic.architecture import Architecture, build_encoder, front_end
from triptych.tokenizers.semantic.augment import AugmentConfig
from triptych.tokenizers.semantic.compared import standardised
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
from triptych.tokenizers.semantic.inputs import FrontEnd
from triptych.tokenizers.semantic.masked import LossWeights, MaskedPrediction, over_clip
from triptych.tokenizers.semantic.pretrain import EncoderFitConfig, fit_encoder
from triptych.tokenizers.semantic.pretrain_data import Batch, Shelf, collate, fill_shelf
from triptych.tokenizers.waveform import resample, write_wav
from triptych.training.config import TrainingConfig

HELD = LossWeights(visible=0.1, ctc=0.0, ctc_layer=None, ctc_steps=1, invariance=1.0, token_layer=1)
DISTURBED = AugmentConfig(share=1.0, noise_share=1.0, pitch=2.0, speed=0.05, mix_share=0.5)
FAMILIES = ["wav2vec2-bert", "wavlm"]


def small(family: str) -> Architecture:
    return Architecture(family=family, dim=16, layers=2, heads=2, ffn=32, front_dim=8, position_kernel=8, dropout=0.0)


def two_views(
    shelf: Shelf, augmentation: AugmentConfig | None, seed: int = 0, clean_front: FrontEnd | None = None
) -> Batch:
    rows = np.arange(len(shelf))
    targets = [np.arange(frames) for frames in shelf.frames]
    generator = np.random.default_rng(seed)
    return collate(
        shelf,
        rows,
        targets,
        generator,
        augmentation=augmentation,
        mask_start=0.0,
        mask_span=3,
        ctc_steps=1,
        clean_front=clean_front or shelf.front,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unchanged_clip_is_held_by_nothing(family: str, clips: Callable) -> None:
    architecture = small(family)
    shelf = fill_shelf(clips(3), front_end(architecture), None, [0, 1, 2], 20.0)
    model = MaskedPrediction(architecture, HELD, 6, 0)
    same, changed = two_views(shelf, None), two_views(shelf, DISTURBED)
    assert float(model.invariance_loss(model.hidden(same)[1], same)) < 1e-6
    apart = model.invariance_loss(model.hidden(changed)[1], changed)
    assert 0.01 < float(apart) < 2.0
    apart.backward()
    taught = [p.grad is not None and bool(p.grad.any()) for p in model.encoder.encoder.layers[0].parameters()]
    assert sum(taught) > len(taught) / 2
    assert model.encoder.training  # the teacher's eval mode ended with it


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_hears_the_clean_clip_as_it_hears_alone(family: str, clips: Callable) -> None:
    """With its own floor, whatever lies beside the clip in a batch; a model that is the teacher has nothing to learn,
    and neither trains it nor keeps it."""
    architecture = small(family)
    own = front_end(architecture)
    front = own if own.wave else replace(own, floor_db=20.0)
    some = clips(3)
    shelf = fill_shelf(some, own, None, [0, 1, 2], 20.0)
    teacher = Encoder(build_encoder(architecture), front, 1)
    model = MaskedPrediction(architecture, HELD, 6, 0, teacher=teacher)
    batch = two_views(shelf, DISTURBED, clean_front=front)
    assert batch.clean is not None
    heard = model.clean_view(batch.clean)
    for row, frames in enumerate(shelf.frames):
        alone = teacher.features([resample(some.waveform(row), some.sample_rate, 16_000)])[0]
        apart = (heard[row, :frames] - alone[:frames]).abs().mean()
        assert apart < 0.02 < alone.std()  # the shelf keeps float16
    before = [p.clone() for p in teacher.model.parameters()]
    model.invariance_loss(model.hidden(batch)[1], batch).backward()
    assert all(torch.equal(*pair) for pair in zip(before, teacher.model.parameters(), strict=True))
    assert not any("teacher" in name for name in model.state_dict())
    model.encoder.load_state_dict(teacher.model.state_dict(), strict=False)
    same = two_views(shelf, None, clean_front=front)
    assert (float(model.invariance_loss(model.hidden(same)[1], same)) < 1e-6) == own.wave  # the floor is a difference


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_follow_the_speed(family: str, clips: Callable) -> None:
    """Targets that are the number of their clean frame say for each frame of a changed clip when it was."""
    shelf = fill_shelf(clips(4), front_end(small(family)), None, [0, 1, 2, 3], 20.0)
    views = [two_views(shelf, DISTURBED, seed) for seed in range(9)]
    changed = next(view for view in views if (view.valid.sum(dim=1).numpy() != shelf.frames).any())
    assert changed.clean is not None and changed.clean_frames is not None
    assert torch.equal(changed.targets, changed.clean_frames)
    lengths = changed.valid.sum(dim=1).numpy()
    for row, frames in enumerate(shelf.frames):
        assert lengths[row] == pytest.approx(frames, rel=0.06, abs=1)
        places = changed.clean_frames[row, : lengths[row]]
        assert (places.diff() >= 0).all() and int(places.max()) < frames
        assert torch.equal(changed.clean.targets[row, :frames], torch.arange(int(frames)))
    assert not changed.clean.masked.any()
    assert torch.equal(views[0].inputs, two_views(shelf, DISTURBED).inputs)
    assert not torch.equal(views[0].inputs, views[1].inputs)


def test_features_are_standardised_as_tokens_are() -> None:
    hidden = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, 5:] = False
    found = over_clip(hidden, valid)
    assert torch.allclose(found[0], standardised(hidden[0]), atol=1e-3)
    assert torch.allclose(found[1, :5], standardised(hidden[1, :5]), atol=1e-3)
    assert not found[1, 5:].any()


@pytest.mark.parametrize("changes", [{"targets": "best-rq"}, {"invariance_weight": 1.0, "token_layer": 1}])
def test_training_with_it_runs_and_says_so(changes: dict[str, object], clips: Callable, tmp_path: Path) -> None:
    training = TrainingConfig(max_steps=2, warmup_steps=1, log_every=1, threads=1, device="cpu")
    config = replace(
        EncoderFitConfig(architecture=small("wav2vec2-bert"), clusters=6, frames_per_batch=60, training=training),
        **changes,
    )
    folder = fit_encoder(clips(3), tmp_path / "encoder", config, None)
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert ("invariance_loss" in rows[1]) == ("invariance_weight" in changes)
    assert "invariance_loss" not in rows[-1]  # validation hears clean clips alone


def test_a_fit_that_was_stopped_is_told_from_one_that_is_done(
    clips: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before its first checkpoint it begins anew, after it `resume=true` is asked for, and what is done is refused."""
    for i in range(4):
        write_wav(tmp_path / "clips" / f"{i}.wav", clips(4).waveform(i), 16000)
    out = tmp_path / "encoder"

    def fit(*line: str) -> str:
        with pytest.raises(SystemExit):
            main(["fit", "encoder", str(tmp_path / "m.jsonl"), "-o", str(out), "--config", "encoder/tiny", *line])
        return capsys.readouterr().err

    with pytest.raises(SystemExit):
        main(["prepare", str(tmp_path / "clips"), "-o", str(tmp_path / "m.jsonl")])
    (out / "run").mkdir(parents=True)
    fit("training.max_steps=2")
    made = (out / "model.safetensors").read_bytes()
    assert "exists already" in fit()
    for file in [each for each in out.iterdir() if each.is_file()]:
        file.unlink()
    assert "add resume=true to go on with it" in fit()
    fit("training.max_steps=2", "resume=true")
    assert (out / "model.safetensors").read_bytes() == made


def test_distilling_is_validated_and_refused_where_it_cannot_be(clips: Callable, tmp_path: Path) -> None:
    training = TrainingConfig(max_steps=1, warmup_steps=1, threads=1)
    config = EncoderFitConfig(small("wav2vec2-bert"), clusters=6, frames_per_batch=60, training=training)
    teacher = fit_encoder(clips(3), tmp_path / "teacher", config, None)
    held = replace(config, invariance_weight=1.0, invariance_from=str(teacher))
    folder = fit_encoder(clips(3), tmp_path / "learner", held, None)
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert "invariance_loss" in rows[-1]  # it differs on clean clips too
    with pytest.raises(ValueError, match="add invariance_weight=1"):
        fit_encoder(clips(3), tmp_path / "no", replace(held, invariance_weight=0.0), None)
    other = replace(held, architecture=replace(config.architecture, stride=2))
    with pytest.raises(ValueError, match=r"16 features every 640 samples; .* 16 every 320"):
        fit_encoder(clips(3), tmp_path / "no", other, None)
    with pytest.raises(ValueError, match="none"):
        fit_encoder(clips(3), tmp_path / "no", replace(held, invariance_from=str(tmp_path / "none")), None)
    assert not (tmp_path / "no").exists()


def test_tokens_are_told_from_distances(clips: Callable) -> None:
    """The likeliest token is the tokenizer's, and the loss draws the features of a changed clip to its centroid."""
    architecture = small("wav2vec2-bert")
    shelf = fill_shelf(clips(3), front_end(architecture), None, [0, 1, 2], 20.0)
    centroids = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    weights = replace(HELD, visible=0.0, invariance=0.0, tokens=1.0)
    model = MaskedPrediction(architecture, weights, 5, 0, centroids)
    batch = two_views(shelf, None)
    hidden = model.hidden(batch)[1].detach()
    told = model.token_logits(hidden, batch.valid).argmax(dim=-1)
    apart = torch.cdist(over_clip(hidden, batch.valid), centroids)
    assert torch.equal(told[batch.valid], apart.argmin(dim=-1)[batch.valid])
    heard = replace(batch, targets=torch.randint(0, 5, batch.targets.shape))
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=1e-2)
    right = []
    for _ in range(30):
        loss, said = model.loss(heard)
        right.append(float(said["token_accuracy"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert right[-1] > right[0] + 0.1
    with pytest.raises(ValueError, match="centroids have 15 numbers"):
        MaskedPrediction(architecture, weights, 5, 0, centroids[:, 1:])


def test_an_encoder_learns_the_tokens_of_a_tokenizer(clips: Callable, tmp_path: Path) -> None:
    training = TrainingConfig(max_steps=2, warmup_steps=1, log_every=1, threads=1, device="cpu")
    first = EncoderFitConfig(architecture=small("wav2vec2-bert"), clusters=6, frames_per_batch=60, training=training)
    fit_encoder(clips(3), tmp_path / "encoder", first, None)
    source = SemanticFitConfig(encoder=str(tmp_path / "encoder"), layer=2, clusters=7, batch_frames=50)
    fit_semantic(clips(3), tmp_path / "tokens", source)
    taught = replace(first, targets="tokens", targets_from=str(tmp_path / "tokens"), token_weight=1.0)
    folder = fit_encoder(clips(3), tmp_path / "taught", taught, None)
    rows = (folder / "run" / "metrics.jsonl").read_text()
    assert "token_loss" in rows and "token_accuracy" in rows
    for wrong, said in (({"targets_from": None}, "targets_from=FOLDER"), ({"targets": "kmeans"}, "targets=tokens")):
        with pytest.raises(ValueError, match=said):
            fit_encoder(clips(3), tmp_path / "wrong", replace(taught, **wrong), None)


def test_an_encoder_is_held_to_tokens_that_hear_phonemes(clips: Callable, letters: Any, tmp_path: Path) -> None:
    """An encoder says the tokens of a tokenizer that was made of it, before it learns anything."""
    training = TrainingConfig(max_steps=1, warmup_steps=1, log_every=1, threads=1, device="cpu", learning_rate=1e-9)
    calm = AugmentConfig(share=0.0, noise_share=0.0)
    architecture = small("wav2vec2-bert")
    first = EncoderFitConfig(
        architecture=architecture, clusters=6, frames_per_batch=60, training=training, augment=calm, mask_start=0.0
    )
    fit_encoder(clips(3), tmp_path / "encoder", first, letters)
    source = SemanticFitConfig(encoder=str(tmp_path / "encoder"), layer=2, clusters=7, batch_frames=50, phonemes=2.0)
    fit_semantic(clips(3), tmp_path / "tokens", source)
    held = replace(
        first, init=str(tmp_path / "encoder"), targets="tokens", targets_from=str(tmp_path / "tokens"), token_weight=1.0
    )
    folder = fit_encoder(clips(3), tmp_path / "held", held, letters)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "validation" and rows[-1]["token_accuracy"] == 1.0
    with pytest.raises(ValueError, match="one value"):
        fit_encoder(clips(3), tmp_path / "wrong", replace(held, ctc_layer=1), letters)
    with pytest.raises(ValueError, match="other phonemes"):
        fit_encoder(clips(3), tmp_path / "wrong", replace(held, ctc_skip=("a",)), letters)
    with pytest.raises(ValueError, match="other phonemes"):
        fit_encoder(clips(3), tmp_path / "wrong2", replace(held, ctc_weight=0.0), letters)
