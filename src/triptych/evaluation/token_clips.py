"""Clips as the instruments on tokens need them: who speaks, which phonemes, and at each frame the pitch and the phone.

    manifest ─▶ draw ─▶ indices to learn from, indices held out
    clip ─▶ Ears.listen ─▶ Heard, whose ids are filled in by whoever has an alphabet

Knows no tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triptych.corpus.clips import ManifestClips
from triptych.evaluation.phones import CtcAligner
from triptych.evaluation.sound import PitchTracker
from triptych.evaluation.tokens import Ids
from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic.ctc import TextClasses
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.waveform import Waveform

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer

SKIP = ("", ".", ",", "?", "!")
"""text tokens that make no sound, as CTC's training leaves them out"""
HELD_OUT_SHARE = 0.2
"""of the clips, at most, where the manifest has no splits dev and test"""


@dataclass(frozen=True)
class Heard:
    """A clip, as far as any alphabet of one frame rate needs to know it."""

    name: str
    speaker: str | None
    text: Ids
    """[L] phonemes; empty where there is no text"""
    ids: Ids
    """[T]"""
    pitch: NDArray[np.float64]
    """[T] log2 Hz, NaN where not voiced or not known"""
    phones: Ids
    """[T] what sounds; -1 where not known"""


def draw(clips: ManifestClips, learned: int, held_out: int, longest: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of split train, at random, and of splits dev and test, evenly; a part of train where there are none.

    Raises:
        ValueError: too few clips are short enough.
    """
    short = [i for i, recording in enumerate(clips.recordings) if recording.seconds <= longest]
    train = [i for i in short if clips.recordings[i].split == "train"]
    others = [i for i in short if clips.recordings[i].split != "train"]
    order = [train[i] for i in np.random.default_rng((seed, 11)).permutation(len(train))]
    if not others:
        count = min(held_out, max(1, int(HELD_OUT_SHARE * len(order))))
        others, order = sorted(order[:count]), order[count:]
    kept = [
        others[i] for i in np.unique(np.linspace(0, len(others) - 1, min(held_out, len(others))).round().astype(int))
    ]
    if not kept or not order:
        raise ValueError(
            f"{len(short)} clips of at most {longest:g} s are too few: give more, or a larger longest_seconds"
        )
    return sorted(order[:learned]), kept


def audible(clips: ManifestClips, indices: Sequence[int], missing: dict[str, str]) -> list[int]:
    """Those of `indices` that can be heard; why others cannot is said in `missing`.

    Raises:
        ValueError: none can.
    """
    reasons = {i: clips.why_unheard(i) for i in indices}
    missing |= {f"clip {clips.name(i)}": why for i, why in reasons.items() if why}
    heard = [i for i, why in reasons.items() if not why]
    if not heard:
        first, why = next(iter(reasons.items()))
        raise ValueError(f"none of {len(reasons)} clips can be heard; the first is {clips.name(first)}: {why}")
    return heard


class Ears:
    """All that hears a clip beside the tokenizer; what is absent is said in `missing`."""

    def __init__(
        self, text: "TextTokenizer | None", aligner: Path | None, missing: dict[str, str], device: str = "cpu"
    ) -> None:
        self.text = text
        self.aligner = CtcAligner(aligner, text, device) if aligner and text else None
        self.classes = TextClasses.of(text, SKIP, stress=False) if text else None
        if self.aligner is not None:
            self.classes = self.aligner.classes
        self.tracker: PitchTracker | None = None
        try:
            self.tracker = PitchTracker()
        except ModuleNotFoundError as error:
            missing["pitch"] = f"no package {error.name}: pip install 'triptych[eval]'"
        if text is None:
            missing["phones"] = "no text front end: --text DIR"

    def listen(self, clips: Clips, index: int, waveform: Waveform, frames: int, rate: float) -> Heard:
        """Clip `index`, whose waveform [N] at 16 kHz is `waveform`, without ids; `rate` in frames a second."""
        words = clips.text(index)
        text = np.zeros(0, dtype=np.int64)
        if words and self.text is not None and self.classes is not None:
            try:
                text = self.classes.encode(self.text, words)
            except ValueError:  # the front end cannot say it: no text
                words = None
        phones = np.full(frames, -1, dtype=np.int64)
        if self.aligner is not None and words:
            phones = self.aligner.phones(waveform, words, frames, rate)
        ids = np.zeros(frames, dtype=np.int64)
        return Heard(clips.name(index), clips.speaker(index), text, ids, self.pitch(waveform, frames, rate), phones)

    def pitch(self, waveform: Waveform, frames: int, rate: float) -> NDArray[np.float64]:
        """[frames] log2 Hz, NaN where not voiced."""
        if self.tracker is None or not frames:
            return np.full(frames, np.nan)
        found = self.tracker.track(waveform)
        if not len(found.hertz):
            return np.full(frames, np.nan)
        per_second = len(found.hertz) * SAMPLE_RATE / len(waveform)
        places = np.minimum(((np.arange(frames) + 0.5) / rate * per_second).astype(np.int64), len(found.hertz) - 1)
        return np.where(found.voiced[places], np.log2(np.maximum(found.hertz[places], 1.0)), np.nan)
