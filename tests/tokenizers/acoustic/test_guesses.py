"""A decoder that learns from guesses: codes and samples of one time, the right rows, and mistakes in one line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.decoder_trainee import Crops, DecoderTrainee
from triptych.tokenizers.acoustic.fit import crop_batches, fit_acoustic, guessed_crop, read_guesses
from triptych.tokenizers.acoustic.guesses import Guess, Guesses, write_guesses
from triptych.tokenizers.acoustic.settings import CodecFitConfig, DiscriminatorConfig
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import TrainingConfig

TINY = CodecFitConfig(
    training=TrainingConfig(max_steps=3, warmup_steps=1, final_ratio=1.0, threads=1),
    ratios=(3, 4, 5, 8), filters=4, hidden=16, lstm_layers=1, levels=3, codebook_size=32, crop_seconds=0.3, batch=2,
    unquantised_steps=1, reservoir=128, mel_windows=(256,), validation_clips=1,
)  # fmt: skip
HOP = 480


class Counting:
    """Satisfies `Clips`: each sample is the number of its frame, or speech-like noise."""

    sample_rate = 24_000

    def __init__(self, frames: int, noise: bool = False) -> None:
        self.frames, self.noise = frames, noise

    def __len__(self) -> int:
        return 4

    def seconds(self, i: int) -> float:
        return self.frames * HOP / self.sample_rate

    def waveform(self, i: int) -> Waveform:
        if self.noise:
            return np.random.default_rng(i).standard_normal(self.frames * HOP).astype(np.float32) * 0.1
        return np.repeat(np.arange(self.frames), HOP).astype(np.float32)

    def text(self, i: int) -> str | None:
        return None

    def speaker(self, i: int) -> str | None:
        return None

    def name(self, i: int) -> str:
        return f"clip-{i}"


def counted(levels: int, frames: int) -> np.ndarray:
    return np.stack([np.arange(frames) + 1000 * q for q in range(levels)]).astype(np.uint16)


@pytest.mark.parametrize("frames", [40, 15, 9])
def test_codes_and_samples_are_of_one_time(frames: int) -> None:
    """Also where the clip is shorter than a crop of 15 frames: it follows itself."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        given = Guess(counted(2, frames + 1), counted(1, frames + 1).astype(np.float32))
        waveform, crop = guessed_crop(Counting(frames).waveform(0), given, TINY, rng)
        codes = crop.codes
        assert crop.shift is not None and np.array_equal(crop.shift[0], codes[0])
        assert waveform.shape == (15 * HOP,) and codes.shape == (2, 15)
        assert np.array_equal(waveform[::HOP], codes[0]) and np.array_equal(codes[1], codes[0] + 1000)
        assert np.array_equal(waveform, np.repeat(waveform[::HOP], HOP))


def test_the_share_and_the_clips_that_have_none(tmp_path: Path) -> None:
    named = [(f"clip-{i}", Guess(counted(2, 40))) for i in (0, 1)]
    assert write_guesses(tmp_path / "guesses.safetensors", named, "f") == 80
    guesses = Guesses.load(tmp_path / "guesses.safetensors")
    found = guesses.of("clip-1")
    assert found is not None and np.array_equal(found.codes, counted(2, 40)) and guesses.of("clip-2") is None
    for share in (0.0, 0.5, 1.0):
        batches = crop_batches(Counting(40), replace(TINY, guessed_share=share, gain_db=0.0), guesses)
        rows = [batch for step in range(1, 101) for batch in batches(step)]
        assert all(isinstance(batch, Crops) and batch.codes.shape == (2, 2, 15) for batch in rows)
        codes = torch.cat([batch.codes for batch in rows])
        has = codes[:, 0, 0] >= 0
        assert abs(float(has.float().mean()) - share / 2) < 0.1  # two of four clips have guesses
        assert share == 1 or not has.view(-1, 2)[:, 0].any()  # of each two rows the second
        assert (codes[~has] == -1).all()
        waveforms = torch.cat([batch.waveforms for batch in rows])[has]
        assert torch.equal(waveforms[:, ::HOP].long(), codes[has][:, 0])
    for share, batch in ((0.2, 4), (0.5, 1), (0.3, 4)):  # over the steps, where a step has too few rows
        config = replace(TINY, guessed_share=share, batch=batch)
        guessed = [
            crops.codes[:, 0, 0] >= 0
            for step in range(1, 401)
            for crops in crop_batches(Counting(40), config, guesses)(step)
        ]
        assert abs(float(torch.cat(guessed).float().mean()) - share / 2) < 0.05
    plain, again = (crop_batches(Counting(40), TINY, guesses)(7)[0] for _ in range(2))
    assert torch.equal(plain.waveforms, again.waveforms) and torch.equal(plain.codes, again.codes)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec") / "codec"
    fit_acoustic(Counting(40, noise=True), Counting(40, noise=True), folder, TINY)
    return folder


def test_guessed_rows_are_decoded_from_their_guesses(codec: Path) -> None:
    """Guesses that are the true codes sound like the row with as many levels kept; other rows are not touched."""
    model = DecoderTrainee(replace(TINY, decoder_of=str(codec)), str(codec)).eval()
    own = AcousticTokenizer.load(codec)
    waveforms = torch.from_numpy(np.stack([Counting(15, noise=True).waveform(i) for i in range(2)]))
    true = torch.from_numpy(own.encode(waveforms[0].numpy(), 24_000)[:2].astype(np.int64))
    codes = torch.stack([true, torch.full_like(true, -1)])
    with torch.no_grad():
        made, _ = model._sound(waveforms, guessed=codes)
        two, _ = model._sound(waveforms[:1], torch.tensor([2]))
        whole, _ = model._sound(waveforms[1:])
        other, _ = model._sound(waveforms, guessed=torch.where(codes >= 0, (codes + 1) % 32, codes))
    assert torch.allclose(made[0], two[0], atol=1e-5) and torch.allclose(made[1], whole[0], atol=1e-5)
    assert not torch.allclose(other[0], made[0], atol=1e-3) and torch.allclose(other[1], made[1], atol=1e-5)


def test_a_shift_comes_from_the_file_into_the_latent(codec: Path, tmp_path: Path) -> None:
    """From one entry to another it is as if the other had been guessed; rows without a guess have none."""
    own, clips, file = AcousticTokenizer.load(codec), Counting(40, noise=True), tmp_path / "guesses.safetensors"
    plain = {clips.name(i): own.encode(clips.waveform(i), 24_000)[:2] for i in (0, 1)}
    entries = own.entries(1).half().float().numpy()  # as the file has them
    other = {name: np.stack([codes[0], (codes[1] + 1) % 32]) for name, codes in plain.items()}
    shifts = {name: (entries[other[name][1]] - entries[codes[1]]).T for name, codes in plain.items()}
    write_guesses(file, [(name, Guess(codes, shifts[name])) for name, codes in plain.items()], own.spec.fingerprint)
    config = replace(TINY, decoder_of=str(codec), guesses=str(file), guessed_share=1.0, batch=12)
    (batch,) = crop_batches(clips, config, read_guesses(config, clips))(1)
    assert isinstance(batch, Crops) and batch.shift is not None
    has = batch.codes[:, 0, 0] >= 0
    assert has.any() and not has.all() and not batch.shift[~has].any()
    wanted = batch.codes.clone()
    wanted[has, 1] = (wanted[has, 1] + 1) % 32
    model = DecoderTrainee(config, str(codec)).eval()
    with torch.no_grad():
        made, _ = model._sound(batch.waveforms, None, batch.codes, batch.shift)
        said, _ = model._sound(batch.waveforms, None, wanted)
        unmoved, _ = model._sound(batch.waveforms, None, batch.codes)
    assert torch.allclose(made, said, atol=1e-3) and not torch.allclose(made[has], unmoved[has], atol=1e-2)


def test_a_decoder_learns_from_guesses_and_mistakes_are_one_line(codec: Path, tmp_path: Path) -> None:
    own, clips = AcousticTokenizer.load(codec), Counting(40, noise=True)
    named = [(clips.name(i), Guess(own.encode(clips.waveform(i), 24_000)[:2])) for i in range(4)]
    file = tmp_path / "guesses.safetensors"
    write_guesses(file, named, own.spec.fingerprint)
    config = replace(TINY, decoder_of=str(codec), guesses=str(file))
    made = fit_acoustic(clips, clips, tmp_path / "one", config)
    plain = fit_acoustic(clips, clips, tmp_path / "two", replace(config, guesses=None))
    assert made.spec == own.spec
    assert not np.allclose(made.decode(named[0][1].codes), plain.decode(named[0][1].codes))
    with pytest.raises(ValueError, match="guesses are for decoder_of"):
        read_guesses(replace(config, decoder_of=None), clips)
    with pytest.raises(ValueError, match="holds no guesses"):
        read_guesses(replace(config, guesses=str(tmp_path / "none.safetensors")), clips)
    with pytest.raises(ValueError, match="nothing to guess"):
        write_guesses(tmp_path / "empty.safetensors", [], own.spec.fingerprint)
    write_guesses(tmp_path / "other.safetensors", named, "else")
    with pytest.raises(ValueError, match="guess anew"):
        read_guesses(replace(config, guesses=str(tmp_path / "other.safetensors")), clips)
    write_guesses(tmp_path / "strangers.safetensors", [("stranger", named[0][1])], own.spec.fingerprint)
    with pytest.raises(ValueError, match=r"none of these clips, as clip-0"):
        read_guesses(replace(config, guesses=str(tmp_path / "strangers.safetensors")), clips)


def test_what_a_stage_said_has_no_recording_to_become(codec: Path, tmp_path: Path) -> None:
    """Its rows are told apart from the others, the discriminator hears them, and without one it is refused."""
    own, clips = AcousticTokenizer.load(codec), Counting(40, noise=True)
    file = tmp_path / "said.safetensors"
    named = [(clips.name(i), Guess(own.encode(clips.waveform(3 - i), 24_000)[:2])) for i in range(4)]
    write_guesses(file, named, own.spec.fingerprint, own_past=True)
    assert Guesses.load(file).own_past
    config = replace(TINY, decoder_of=str(codec), guesses=str(file))
    with pytest.raises(ValueError, match="only a discriminator can judge"):
        read_guesses(config, clips)
    adverse = replace(config, discriminator=DiscriminatorConfig(start=0, alone_steps=0, windows=(256,), filters=4))
    (batch,) = crop_batches(clips, adverse, read_guesses(adverse, clips))(1)
    assert isinstance(batch, Crops) and batch.own_past
    model = DecoderTrainee(adverse, str(codec)).train()
    told: list[torch.Tensor | None] = []
    inner = model.objective.adversary
    assert inner is not None
    inner.register_forward_pre_hook(lambda module, given: told.append(given[4]))
    model.begin_step(1)
    model.loss(batch)[0].backward()
    assert told[0] is not None and told[0].tolist() == [True, False]
    made = fit_acoustic(clips, clips, tmp_path / "one", adverse)
    write_guesses(tmp_path / "become.safetensors", named, own.spec.fingerprint)
    become = fit_acoustic(
        clips, clips, tmp_path / "two", replace(adverse, guesses=str(tmp_path / "become.safetensors"))
    )
    assert made.spec == own.spec and not np.allclose(made.decode(named[0][1].codes), become.decode(named[0][1].codes))
