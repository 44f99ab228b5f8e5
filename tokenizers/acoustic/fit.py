"""Trains an EnCodec of one's own, or the decoder of one that exists, and saves it as an ordinary EncodecModel folder.

    clips ──random crops──▶ trainee ──training.loop──▶ codec.run/ ──export──▶ codec/

Knows no corpus: it is given `Clips`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.trainee import CodecFitConfig, CodecTrainee, DecoderTrainee
from triptych.tokenizers.clips import Clips
from triptych.training.files import atomic_folder, refuse_existing
from triptych.training.loop import train
from triptych.training.run import RunFolder

__all__ = ["CodecFitConfig", "fit_acoustic"]


def crop_batches(clips: Clips, config: CodecFitConfig) -> Any:
    """step -> [waveforms [B, N]]: crops drawn in proportion to the length of the clips; pure in the step."""
    samples = int(config.crop_seconds * config.sample_rate) // config.hop * config.hop
    lengths = np.array([clips.seconds(i) for i in range(len(clips))])
    share = lengths / lengths.sum()

    def batches(step: int) -> list[Tensor]:
        rng = np.random.default_rng((config.training.seed, step))
        micro_batches = []
        for _ in range(config.training.accumulation):
            rows = np.zeros((config.batch, samples), dtype=np.float32)
            for row, index in zip(rows, rng.choice(len(share), config.batch, p=share), strict=True):
                waveform = clips.waveform(int(index))
                start = int(rng.integers(0, max(1, len(waveform) - samples + 1)))
                crop = waveform[start : start + samples]
                row[: len(crop)] = crop * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20)
            micro_batches.append(torch.from_numpy(rows))
        return micro_batches

    return batches


def fit_acoustic(
    clips: Clips,
    held_out: Clips,
    folder: Path,
    config: CodecFitConfig,
    *,
    resume: bool = False,
    progress: Any = None,
) -> AcousticTokenizer:
    """Trains a codec and writes it to `folder`; the run (metrics, checkpoints) lies beside, in `folder`.run.

    Args:
        clips, held_out: prepared recordings at `config.sample_rate`; the second ones are only listened to.
    Raises:
        ValueError: the folder exists, the clips have another rate, or there are none.
        TrainingError: the loss is not a number.
    """
    refuse_existing(folder)
    if len(clips) == 0:
        raise ValueError("there are no clips to train a codec on: is the manifest's split right?")
    if clips.sample_rate != config.sample_rate:
        raise ValueError(f"clips of {clips.sample_rate} Hz for a codec of {config.sample_rate} Hz: set sample_rate")
    torch.manual_seed(config.training.seed)
    model = DecoderTrainee(config, config.decoder_of) if config.decoder_of else CodecTrainee(config)

    def validate(step: int, run: RunFolder) -> dict[str, float]:
        losses = []
        for i in range(min(len(held_out), config.validation_clips)):
            waveform = torch.from_numpy(held_out.waveform(i))
            waveform = waveform[: max(1, len(waveform) // config.hop) * config.hop]
            loss, metrics = model.loss(waveform[None])
            losses.append({"loss": float(loss), **{k: float(v) for k, v in metrics.items() if "perplexity" not in k}})
            if i < 2:
                run.sound(step, f"coded_{i}", model.coded(waveform), config.sample_rate)
        return {name: sum(row[name] for row in losses) / len(losses) for name in losses[0]}

    record = {"stage": "codec", "config": asdict(config), "format": 1}
    with RunFolder(folder.with_name(folder.name + ".run"), asdict(config)) as run:
        train(
            model,
            crop_batches(clips, config),
            config.training,
            run,
            record,
            validate=validate if len(held_out) else None,
            resume=resume,
            progress=progress,
        )
    with atomic_folder(folder) as beside:
        AcousticTokenizer(model.export(), model.levels).save(beside)
    return AcousticTokenizer.load(folder)
