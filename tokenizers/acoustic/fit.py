"""Trains an EnCodec of one's own, or the decoder of one that exists, and saves it as an ordinary EncodecModel folder.

    clips ──random crops──▶ trainee ──training.loop──▶ codec.run/ ──export──▶ codec/

Started by torchrun, every rank takes its own rows of one global draw, so that two ranks with two crops each learn what
one with four learns. Knows no corpus: it is given `Clips`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.mel import side_by_side
from triptych.tokenizers.acoustic.settings import CodecFitConfig
from triptych.tokenizers.acoustic.trainee import CodecTrainee, DecoderTrainee
from triptych.tokenizers.acoustic.usage import CollapseWatch, usage_metrics
from triptych.tokenizers.clips import Clips
from triptych.tokenizers.waveform import Waveform
from triptych.training.distributed import rank, ranks, wait_for_all, world
from triptych.training.files import atomic_folder, refuse_existing
from triptych.training.loop import Validate, pick_device, train
from triptych.training.run import RunFolder

__all__ = ["CodecFitConfig", "fit_acoustic"]

Progress = Callable[[int, Mapping[str, float]], None]
HEARD = 2
"""held-out clips that can be heard and seen in TensorBoard"""


def crop_batches(clips: Clips, config: CodecFitConfig) -> Callable[[int], list[Tensor]]:
    """step -> its micro-batches [B, N] of this rank: crops drawn in proportion to the length of the clips.

    Row r of a step is a function of (seed, step, r), whatever ranks and micro-batches its rows are dealt to.
    """
    lengths = np.array([clips.seconds(i) for i in range(len(clips))])
    share = lengths / lengths.sum()
    device = pick_device(config.training.device)
    micro_batches, ranks_now, me = config.training.accumulation, world(), rank()

    def batches(step: int) -> list[Tensor]:
        everyone = config.batch * ranks_now
        drawn = np.random.default_rng((config.training.seed, step)).choice(
            len(share), micro_batches * everyone, p=share
        )
        made = []
        for micro_batch in range(micro_batches):
            first = micro_batch * everyone + me * config.batch
            rows = [crop(clips, int(drawn[r]), config, (step, r)) for r in range(first, first + config.batch)]
            made.append(torch.from_numpy(np.stack(rows)).to(device))
        return made

    return batches


def crop(clips: Clips, index: int, config: CodecFitConfig, place: tuple[int, int]) -> Waveform:
    """A crop [N] of a clip, anywhere and a little louder or quieter; a shorter clip is followed by silence."""
    rng = np.random.default_rng((config.training.seed, *place))
    row = np.zeros(config.crop, dtype=np.float32)
    waveform = clips.waveform(index)
    start = int(rng.integers(0, max(1, len(waveform) - config.crop + 1)))
    taken = waveform[start : start + config.crop]
    row[: len(taken)] = taken * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20)
    return row


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
        ValueError: the folder exists, the clips have another rate, or there are none; `decoder_share` without
            `decoder_of`; more favoured levels than there are.
        TrainingError: the loss is not a number.
    """
    refuse_existing(folder)
    if len(clips) == 0:
        raise ValueError("there are no clips to train a codec on: is the manifest's split right?")
    if clips.sample_rate != config.sample_rate:
        raise ValueError(f"clips of {clips.sample_rate} Hz for a codec of {config.sample_rate} Hz: set sample_rate")
    if config.decoder_share < 1 and not config.decoder_of:
        raise ValueError("decoder_share is for decoder_of: a codec from scratch has no decoder that it began with")
    if config.favoured_levels and config.favoured_levels > config.levels:
        raise ValueError(f"favoured_levels = {config.favoured_levels}: choose 1 to {config.levels}, the codec's levels")
    with ranks(config.training.device):
        torch.manual_seed(config.training.seed)
        model = DecoderTrainee(config, config.decoder_of) if config.decoder_of else CodecTrainee(config)
        record = {"stage": "codec", "config": asdict(config), "format": 1}
        with RunFolder(folder.with_name(folder.name + ".run"), asdict(config)) as run:
            train(
                model,
                crop_batches(clips, config),
                config.training,
                run,
                record,
                validate=listening(model, held_out, config) if len(held_out) else None,
                resume=resume,
                progress=watched(run, config, progress),
            )
        if rank() == 0:
            with atomic_folder(folder) as beside:
                AcousticTokenizer(model.export(), model.levels, config.dtype).save(beside)
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
            waveform = torch.from_numpy(held_out.waveform(i)).to(device)
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
