"""Trains an EnCodec of one's own, or the decoder of one that exists, and saves it as an ordinary EncodecModel folder.

    clips ──random crops──▶ trainee ──training.loop──▶ codec.run/ ──export──▶ codec/

Started by torchrun, every rank takes its own rows of one global draw, so that two ranks with two crops each learn what
one with four learns. Knows no corpus: it is given `Clips`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.decoder_trainee import Crops, DecoderTrainee
from triptych.tokenizers.acoustic.guesses import Guess, Guesses
from triptych.tokenizers.acoustic.mel import side_by_side
from triptych.tokenizers.acoustic.settings import CodecFitConfig
from triptych.tokenizers.acoustic.trainee import CodecTrainee
from triptych.tokenizers.acoustic.usage import CollapseWatch, usage_metrics
from triptych.tokenizers.clips import Clips
from triptych.tokenizers.waveform import Waveform
from triptych.training.device import pick_device
from triptych.training.distributed import rank, ranks, wait_for_all, world
from triptych.training.files import atomic_folder, refuse_existing
from triptych.training.loop import Validate, train
from triptych.training.run import RunFolder, refuse_run

__all__ = ["CodecFitConfig", "fit_acoustic"]

Progress = Callable[[int, Mapping[str, float]], None]
HEARD = 2
"""held-out clips that can be heard and seen in TensorBoard"""


def crop_batches(
    clips: Clips, config: CodecFitConfig, guesses: Guesses | None = None
) -> Callable[[int], list[Tensor] | list[Crops]]:
    """step -> its micro-batches [B, N] of this rank: crops drawn in proportion to the length of the clips.

    Row r of a step is a function of (seed, step, r), whatever ranks and micro-batches its rows are dealt to.
    """
    lengths = np.array([clips.seconds(i) for i in range(len(clips))])
    share = lengths / lengths.sum()
    device = pick_device(config.training.device)
    micro_batches, ranks_now, me = config.training.accumulation, world(), rank()

    def batches(step: int) -> list[Any]:
        everyone = config.batch * ranks_now
        drawn = np.random.default_rng((config.training.seed, step)).choice(
            len(share), micro_batches * everyone, p=share
        )
        made: list[Any] = []
        for micro_batch in range(micro_batches):
            first = micro_batch * everyone + me * config.batch
            chosen = range(first, first + config.batch)
            if guesses is not None:
                places = [(int(drawn[r]), (step, r)) for r in chosen]
                made.append(with_guesses(clips, guesses, config, places, len(drawn), device))
                continue
            rows = [crop(clips, int(drawn[r]), config, (step, r)) for r in chosen]
            made.append(torch.from_numpy(np.stack(rows)).to(device))
        return made

    return batches


def crop(clips: Clips, index: int, config: CodecFitConfig, place: tuple[int, int]) -> Waveform:
    """A crop [N] of a clip, anywhere and a little louder or quieter; a shorter clip is followed by silence."""
    rng = np.random.default_rng((config.training.seed, *place))
    row = np.zeros(config.crop, dtype=np.float32)
    waveform = whole_clip(clips, index)
    start = int(rng.integers(0, max(1, len(waveform) - config.crop + 1)))
    taken = waveform[start : start + config.crop]
    row[: len(taken)] = taken * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20)
    return row


def whole_clip(clips: Clips, index: int) -> Waveform:
    """[N]

    Raises:
        ValueError: it cannot be used; says how to go on.
    """
    try:
        return clips.waveform(index)
    except ValueError as error:
        raise ValueError(
            f"{error}: take {clips.name(index)} out of the manifest and add resume=true "
            "('triptych prepare --strict' finds all such recordings)"
        ) from None


def with_guesses(
    clips: Clips,
    guesses: Guesses,
    config: CodecFitConfig,
    places: list[tuple[int, tuple[int, int]]],
    rows_a_step: int,
    device: torch.device,
) -> Crops:
    """Crops of the clips that `places` names, with (step, row) of each; of the rows of all steps an even share with
    what was guessed for them."""
    frames = config.crop // config.hop
    codes = np.full((len(places), guesses.levels, frames), -1, dtype=np.int64)
    shift = None if guesses.shift is None else np.zeros((len(places), len(guesses.shift), frames), np.float32)
    rows = []
    for row, (index, place) in enumerate(places):
        found = guesses.of(clips.name(index))
        rng = np.random.default_rng((config.training.seed, *place, 1))
        share, number = config.guessed_share, (place[0] - 1) * rows_a_step + place[1]
        if found is None or math.floor((number + 1) * share) == math.floor(number * share):
            rows.append(crop(clips, index, config, place))
            continue
        waveform, part = guessed_crop(whole_clip(clips, index), found, config, rng)
        rows.append(waveform)
        codes[row] = part.codes
        if shift is not None:
            shift[row] = part.shift
    waveforms, ids = (torch.from_numpy(each).to(device) for each in (np.stack(rows), codes))
    return Crops(waveforms, ids, guesses.own_past, None if shift is None else torch.from_numpy(shift).to(device))


def guessed_crop(
    waveform: Waveform, guess: Guess, config: CodecFitConfig, rng: np.random.Generator
) -> tuple[Waveform, Guess]:
    """A crop [N] of a clip [M] from a whole frame on, as loud as it is, and what was guessed of its N // hop frames. A
    clip that is shorter is followed by itself: silence has codes that nobody guessed."""
    frames = min(guess.codes.shape[1], len(waveform) // config.hop)
    wanted = config.crop // config.hop
    first = int(rng.integers(0, max(1, frames - wanted + 1)))
    chosen = np.arange(first, first + wanted) % max(1, frames)
    samples = (chosen[:, None] * config.hop + np.arange(config.hop)).reshape(-1)
    return waveform[samples], guess.at(chosen)


def read_guesses(config: CodecFitConfig, clips: Clips) -> Guesses | None:
    """What `config.guesses` names.

    Raises:
        ValueError: it cannot be used for these clips, or for this codec; one line.
    """
    if config.guesses is None:
        return None
    if not config.decoder_of:
        raise ValueError("guesses are for decoder_of: they are codes of a codec that exists")
    found = Guesses.load(Path(config.guesses))
    if found.own_past and config.discriminator.start is None:
        raise ValueError(
            f"guesses={config.guesses} were made with own_past, and only a discriminator can judge those: "
            "say discriminator.start=0, or guess without own_past"
        )
    own = AcousticTokenizer.load(config.decoder_of).spec.fingerprint
    if found.fingerprint != own:
        raise ValueError(f"guesses={config.guesses} are codes of {found.fingerprint}, decoder_of is {own}: guess anew")
    if not any(found.of(clips.name(i)) is not None for i in range(len(clips))):
        raise ValueError(
            f"guesses={config.guesses} has none of these clips, as {clips.name(0)}: guess from shards of this manifest"
        )
    return found


def fit_acoustic(
    clips: Clips,
    held_out: Clips,
    folder: Path,
    config: CodecFitConfig,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> AcousticTokenizer:
    """Trains a codec and writes it to `folder`; the run (metrics, checkpoints) lies beside, in `folder`.run.

    Args:
        clips, held_out: prepared recordings at `config.sample_rate`; the second ones are only listened to.
    Raises:
        ValueError: the folder exists, the clips have another rate, or there are none; settings that do not go together;
            more favoured levels than there are; a codec that cannot be gone on with.
        TrainingError: the loss is not a number.
    """
    refuse_existing(folder)
    if len(clips) == 0:
        raise ValueError("there are no clips to train a codec on: is the manifest's split right?")
    if clips.sample_rate != config.sample_rate:
        raise ValueError(f"clips of {clips.sample_rate} Hz for a codec of {config.sample_rate} Hz: set sample_rate")
    if config.decoder_share < 1 and not config.decoder_of:
        raise ValueError("decoder_share is for decoder_of: it keeps a part of the decoder that the codes were made for")
    if config.init and config.decoder_of:
        raise ValueError("init trains a whole codec on, decoder_of its decoder under the same codes: leave one out")
    if config.decoder_too and not (config.decoder_of and config.postfilter.layers):
        raise ValueError(
            "decoder_too is for decoder_of with a post-filter (postfilter.layers): elsewhere it learns anyway"
        )
    if config.postfilter.layers and not (config.decoder_of or config.init):
        raise ValueError("postfilter is for decoder_of or init: it mends what the decoder of a codec that exists makes")
    guesses = read_guesses(config, clips)
    with ranks(config.training.device, config.training.timeout):
        torch.manual_seed(config.training.seed)
        model = DecoderTrainee(config, config.decoder_of) if config.decoder_of else CodecTrainee(config)
        if config.favoured_levels and config.favoured_levels > model.levels:
            raise ValueError(
                f"favoured_levels={config.favoured_levels}: choose 1 to {model.levels}, the codec's levels"
            )
        record = {"stage": "codec", "config": asdict(config), "format": 1}
        path = folder.with_name(folder.name + ".run")
        if not resume:
            refuse_run(path)
        with RunFolder(path, asdict(config)) as run:
            train(
                model,
                crop_batches(clips, config, guesses),
                config.training,
                run,
                record,
                validate=listening(model, held_out, config) if len(held_out) else None,
                resume=resume,
                progress=watched(run, config, progress),
            )
        if rank() == 0:
            with atomic_folder(folder) as beside:
                AcousticTokenizer(model.export(), model.levels, model.dtype, model.postfilter).save(beside)
        wait_for_all()
        return AcousticTokenizer.load(folder)


def watched(run: RunFolder, config: CodecFitConfig, progress: Progress | None) -> Progress:
    """`progress` that also warns of levels that collapse."""
    watch = CollapseWatch(config.levels, config.codebook_size)

    def tell(step: int, metrics: Mapping[str, float]) -> None:
        for line in watch(step, metrics):
            run.warn(step, line)
        if progress:
            progress(step, metrics)

    return tell


def listening(model: CodecTrainee | DecoderTrainee, held_out: Clips, config: CodecFitConfig) -> Validate:
    """Distances and the use of the codebooks over held-out clips; some of them for TensorBoard, to hear and to see."""
    device = pick_device(config.training.device)

    def validate(step: int, run: RunFolder) -> dict[str, float]:
        every: list[dict[str, float]] = []
        counts: Tensor | None = None
        for i in range(min(len(held_out), config.validation_clips)):
            waveform = torch.from_numpy(whole_clip(held_out, i)).to(device)
            waveform = waveform[: max(1, len(waveform) // config.hop) * config.hop]
            heard = model.listen(waveform)
            every.append(heard.metrics)
            if heard.ids is not None:
                used = torch.stack([torch.bincount(row, minlength=model.size) for row in heard.ids])
                counts = used if counts is None else counts + used
            if i < HEARD:
                run.sound(step, f"coded_{i}", heard.sound, config.sample_rate)
                run.picture(step, f"given_and_coded_{i}", side_by_side(waveform, heard.sound, config.sample_rate))
        means = {name: sum(row[name] for row in every) / len(every) for name in every[0]}
        return means | ({} if counts is None else usage_metrics(counts))

    return validate
