"""What can be said of speech without knowing what should be said: pitch, pace, silence, loops. Pure functions.

Limits that decide whether an utterance failed stand here, each with its reason. Knows no cascade and no judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation import sound
from triptych.tokenizers.waveform import Waveform, resample

FRAME_SECONDS = 0.02
SILENT_DB = -45.0
"""a frame of so much less than the loudest one is silent"""
LONG_SILENCE_SECONDS = 1.5
"""speakers pause up to a second between sentences; a longer gap inside an utterance is a failure"""
LOOP_TURNS = 3
"""a span that is said so often in a row is a loop: people say 'very, very', and hardly ever a third time"""
LOOP_SECONDS = (0.12, 2.0)
"""spans of tokens that may loop: shorter ones are held sounds and silence"""
LOOP_WORDS = 6
"""the longest span of words that is looked at"""


@dataclass(frozen=True)
class Sounding:
    """Where a waveform sounds."""

    start: float
    """seconds to the first sound; the whole length where there is none"""
    end: float
    """seconds to the end of the last sound; 0 where there is none"""
    silent: float
    """share of frames without sound"""
    longest_gap: float
    """seconds, between the first and the last sound"""

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


def sounding(waveform: Waveform, sample_rate: int) -> Sounding:
    """Where a waveform [N] sounds; frames of 20 ms, against the loudest one."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    whole = len(waveform) // size * size
    power = np.sqrt(np.square(waveform[:whole].reshape(-1, size), dtype=np.float64).mean(1)) if whole else np.zeros(0)
    if sound.is_silent(waveform) or not power.any():
        return Sounding(len(waveform) / sample_rate, 0.0, 1.0, 0.0)
    loud = np.flatnonzero(power > power.max() * 10 ** (SILENT_DB / 20))
    gaps = np.diff(loud) - 1
    step = size / sample_rate
    return Sounding(
        loud[0] * step, (loud[-1] + 1) * step, 1 - len(loud) / len(power), float(gaps.max(initial=0)) * step
    )


def pitch_facts(waveform: Waveform, sample_rate: int, tracker: sound.PitchTracker) -> tuple[float, float] | None:
    """Median pitch in Hz, and how far it moves: the spread (standard deviation) in semitones. None: no voiced frame."""
    if sound.is_silent(waveform):
        return None
    melody = tracker.track(resample(waveform, sample_rate, tracker.sample_rate))
    hertz = melody.hertz[melody.voiced]
    if not len(hertz):
        return None
    return float(np.median(hertz)), float(np.std(12 * np.log2(hertz)))


def loops_in_tokens(tokens: NDArray[np.uint16], rate: float) -> bool:
    """Whether a span of tokens [T], `rate` a second, that is no held sound stands three times in a row."""
    shortest, longest = (max(2, round(seconds * rate)) for seconds in LOOP_SECONDS)
    for span in range(shortest, min(longest, len(tokens) // LOOP_TURNS) + 1):
        same = np.concatenate([[False], tokens[span:] == tokens[:-span], [False]])
        edges = np.flatnonzero(np.diff(same.astype(np.int8)))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin >= (LOOP_TURNS - 1) * span and len(np.unique(tokens[begin : begin + span])) > 1:
                return True
    return False


def loops_in_words(heard: Sequence[str], wanted: Sequence[str] = ()) -> bool:
    """Whether words are heard three times in a row that are not wanted so often."""
    return any(
        repeats(heard, span) >= LOOP_TURNS and repeats(heard, span) > repeats(wanted, span)
        for span in range(1, LOOP_WORDS + 1)
    )


def repeats(words: Sequence[str], span: int) -> int:
    """How often, at most, a span of words stands in a row."""
    most = 0
    for begin in range(len(words) - span + 1):
        turns = 1
        while words[begin : begin + span] == words[begin + turns * span : begin + (turns + 1) * span]:
            turns += 1
        most = max(most, turns)
    return most


def copied(given: NDArray[np.uint16], new: NDArray[np.uint16], span: int) -> float:
    """Share of new tokens [T] that lie in a run of `span` that stands in the given ones as well."""
    known = {tuple(given[i : i + span]) for i in range(len(given) - span + 1)}
    found = np.zeros(len(new), bool)
    for i in range(len(new) - span + 1):
        if tuple(new[i : i + span]) in known:
            found[i : i + span] = True
    return float(found.mean()) if len(new) else 0.0


def missing_end(wanted: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """Words of the text's end that were not heard, and words heard after its last one (by jiwer's alignment)."""
    import jiwer

    if not wanted or not heard:
        return len(wanted), len(heard)
    parts = jiwer.process_words(" ".join(wanted), " ".join(heard)).alignments[0]
    last = parts[-1]
    deleted = last.ref_end_idx - last.ref_start_idx if last.type == "delete" else 0
    inserted = last.hyp_end_idx - last.hyp_start_idx if last.type == "insert" else 0
    return deleted, inserted
