"""What the encoder learns from: recordings, kept as the encoder's input, and batches that are a function of the step.

    clips --16 kHz--> log-mels [T * stride, 80] float16, once      (wave encoders: int16 samples instead)
          --MFCCs--> k-means --> a cluster id each frame           targets, of the clean clip
          --text front end--> ids                                  CTC, where there is text that fits

    batch(step) = the next rows of similar length -> augment -> normalise -> mask spans -> pad

Invariant: a batch depends on (seed, step) and the clips alone. Knows no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.augment import AugmentConfig, augment, erase_bands
from triptych.tokenizers.semantic.ctc import ctc_fits
from triptych.tokenizers.semantic.inputs import FrontEnd, encoder_input
from triptych.tokenizers.waveform import Waveform, resample


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
) -> Shelf:
    """Reads the clips at `indices`, once. Clips beyond `max_seconds` are cut there, and lose their text."""
    limit = int(max_seconds * filterbank.SAMPLE_RATE) // front.hop * front.hop
    shelf = Shelf(front, np.zeros(len(indices), dtype=np.int64), [], [], [], [])
    for row, index in enumerate(indices):
        waveform = resample(clips.waveform(index), clips.sample_rate, filterbank.SAMPLE_RATE)
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


class Buckets:
    """Which rows lie in which batch: similar lengths together, another mixture each epoch."""

    def __init__(self, frames: NDArray[np.int64], budget: int, seed: int) -> None:
        self._frames, self._budget, self._seed = frames, budget, seed
        self._epochs: list[list[NDArray[np.int64]]] = []

    def rows(self, number: int) -> NDArray[np.int64]:
        """The rows of batch `number`, from 0, endless over epochs; rows * longest <= budget where one row allows it."""
        epoch = 0
        while True:
            if epoch == len(self._epochs):
                self._epochs.append(self._pack(epoch))
            if number < len(self._epochs[epoch]):
                return self._epochs[epoch][number]
            number -= len(self._epochs[epoch])
            epoch += 1

    def _pack(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng((self._seed, 1, epoch))
        usable = np.flatnonzero(self._frames > 0)
        order = usable[np.argsort(self._frames[usable] * generator.uniform(0.9, 1.1, len(usable)), kind="stable")]
        batches: list[NDArray[np.int64]] = []
        current: list[int] = []
        longest = 0
        for row in order:
            longest = max(longest, int(self._frames[row]))
            if current and longest * (len(current) + 1) > self._budget:
                batches.append(np.array(current))
                current, longest = [], int(self._frames[row])
            current.append(int(row))
        batches.append(np.array(current))
        return [batches[i] for i in generator.permutation(len(batches))]


def span_mask(frames: int, start: float, span: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """[frames]: each begins a span of `span` masked frames with probability `start`, one at least does (HuBERT)."""
    begins = np.flatnonzero(generator.random(frames) < start)
    if len(begins) == 0:
        begins = generator.integers(0, max(1, frames - span + 1), 1)
    masked = np.zeros(frames, dtype=bool)
    for begin in begins:
        masked[begin : begin + span] = True
    return masked


def row_input(
    shelf: Shelf, row: int, config: AugmentConfig | None, generator: np.random.Generator
) -> NDArray[np.float32]:
    """The encoder's input of one row: [T, 80 * stride], or [samples] with padding; changed where `config` says so."""
    front = shelf.front
    if front.wave:
        return wave_input(shelf.waves[row].astype(np.float32) / np.float32(32767), front, config, generator)
    mels = shelf.mels[row].astype(np.float32)
    if config is not None:
        mels = augment(mels, config, generator)
    mels = filterbank.normalise(mels)
    if config is not None:
        mels = erase_bands(mels, config, generator)
    return filterbank.stack(mels, front.stride)


def wave_input(
    waveform: Waveform, front: FrontEnd, config: AugmentConfig | None, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Samples as the convolutions take them, with white noise where asked for."""
    if config is not None and generator.random() < config.share * config.noise_share:
        ratio = 10 ** (-generator.uniform(*config.noise_snr_db) / 20)
        level = np.float32(ratio * np.sqrt(np.mean(np.square(waveform)) + 1e-9))
        waveform = waveform + level * generator.standard_normal(len(waveform), dtype=np.float32)
    return encoder_input(waveform, front)


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
) -> Batch:
    """A padded batch of `rows`; `mask_start` 0 masks nothing."""
    inputs = [row_input(shelf, int(row), augmentation, generator) for row in rows]
    longest = int(shelf.frames[rows].max())
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    wanted = torch.zeros(len(rows), longest, dtype=torch.long)
    masked = torch.zeros(len(rows), longest, dtype=torch.bool)
    padded = torch.zeros(len(rows), max(len(x) for x in inputs), *inputs[0].shape[1:])
    texts = []
    for place, row in enumerate(rows):
        frames = int(shelf.frames[row])
        padded[place, : len(inputs[place])] = torch.from_numpy(inputs[place])
        valid[place, :frames] = True
        wanted[place, :frames] = torch.from_numpy(targets[row])
        if mask_start:
            masked[place, :frames] = torch.from_numpy(span_mask(frames, mask_start, mask_span, generator))
        text = shelf.text[row]
        texts.append(text if ctc_fits(text, frames * ctc_steps) else text[:0])
    return Batch(
        inputs=padded,
        samples=torch.tensor([len(x) for x in inputs]) if shelf.front.wave else torch.zeros(0, dtype=torch.long),
        valid=valid,
        targets=wanted,
        masked=masked,
        text=torch.from_numpy(np.concatenate(texts)),
        text_lengths=torch.tensor([len(text) for text in texts]),
    )


def held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to learn from, and at least one to validate on."""
    order = np.random.default_rng((seed, 2)).permutation(count)
    kept = max(1, round(share * count))
    return sorted(order[kept:].tolist()), sorted(order[:kept].tolist())
