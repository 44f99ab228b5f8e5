"""What the encoder learns from: recordings, kept as the encoder's input, and batches that are a function of the step.

    clips --16 kHz--> log-mels [T * stride, 80] float16, once      (wave encoders: int16 samples instead)
          --MFCCs--> k-means --> a cluster id each frame           targets, of the clean clip
          --text front end--> ids                                  CTC, where there is text that fits

    batch(step) = the next rows of similar length -> augment -> normalise -> mask spans -> pad
                  the same rows as they are                          -> normalise -> pad    (a second view, if asked)

Invariant: a batch depends on (seed, step) and the clips alone. Knows no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.tokenizers.clips import Clips, Refused
from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.augment import (
    AugmentConfig,
    augment,
    change_wave,
    clean_frames,
    draw_speed,
    erase_bands,
    faster_mels,
    faster_waves,
    mix_mels,
    mix_span,
    mix_waves,
)
from triptych.tokenizers.semantic.ctc import ctc_fits
from triptych.tokenizers.semantic.inputs import FrontEnd, encoder_input, normalised
from triptych.tokenizers.waveform import Waveform, resample
from triptych.training.distributed import reached

SHORTEST_FRAMES = 10
"""shorter clips keep their speed"""


@dataclass(frozen=True)
class Batch:
    """Rows of similar length, padded at the end."""

    inputs: Tensor
    """[B, T, 80 * stride] filterbanks, or [B, N] samples with the padding of the convolutions"""
    samples: Tensor
    """[B] samples of each row of a wave batch; empty for filterbanks"""
    valid: Tensor
    """[B, T] bool: frames that are of the clip"""
    targets: Tensor
    """[B, T] cluster ids of the clean clip"""
    masked: Tensor
    """[B, T] bool: frames that the encoder does not see"""
    text: Tensor
    """[L_0 + L_1 + …] classes for CTC, row after row"""
    text_lengths: Tensor
    """[B]; 0 where there is no text, or not enough frames for it"""
    clean: "Batch | None" = None
    """the same rows unchanged and unmasked, row by row, where they are asked for"""
    clean_frames: Tensor | None = None
    """[B, T]: the frame of `clean` that each frame is of; another one only where the speed was changed"""


@dataclass(frozen=True)
class Shelf:
    """All clips as they are kept in memory."""

    front: FrontEnd
    frames: NDArray[np.int64]
    """[clips] encoder frames of each"""
    mels: list[NDArray[np.float16]]
    """log-mels [T * stride, 80] of each; of wave inputs as well, for their targets"""
    waves: list[NDArray[np.int16]]
    """samples, of wave inputs alone"""
    text: list[NDArray[np.int64]]
    """CTC classes of each; empty where there is no text"""
    unspoken: list[str]
    """names of the clips whose text the front end refused; they are learned from without it"""

    def __len__(self) -> int:
        return len(self.frames)


def fill_shelf(
    clips: Clips,
    front: FrontEnd,
    encode_text: Callable[[str], NDArray[np.int64]] | None,
    indices: Sequence[int],
    max_seconds: float,
    refused: Refused | None = None,
) -> Shelf:
    """Reads the clips at `indices`, once. Clips beyond `max_seconds` are cut there, and lose their text; those that
    cannot be used have no frames, and are noted in `refused`.

    Raises:
        ValueError: a clip too many cannot be used; without `refused`, the first.
    """
    limit = int(max_seconds * filterbank.SAMPLE_RATE) // front.hop * front.hop
    shelf = Shelf(front, np.zeros(len(indices), dtype=np.int64), [], [], [], [])
    for row, index in enumerate(indices):
        try:
            waveform = resample(clips.waveform(index), clips.sample_rate, filterbank.SAMPLE_RATE)
        except ValueError as error:
            if refused is None:
                raise
            refused.add(clips.name(index), error)
            waveform = np.zeros(0, dtype=np.float32)
        text = clips.text(index) if len(waveform) <= limit else None
        waveform = waveform[:limit]
        shelf.frames[row] = len(waveform) // front.hop
        shelf.mels.append(filterbank.log_mels(waveform).astype(np.float16))
        if front.wave:
            shelf.waves.append(np.clip(np.round(waveform * 32767), -32768, 32767).astype(np.int16))
        try:
            shelf.text.append(encode_text(text) if text and encode_text else np.zeros(0, dtype=np.int64))
        except ValueError:  # counted in the run's first line, and named
            shelf.text.append(np.zeros(0, dtype=np.int64))
            shelf.unspoken.append(clips.name(index))
        reached(f"clip {row + 1} of {len(indices)}")
    return shelf


def summary(shelf: Shelf, ctc_steps: int) -> dict[str, float]:
    """What there is to learn from; texts that CTC cannot use are counted."""
    texts = [
        (text, int(frames) * ctc_steps) for text, frames in zip(shelf.text, shelf.frames, strict=True) if len(text)
    ]
    return {
        "clips": float(len(shelf)),
        "hours": float(shelf.frames.sum()) * shelf.front.hop / filterbank.SAMPLE_RATE / 3600,
        "clips_with_text": float(len(texts)),
        "clips_whose_text_does_not_fit": float(sum(not ctc_fits(text, steps) for text, steps in texts)),
        "clips_that_cannot_be_spoken": float(len(shelf.unspoken)),
    }


def span_mask(frames: int, start: float, span: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """[frames]: each begins a span of `span` masked frames with probability `start`, one at least does (HuBERT)."""
    begins = np.flatnonzero(generator.random(frames) < start)
    if len(begins) == 0:
        begins = generator.integers(0, max(1, frames - span + 1), 1)
    masked = np.zeros(frames, dtype=bool)
    for begin in begins:
        masked[begin : begin + span] = True
    return masked


@dataclass(frozen=True)
class RowInput:
    """One row as the encoder hears it."""

    values: NDArray[np.float32]
    """[T, 80 * stride], or [samples] with the padding of the convolutions"""
    clean_frames: NDArray[np.int64]
    """[T]: the frame of the clean clip that each frame is of"""


def row_input(
    shelf: Shelf, row: int, config: AugmentConfig | None, generator: np.random.Generator, others: NDArray[np.int64]
) -> RowInput:
    """The encoder's input of one row, changed where `config` says so; `others`: rows of which one may be mixed in."""
    front, clean = shelf.front, int(shelf.frames[row])
    if config is None:
        if front.wave:
            return RowInput(encoder_input(wave(shelf, row), front), np.arange(clean))
        mels = normalised(shelf.mels[row].astype(np.float32), front)
        return RowInput(filterbank.stack(mels, front.stride), np.arange(clean))
    other = int(others[generator.integers(len(others))]) if config.mix_share else row
    speed = draw_speed(config, generator) if clean > SHORTEST_FRAMES else 1.0
    if front.wave:
        heard = wave(shelf, row)
        if span := mix_span(len(heard), len(shelf.waves[other]), config, generator):
            heard = mix_waves(heard, wave(shelf, other), span)
        heard = change_wave(faster_waves(heard, speed), config, generator)
        return RowInput(encoder_input(heard, front), clean_frames(len(heard) // front.hop, clean, speed))
    mels = shelf.mels[row].astype(np.float32)
    if span := mix_span(len(mels), len(shelf.mels[other]), config, generator):
        mels = mix_mels(mels, shelf.mels[other].astype(np.float32), span)
    mels = augment(faster_mels(mels, speed), config, generator)
    mels = erase_bands(normalised(mels, front), config, generator)
    stacked = filterbank.stack(mels, front.stride)
    return RowInput(stacked, clean_frames(len(stacked), clean, speed))


def wave(shelf: Shelf, row: int) -> Waveform:
    """Samples [N] of a row."""
    return shelf.waves[row].astype(np.float32) / np.float32(32767)


def collate(
    shelf: Shelf,
    rows: NDArray[np.int64],
    targets: Sequence[NDArray[np.int64]],
    generator: np.random.Generator,
    *,
    augmentation: AugmentConfig | None,
    mask_start: float,
    mask_span: int,
    ctc_steps: int,
    clean_front: FrontEnd | None = None,
) -> Batch:
    """A padded batch of `rows`; `mask_start` 0 masks nothing. `clean_front`: through which the same rows are heard
    unchanged beside them; none: they are not."""
    heard = [row_input(shelf, int(row), augmentation, generator, rows) for row in rows]
    longest = max(len(x.clean_frames) for x in heard)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    wanted = torch.zeros(len(rows), longest, dtype=torch.long)
    masked = torch.zeros(len(rows), longest, dtype=torch.bool)
    aligned = torch.zeros(len(rows), longest, dtype=torch.long)
    padded = torch.zeros(len(rows), max(len(x.values) for x in heard), *heard[0].values.shape[1:])
    texts = []
    for place, row in enumerate(rows):
        values, clean = heard[place].values, heard[place].clean_frames
        frames = len(clean)
        padded[place, : len(values)] = torch.from_numpy(values)
        valid[place, :frames] = True
        wanted[place, :frames] = torch.from_numpy(targets[row][clean])
        aligned[place, :frames] = torch.from_numpy(clean)
        if mask_start:
            masked[place, :frames] = torch.from_numpy(span_mask(frames, mask_start, mask_span, generator))
        text = shelf.text[row]
        texts.append(text if ctc_fits(text, frames * ctc_steps) else text[:0])
    other_view = None
    if clean_front:
        as_it_is = replace(shelf, front=clean_front)
        other_view = collate(
            as_it_is, rows, targets, generator, augmentation=None, mask_start=0.0, mask_span=1, ctc_steps=ctc_steps
        )
    lengths = [len(x.values) for x in heard]
    return Batch(
        inputs=padded,
        samples=torch.tensor(lengths) if shelf.front.wave else torch.zeros(0, dtype=torch.long),
        valid=valid,
        targets=wanted,
        masked=masked,
        text=torch.from_numpy(np.concatenate(texts)),
        text_lengths=torch.tensor([len(text) for text in texts]),
        clean=other_view,
        clean_frames=aligned if clean_front else None,
    )


def held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to learn from, and at least one to validate on."""
    order = np.random.default_rng((seed, 2)).permutation(count)
    kept = max(1, round(share * count))
    return sorted(order[kept:].tolist()), sorted(order[:kept].tolist())
