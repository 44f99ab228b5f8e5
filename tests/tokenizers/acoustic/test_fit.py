"""A run of the codec: resumed with its adversary, told of a collapse, heard and seen."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.fit import crop_batches, fit_acoustic
from triptych.tokenizers.acoustic.mel import side_by_side
from triptych.tokenizers.acoustic.postfilter import Postfilter
from triptych.tokenizers.acoustic.settings import CodecFitConfig, DiscriminatorConfig, PostfilterConfig
from triptych.tokenizers.acoustic.trainee import CodecTrainee, random_levels
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig, build
from triptych.training.loop import TrainingStopped

torch.set_num_threads(1)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
TINY = CodecFitConfig(
    training=TrainingConfig(
        max_steps=9, warmup_steps=2, final_ratio=1.0, checkpoint_every=100, log_every=1, validate_every=100, threads=1
    ),
    ratios=(3, 4, 5, 8), filters=4, hidden=8, lstm_layers=1, levels=2, codebook_size=16, crop_seconds=0.2, batch=2,
    unquantised_steps=2, reservoir=64, mel_windows=(256,), validation_clips=1, usage_steps=4,
)  # fmt: skip
ADVERSE = replace(TINY, discriminator=DiscriminatorConfig(start=4, alone_steps=2, windows=(512, 256), filters=4))


SMALL = PostfilterConfig(layers=2, dim=8, hidden=16)


def codec_of(folder: Path) -> AcousticTokenizer:
    """`folder`/codec, hardly trained."""
    return fit_acoustic(Noise(), Noise(), folder / "codec", replace(TINY, training=replace(TINY.training, max_steps=3)))


class Noise:
    """Clips of coloured noise, or of silence; `stop_at` counts the crops until this process is asked to stop."""

    sample_rate = 24_000

    def __init__(self, loudness: float = 0.002, stop_at: int | None = None) -> None:
        self.loudness, self.stop_at, self.taken = loudness, stop_at, 0

    def __len__(self) -> int:
        return 3

    def seconds(self, i: int) -> float:
        return 0.3

    def waveform(self, i: int) -> np.ndarray:
        self.taken += 1
        if self.taken == self.stop_at:
            os.kill(os.getpid(), 15)
        rng = np.random.default_rng(i)
        return (np.cumsum(rng.standard_normal(7_200)) * self.loudness).astype(np.float32)

    def text(self, i: int) -> None:
        return None

    speaker = text

    def name(self, i: int) -> str:
        return f"noise {i}"


def rows(run: Path, kind: str) -> list[dict]:
    return [row for row in map(json.loads, open(run / "metrics.jsonl")) if row["kind"] == kind]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = find_checkpoint(run)
    return load_file(folder / "model.safetensors") | load_file(folder / "trainer" / "optimizer.safetensors")


@pytest.mark.parametrize("decoder_alone", [False, True])
def test_a_run_with_a_discriminator_resumes_bit_for_bit(tmp_path, decoder_alone):
    """Stopped by a signal after the discriminator has begun: weights, both optimisers and the balancer go on."""
    config = ADVERSE
    if decoder_alone:
        fit_acoustic(Noise(), Noise(), tmp_path / "first", replace(TINY, training=replace(TINY.training, max_steps=3)))
        training = replace(ADVERSE.training, dtype="bf16")
        config = replace(ADVERSE, decoder_of=str(tmp_path / "first"), training=training)
    fit_acoustic(Noise(), Noise(), tmp_path / "whole", config)
    with pytest.raises(TrainingStopped):
        fit_acoustic(Noise(stop_at=14), Noise(), tmp_path / "broken", config)
    stopped_at = rows(tmp_path / "broken.run", "train")[-1]["step"]
    assert 4 < stopped_at < 9
    fit_acoustic(Noise(), Noise(), tmp_path / "broken", config, resume=True)
    told = [
        [(row["step"], row["loss"], row.get("discriminator"), row.get("gradient_norm_discriminator")) for row in both]
        for both in (rows(tmp_path / "whole.run", "train"), rows(tmp_path / "broken.run", "train"))
    ]
    assert told[0] == told[1] and told[0][-1][2] is not None
    ours, theirs = weights(tmp_path / "whole.run"), weights(tmp_path / "broken.run")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "objective.adversary.balancer.norms" in ours
    assert any(name.startswith("exp_avg_sq.objective.adversary.") for name in ours)


def test_a_post_filter_learns_against_a_discriminator_and_leaves_the_codec_alone(tmp_path):
    """Some windows a step; what is saved are the averaged weights of its last checkpoint, resumed or not; and a second
    run goes on from the first one's."""
    codec = codec_of(tmp_path)
    some = replace(ADVERSE, discriminator=replace(ADVERSE.discriminator, windows_a_step=1))
    training = replace(some.training, average=0.5)
    config = replace(some, decoder_of=str(tmp_path / "codec"), postfilter=SMALL, training=training)
    fitted = fit_acoustic(Noise(), Noise(), tmp_path / "filtered", config)
    assert fitted.spec == codec.spec and fitted.postfilter is not None
    for name, weight in codec.model.state_dict().items():
        assert torch.equal(weight, fitted.model.state_dict()[name]), name
    assert "discriminator" in rows(tmp_path / "filtered.run", "train")[-1]
    kept = weights(tmp_path / "filtered.run")
    for name, weight in fitted.postfilter.state_dict().items():
        assert torch.equal(weight, kept[f"postfilter.{name}"].half().float()), name
    with pytest.raises(TrainingStopped):
        fit_acoustic(Noise(stop_at=14), Noise(), tmp_path / "broken", config)
    again = fit_acoustic(Noise(), Noise(), tmp_path / "broken", config, resume=True)
    first = fitted.postfilter.leave.weight
    assert first.abs().max() > 0 and torch.equal(again.postfilter.leave.weight, first)
    still = replace(config.training, max_steps=1, learning_rate=1e-9)
    on = replace(config, decoder_of=str(tmp_path / "filtered"), training=still)
    torch.testing.assert_close(fit_acoustic(Noise(), Noise(), tmp_path / "on", on).postfilter.leave.weight, first)


def test_a_decoder_learns_together_with_its_post_filter(tmp_path):
    """Both go on from those of the codec; what it encodes with, and so its codes, stay; what is saved is averaged."""
    codec, filtering = with_post_filter(tmp_path)
    config = replace(ADVERSE, decoder_of=str(tmp_path / "began"), postfilter=SMALL, decoder_too=True)
    config = replace(config, training=replace(config.training, average=0.5))
    fitted = fit_acoustic(Noise(), Noise(), tmp_path / "fitted", config)
    assert fitted.spec.fingerprint == codec.spec.fingerprint and fitted.postfilter is not None
    assert not torch.equal(fitted.postfilter.leave.weight, filtering.leave.weight)
    kept = weights(tmp_path / "fitted.run")
    for name, weight in codec.model.state_dict().items():
        assert torch.equal(weight, fitted.model.state_dict()[name]) == (not name.startswith("decoder.")), name
        if name.startswith("decoder."):
            assert torch.equal(kept[f"model.{name}"].half().float(), fitted.model.state_dict()[name]), name
    still = replace(config, training=replace(config.training, max_steps=1, learning_rate=1e-9))
    same = fit_acoustic(Noise(), Noise(), tmp_path / "same", still)
    assert same.postfilter is not None
    torch.testing.assert_close(same.postfilter.leave.weight, filtering.leave.weight)
    torch.testing.assert_close(same.model.state_dict(), codec.model.state_dict(), rtol=1e-3, atol=1e-5)
    (tmp_path / "fitted.run").rename(tmp_path / "less.run")
    with pytest.raises(ValueError, match=r"trained model\.decoder"):  # and the decoder is not dropped without a word
        fit_acoustic(Noise(), Noise(), tmp_path / "less", replace(config, decoder_too=False), resume=True)


def with_post_filter(folder: Path) -> tuple[AcousticTokenizer, Postfilter]:
    """`folder`/began: a codec that has hardly learned, and a post-filter that does something."""
    filtering = Postfilter(SMALL)
    torch.nn.init.normal_(filtering.leave.weight, std=0.01)
    began = AcousticTokenizer(codec_of(folder).model, 2, postfilter=filtering)
    began.save(folder / "began")
    return began, filtering.rounded()


def test_a_whole_codec_begins_as_it_is_and_all_of_it_learns(tmp_path):
    """What a run with `init` hears before its first step is what that codec makes; then everything moves."""
    began, filtering = with_post_filter(tmp_path)
    config = replace(ADVERSE, init=str(tmp_path / "began"), postfilter=SMALL, unquantised_steps=500)
    waveform = Noise().waveform(1)
    with torch.no_grad():
        heard = CodecTrainee(config).eval().listen(torch.from_numpy(waveform))
    codes = began.encode(waveform, 24_000)
    assert heard.ids is not None and (heard.ids.numpy() == codes).all()
    np.testing.assert_allclose(heard.sound.numpy(), began.decode(codes), atol=1e-6)
    fitted = fit_acoustic(Noise(), Noise(), tmp_path / "fitted", config)
    assert fitted.postfilter is not None and fitted.spec.fingerprint != began.spec.fingerprint
    old, new = began.model.state_dict(), fitted.model.state_dict()
    assert old.keys() == new.keys()
    still = {name for name, weight in new.items() if torch.equal(old[name], weight)}
    assert {name.rsplit(".", 1)[1] for name in still} <= {"inited", "cluster_size"}, still
    assert not torch.equal(fitted.postfilter.leave.weight, filtering.leave.weight)
    with pytest.raises(TrainingStopped):
        fit_acoustic(Noise(stop_at=14), Noise(), tmp_path / "broken", config)
    again = fit_acoustic(Noise(), Noise(), tmp_path / "broken", config, resume=True)
    assert again.spec.fingerprint == fitted.spec.fingerprint


def test_levels_that_a_codec_does_not_keep_do_not_go_on(tmp_path):
    """As of a public codec, of which a user keeps a few: the codec that comes out has those."""
    AcousticTokenizer(codec_of(tmp_path).model, 1).save(tmp_path / "one")
    fitted = fit_acoustic(Noise(), Noise(), tmp_path / "on", replace(TINY, init=str(tmp_path / "one"), levels=1))
    assert fitted.spec.levels == 1 and len(fitted.model.quantizer.layers) == 1
    assert fitted.encode(Noise().waveform(0), 24_000).shape[0] == 1


def test_a_codec_that_cannot_be_gone_on_with_is_told(tmp_path):
    with_post_filter(tmp_path)
    on = replace(TINY, init=str(tmp_path / "began"), postfilter=SMALL)
    for config, said in (
        (replace(on, levels=3), "2 levels of 16, levels and codebook_size say 3 and 16"),
        (replace(on, ratios=(3, 4, 5, 4)), "a hop of 480"),
        (replace(on, postfilter=PostfilterConfig()), "has a post-filter"),
        (replace(on, decoder_of=str(tmp_path / "began")), "leave one out"),
        (replace(on, decoder_too=True), "decoder_too is for decoder_of"),
        (replace(on, decoder_share=0.5), "decoder_share is for decoder_of"),
        (replace(on, init=str(tmp_path / "nothing")), "nothing"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_acoustic(Noise(), Noise(), tmp_path / "none", config)


def test_a_post_filter_is_not_lost_nor_asked_for_what_it_is_not(tmp_path):
    codec = codec_of(tmp_path)
    AcousticTokenizer(codec.model, 2, postfilter=Postfilter(SMALL)).save(tmp_path / "filtered")
    with_one = replace(TINY, decoder_of=str(tmp_path / "filtered"))
    for config, said in (
        (replace(TINY, postfilter=SMALL), "postfilter is for decoder_of"),
        (with_one, "has a post-filter"),
        (replace(with_one, postfilter=replace(SMALL, dim=16)), "has a post-filter"),
        (replace(TINY, decoder_of=str(tmp_path / "codec"), postfilter=SMALL, decoder_share=0.5), "post-filter is new"),
        (
            replace(TINY, decoder_of=str(tmp_path / "codec"), decoder_too=True),
            "decoder_too is for decoder_of with a post-filter",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            fit_acoustic(Noise(), Noise(), tmp_path / "none", config)
    again = AcousticTokenizer.load(tmp_path / "filtered", num_levels=1)
    again.save(tmp_path / "fewer")
    assert AcousticTokenizer.load(tmp_path / "fewer").postfilter is not None


def test_a_share_of_decoder_and_post_filter_is_between_where_they_began_and_ended(tmp_path):
    began, filtering = with_post_filter(tmp_path)
    config = replace(ADVERSE, decoder_of=str(tmp_path / "began"), postfilter=SMALL, decoder_too=True)
    whole = fit_acoustic(Noise(), Noise(), tmp_path / "whole", config)
    (tmp_path / "whole.run").rename(tmp_path / "share.run")
    share = fit_acoustic(Noise(), Noise(), tmp_path / "share", replace(config, decoder_share=0.25), resume=True)
    assert whole.postfilter is not None and share.postfilter is not None
    for first, last, between in (
        (began.model.decoder, whole.model.decoder, share.model.decoder),
        (filtering, whole.postfilter, share.postfilter),
    ):
        moved = 0.0
        for name, weight in between.state_dict().items():
            one, other = first.state_dict()[name], last.state_dict()[name]
            torch.testing.assert_close(weight, torch.lerp(one, other, 0.25), rtol=2e-3, atol=1e-5)
            moved += float((other - one).abs().sum())
        assert moved > 0


@pytest.mark.parametrize("postfilter", [PostfilterConfig(), SMALL])
def test_a_codec_of_float32_weights_keeps_its_fingerprint(tmp_path, postfilter):
    model = codec_of(tmp_path).model
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1e-5)
    own = AcousticTokenizer(model, 2)
    own.save(tmp_path / "finer")
    config = replace(TINY, decoder_of=str(tmp_path / "finer"), postfilter=postfilter)
    assert fit_acoustic(Noise(), Noise(), tmp_path / "after", config).spec.fingerprint == own.spec.fingerprint


@pytest.mark.parametrize("decoder_alone", [False, True])
def test_a_discriminator_joins_a_run_that_began_without_one(tmp_path, decoder_alone):
    began = {}
    if decoder_alone:
        codec_of(tmp_path / "old")
        began = {"decoder_of": str(tmp_path / "old" / "codec")}
    half = replace(TINY, training=replace(TINY.training, max_steps=5), **began)
    fit_acoustic(Noise(), Noise(), tmp_path / "codec", half)
    assert not any("adversary" in name for name in weights(tmp_path / "codec.run"))
    (tmp_path / "codec.run").rename(tmp_path / "on.run")
    fit_acoustic(Noise(), Noise(), tmp_path / "on", replace(ADVERSE, **began), resume=True)
    later = [row for row in rows(tmp_path / "on.run", "train") if row["step"] > 5]  # it starts after step 4
    assert ["adversarial" in row for row in later] == [False, True, True, True]
    assert all("discriminator" in row for row in later)
    with pytest.raises(ValueError, match="resume with the config"):  # and is not dropped without a word
        (tmp_path / "on.run").rename(tmp_path / "off.run")
        fit_acoustic(Noise(), Noise(), tmp_path / "off", replace(half, training=ADVERSE.training), resume=True)


def test_steps_are_steps_however_many_micro_batches_they_have(tmp_path):
    training = replace(ADVERSE.training, accumulation=3, max_steps=8)
    fit_acoustic(Noise(), Noise(), tmp_path / "codec", replace(ADVERSE, training=training))
    told = rows(tmp_path / "codec.run", "train")
    for name, first in (("perplexity_0", 3), ("discriminator", 5), ("adversarial", 7)):
        assert [row["step"] for row in told if name in row] == list(range(first, 9))


def test_configs_of_older_checkpoints_still_build():
    new = ("discriminator", "compile", "usage_steps")
    old = {key: value for key, value in asdict(TINY).items() if key not in new}
    assert build(CodecFitConfig, json.loads(json.dumps(old))).discriminator.start is None


def test_a_collapse_is_said_in_log_and_metrics(tmp_path, capsys):
    """Silence gives one latent, and one entry of each level."""
    longer = replace(TINY, training=replace(TINY.training, max_steps=6))
    fit_acoustic(Noise(0.0), Noise(), tmp_path / "codec", longer)
    warnings = [row["line"] for row in rows(tmp_path / "codec.run", "warning")]
    assert len(warnings) == TINY.levels
    said = capsys.readouterr().err
    for level, line in enumerate(warnings):
        assert f"level {level}" in line and "perplexity 1.0 of 16" in line and line in said
    assert rows(tmp_path / "codec.run", "train")[-1]["collapsed_levels"] == TINY.levels


def test_healthy_levels_are_all_counted_and_none_is_warned_of(tmp_path):
    fit_acoustic(Noise(), Noise(), tmp_path / "codec", TINY)
    last = rows(tmp_path / "codec.run", "train")[-1]
    assert last["collapsed_levels"] == 0 and rows(tmp_path / "codec.run", "warning") == []
    for level in range(TINY.levels):
        assert last[f"perplexity_{level}"] > 4 and last[f"usage_{level}"] > 0.25
    (validation,) = rows(tmp_path / "codec.run", "validation")
    assert validation["perplexity_1"] >= 1 and "loss" in validation


def test_validation_is_heard_and_seen(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit_acoustic(Noise(), Noise(), tmp_path / "codec", replace(TINY, training=replace(TINY.training, max_steps=3)))
    events = EventAccumulator(str(tmp_path / "codec.run")).Reload()
    assert events.Tags()["audio"] == ["coded_0"] and events.Tags()["images"] == ["given_and_coded_0"]


def test_a_picture_shows_both_sounds_alike():
    tone = 0.1 * torch.sin(torch.arange(12_000) * 0.3)
    same, other = side_by_side(tone, tone, 24_000), side_by_side(tone, torch.randn(12_000) * 0.1, 24_000)
    width = (same.shape[2] - 4) // 2
    assert same.shape[0] == 3 and float(same.min()) >= 0 and float(same.max()) <= 1
    assert torch.equal(same[..., :width], same[..., -width:])
    assert not torch.equal(other[..., :width], other[..., -width:])
    loudest = same[..., width // 2].sum(0).argmax()
    assert loudest > same.shape[1] / 2  # 1.1 kHz of 12 lies in the lower half, and that is drawn at the bottom


def test_rows_do_not_know_how_they_are_dealt():
    whole = replace(TINY, batch=4)
    halves = replace(TINY, training=replace(TINY.training, accumulation=2))
    for step in (1, 2):
        (all_rows,) = crop_batches(Noise(), whole)(step)
        assert torch.equal(all_rows, torch.cat(crop_batches(Noise(), halves)(step)))
    assert not torch.equal(crop_batches(Noise(), whole)(1)[0], crop_batches(Noise(), whole)(2)[0])


def test_half_of_the_rows_keep_the_favoured_levels(tmp_path):
    torch.manual_seed(0)
    kept = random_levels(8000, 8, 3)
    shares = torch.bincount(kept, minlength=9)[1:] / 8000
    expected = torch.full((8,), 1 / 32) + torch.tensor([0, 0, 1 / 2, 0, 0, 0, 0, 1 / 4])
    assert torch.allclose(shares, expected, atol=0.02)
    torch.manual_seed(0)
    first = random_levels(8000, 8)
    torch.manual_seed(0)
    assert torch.equal(first[kept != 3], random_levels(8000, 8, 3)[kept != 3])
    with pytest.raises(ValueError, match="choose 1 to 2"):
        fit_acoustic(Noise(), Noise(), tmp_path / "codec", replace(TINY, favoured_levels=3))


@pytest.mark.gpu
@NO_GPU
def test_a_codec_trains_on_an_accelerator_and_resumes(tmp_path):
    training = replace(ADVERSE.training, device="cuda", dtype="bf16")
    fit_acoustic(Noise(), Noise(), tmp_path / "a", replace(ADVERSE, training=replace(training, max_steps=6)))
    (tmp_path / "a.run").rename(tmp_path / "b.run")
    fit_acoustic(Noise(), Noise(), tmp_path / "b", replace(ADVERSE, training=training), resume=True)
    assert np.isfinite(rows(tmp_path / "b.run", "train")[-1]["loss"])


@pytest.mark.gpu
@NO_GPU
def test_accelerator_and_cpu_agree(tmp_path):
    torch.manual_seed(0)
    model, crops = CodecTrainee(TINY), crop_batches(Noise(), TINY)(1)[0]
    on_cpu = model.loss(crops)[0].item()
    assert model.to("cuda").loss(crops.cuda())[0].item() == pytest.approx(on_cpu, rel=1e-3)
