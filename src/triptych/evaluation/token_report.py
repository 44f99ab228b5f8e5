"""What semantic tokens carry, and what changes them: the recipe behind `inspect tokens`.

    1  read       clips of split train (probes learn from them) and of dev and test (judged, disturbed)
    2  tokenize   ids [T] of each, and at each frame: the pitch, the phone that sounds
    3  count      use of the alphabet, PNMI
    4  probe      phonemes, speaker, pitch
    5  disturb    the held-out clips again, changed in each way

Invariant: a number that cannot be had is named in `missing`, with the reason, and has no entry. Knows no picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.corpus.clips import ManifestClips
from triptych.evaluation.disturb import Disturbance, disturbances
from triptych.evaluation.estimate import Estimate, estimate
from triptych.evaluation.phone_probe import PhoneProbe, Said, fit_probe, probe_error
from triptych.evaluation.phones import phones_of_frames
from triptych.evaluation.probes import pitch_probe, speaker_probe
from triptych.evaluation.token_clips import Ears, Heard, audible, draw
from triptych.evaluation.tokens import Change, Ids, Purity, Use, change, purity, use
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import STRICT

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer

Progress = Callable[[int, int, str], None]
"""done, of how many, of what"""


@config_dataclass(frozen=True, config=STRICT)
class TokenInspectConfig:
    """How much is listened to."""

    clips: int = 1000
    """clips of split train, drawn at random, that the probes learn from"""
    held_out: int = 100
    """clips of splits dev and test, taken evenly, that are judged and disturbed"""
    longest_seconds: float = 20.0
    """longer recordings are left out"""
    probe_steps: int = 1500
    """steps of 16 clips that the phoneme probe is trained for"""
    probe_width: int = 192
    """width of the phoneme probe"""
    disturb: bool = True
    """whether the held-out clips are tokenized again, disturbed in each way"""
    resamples: int = 1000
    """of the bootstrap over clips behind each interval"""
    seed: int = 0
    """of all draws"""
    device: str = "cpu"
    """where the encoder runs: cpu or cuda"""


@dataclass(frozen=True)
class PhoneNumbers:
    """What needs texts."""

    error: Estimate | None
    """edits a phoneme of the probe on held-out clips"""
    purity: Purity | None
    aligned_by: str
    """who says which phone sounds when"""


@dataclass(frozen=True)
class SpeakerNumbers:
    accuracy: Estimate
    majority: float
    """share of the most frequent speaker"""
    speakers: int


class LinearNumbers(TypedDict):
    """What linear probes read; also fields of a TokenReport."""

    speaker: SpeakerNumbers | None
    pitch: Estimate | None
    """R² of log2 Hz"""
    melody: Estimate | None
    """R² of log2 Hz around the mean of the clip"""


@dataclass(frozen=True)
class DisturbedRow:
    """One line of the table of disturbances."""

    name: str
    edits: Estimate
    """a token"""
    collapsed: Estimate
    """the same without repeats"""
    frames: Estimate
    """share that has another id"""


@dataclass(frozen=True)
class TokenReport:
    """Everything; as JSON it is report.json."""

    tokenizer: dict[str, object]
    learned: int
    """clips that probes learned from"""
    held_out: int
    use: Use
    phones: PhoneNumbers | None
    speaker: SpeakerNumbers | None
    pitch: Estimate | None
    """R² of log2 Hz"""
    melody: Estimate | None
    """R² of log2 Hz around the mean of the clip"""
    disturbed: list[DisturbedRow]
    missing: dict[str, str]


def inspect_tokens(
    tokenizer: SemanticTokenizer,
    manifest: Path,
    config: TokenInspectConfig,
    *,
    text: "TextTokenizer | None",
    aligner: Path | None,
    progress: Progress,
) -> TokenReport:
    """
    Args:
        text: the front end whose phonemes are sought; None: nothing is said of phonemes.
        aligner: an encoder of `fit encoder --text`, which says when each phone sounds; None: the probe does.
    Raises:
        ValueError: a manifest or an aligner that cannot be used, too few clips, or no clip with a text.
    """
    missing: dict[str, str] = {}
    ears = Ears(text, aligner, missing, config.device)
    clips = ManifestClips(manifest, WaveformSpec(SAMPLE_RATE), split=None, cache_bytes=0)
    drawn_clips = draw(clips, config.clips, config.held_out, config.longest_seconds, config.seed)
    learned, held_out = (audible(clips, those, missing) for those in drawn_clips)
    ways, cannot = disturbances(1 / float(tokenizer.spec.frame_rate)) if config.disturb else ([], {})
    missing |= cannot
    rate, heard = float(tokenizer.spec.frame_rate), []
    changes: dict[str, list[Change]] = {way.name: [] for way in ways}
    for done, index in enumerate([*learned, *held_out], 1):
        waveform = clips.waveform(index)
        ids = encode(tokenizer, waveform)
        heard.append(replace(ears.listen(clips, index, waveform, len(ids), rate), ids=ids))
        if done > len(learned):
            disturb(tokenizer, waveform, ids, ways, (config.seed, index), changes)
        progress(done, len(learned) + len(held_out), "tokenize")
    phones = None
    if ears.classes is not None:
        phones = phone_numbers(heard, len(learned), tokenizer.spec.size, rate, ears, config, progress)
    return TokenReport(
        tokenizer=tokenizer.spec.to_json(),
        learned=len(learned),
        held_out=len(held_out),
        use=use([clip.ids for clip in heard], tokenizer.spec.size, rate),
        phones=phones,
        **linear_numbers(heard, tokenizer.spec.size, config.resamples, config.seed, missing),
        disturbed=[row for name, found in changes.items() if (row := disturbed_row(name, found, config))],
        missing=missing,
    )


def encode(tokenizer: SemanticTokenizer, waveform: Waveform) -> Ids:
    """[N] at 16 kHz -> [T]"""
    return tokenizer.encode([waveform], SAMPLE_RATE)[0].astype(np.int64)


def disturb(
    tokenizer: SemanticTokenizer,
    waveform: Waveform,
    clean: Ids,
    ways: Sequence[Disturbance],
    seed: tuple[int, int],
    changes: dict[str, list[Change]],
) -> None:
    """Adds to `changes` what each way does to one clip."""
    for way in ways:
        changed = way.change(waveform, SAMPLE_RATE, np.random.default_rng(seed))
        found = change(clean, encode(tokenizer, changed), way.speed)
        if found is not None:
            changes[way.name].append(found)


def disturbed_row(name: str, found: Sequence[Change], config: TokenInspectConfig) -> DisturbedRow | None:
    """Means over the clips, None where there is no clip."""
    tokens, runs = [float(x.tokens) for x in found], [float(x.runs) for x in found]
    chance = np.random.default_rng((config.seed, 12))
    edits = estimate([x.edits for x in found], tokens, config.resamples, chance)
    collapsed = estimate([x.collapsed for x in found], runs, config.resamples, chance)
    frames = estimate([x.frames for x in found], tokens, config.resamples, chance)
    return DisturbedRow(name, edits, collapsed, frames) if edits and collapsed and frames else None


def linear_numbers(
    heard: Sequence[Heard], size: int, resamples: int, seed: int, missing: dict[str, str]
) -> LinearNumbers:
    """What linear probes read from ids; what cannot be had is added to `missing`."""
    ids, speakers = [clip.ids for clip in heard], [clip.speaker for clip in heard]
    voice = speaker_probe(ids, speakers, size, resamples, seed)
    if voice is None:
        missing["speaker"] = "fewer than two speakers with four clips each"
    pitch = [clip.pitch for clip in heard]
    return {
        "speaker": SpeakerNumbers(*voice) if voice else None,
        "pitch": pitch_probe(ids, pitch, size, resamples, seed, within=False),
        "melody": pitch_probe(ids, pitch, size, resamples, seed, within=True),
    }


def phone_numbers(
    heard: Sequence[Heard],
    learned: int,
    size: int,
    rate: float,
    ears: Ears,
    config: TokenInspectConfig,
    progress: Progress,
) -> PhoneNumbers:
    """The probe, trained on the first `learned` clips and judged on the others, and PNMI over all."""
    assert ears.classes is not None
    rows = [Said(clip.ids, clip.text) for clip in heard[:learned] if len(clip.text)]
    probe = fit_probe(
        rows,
        size,
        len(ears.classes.names),
        rate,
        steps=config.probe_steps,
        width=config.probe_width,
        seed=config.seed,
        progress=lambda done, total: progress(done, total, "phoneme probe"),
    )
    judged = [Said(clip.ids, clip.text) for clip in heard[learned:] if len(clip.text)]
    error = estimate(
        [probe_error(probe, row) for row in judged],
        [float(len(row.text)) for row in judged],
        config.resamples,
        np.random.default_rng((config.seed, 13)),
    )
    phones, by = [clip.phones for clip in heard], "the aligner's CTC"
    if ears.aligner is None:
        by = "the probe, which reads these very tokens: purity is flattered"
        phones = [probe_phones(probe, clip, rate) for clip in heard]
    found = purity(
        np.concatenate([clip.ids for clip in heard]), np.concatenate(phones), np.random.default_rng((config.seed, 14))
    )
    return PhoneNumbers(error, found, by)


def probe_phones(probe: PhoneProbe, clip: Heard, rate: float) -> Ids:
    """[T]"""
    if not len(clip.ids) or not len(clip.text):
        return np.full(len(clip.ids), -1, dtype=np.int64)
    return phones_of_frames(probe.hear(clip.ids), clip.text, probe.blank, len(clip.ids), probe.steps, rate)
