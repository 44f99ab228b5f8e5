"""What the sections that make sound have in common: which measures there are, and how an utterance gets its row.

Knows no section.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from typing import TypeVar

import numpy as np

from triptych.evaluation import facts, sound
from triptych.evaluation.compare import JUDGES_OF
from triptych.evaluation.judges import RememberingRecogniser
from triptych.evaluation.report import Column, Sheet
from triptych.evaluation.score import count_character_errors, count_errors, normaliser
from triptych.evaluation.speaker import Embedding, similarity
from triptych.evaluation.subject import Evaluation
from triptych.tokenizers.waveform import Waveform

WORDS = Column("word error", "", 3, False)
CHARACTERS = Column("character error", "", 3, False)
NATURAL = Column("naturalness", "MOS", 2, True)
NO_PITCH = "no package swift_f0: pip install 'triptych[eval]'"
Item = TypeVar("Item")
NO_TEXT, SILENT, NO_VOICE = "no text", "silence", "no voice found"


@dataclass(frozen=True)
class Heard:
    """A waveform as the recogniser heard it."""

    words: str
    """normalised"""
    wanted: str
    """normalised; empty where nobody knows"""


class Listener:
    """Asks the judges of an evaluation, and puts what they say in a row of a sheet."""

    def __init__(self, subject: Evaluation) -> None:
        self.judges, self.rate = subject.judges, subject.cascade.sample_rate
        self.slots, self.normalise = subject.settings.slots, normaliser()
        self.pitches: dict[int, tuple[float, float] | None] = {}

    @cached_property
    def tracker(self) -> sound.PitchTracker | None:
        return sound.PitchTracker() if find_spec("swift_f0") else None

    def absent(self, columns: Mapping[str, Column]) -> dict[str, str]:
        """Column -> why it cannot be measured at all, by the part of its name before a '-'."""
        found: dict[str, str] = {}
        for key in columns:
            for judge in JUDGES_OF.get(key.split("-")[0], ()):
                if judge in self.judges.absent:
                    found[key] = self.judges.absent[judge]
            if key in ("pitch", "melody") and self.tracker is None:
                found[key] = NO_PITCH
        return found

    def hear_ahead(self, waveforms: Iterable[Waveform]) -> None:
        """Where the recogniser hears several at once: what it will be asked for, so that it remembers the words."""
        if isinstance(self.judges.recogniser, RememberingRecogniser):
            self.judges.recogniser.hear_ahead(waveforms, self.rate, self.slots)

    def ahead(self, items: Iterable[Item], waveforms: Callable[[Item], Iterable[Waveform]]) -> Iterator[Item]:
        """`items`, a few at a time, after `hear_ahead` of their waveforms; as they come, where nothing is heard so."""
        ear, rest = self.judges.recogniser, iter(items)
        few = self.slots if isinstance(ear, RememberingRecogniser) and ear.hears_many else 1
        while some := list(islice(rest, few)):
            self.hear_ahead(waveform for item in some for waveform in waveforms(item))
            yield from some

    def hear(self, waveform: Waveform, text: str | None) -> Heard | None:
        """What is heard in a waveform [N]; None without a recogniser."""
        if self.judges.recogniser is None:
            return None
        return Heard(self.normalise(self.judges.recogniser.hear(waveform, self.rate)), self.normalise(text or ""))

    def words(self, sheet: Sheet, row: str, utterance: str, waveform: Waveform, text: str | None) -> Heard | None:
        """Word and character error; errors a word weighted by words, so that the mean is that of all words."""
        heard = self.hear(waveform, text)
        if heard is None:
            return None
        if not heard.wanted:
            sheet.lack(row, "words", NO_TEXT)
            sheet.lack(row, "characters", NO_TEXT)
            return heard
        words, letters = len(heard.wanted.split()), len(heard.wanted)
        sheet.put(row, "words", utterance, count_errors(heard.wanted, heard.words) / words, words)
        sheet.put(row, "characters", utterance, count_character_errors(heard.wanted, heard.words) / letters, letters)
        return heard

    def natural(self, sheet: Sheet, row: str, utterance: str, waveform: Waveform) -> None:
        if self.judges.naturalness is None:
            return
        if sound.is_silent(waveform):
            sheet.lack(row, "natural", SILENT)
        else:
            sheet.put(row, "natural", utterance, self.judges.naturalness.rate(waveform, self.rate))

    def embed(self, waveform: Waveform) -> Embedding | None:
        """Whose voice it is; None without an encoder, or where it finds none."""
        if self.judges.speaker is None or sound.is_silent(waveform):
            return None
        found = self.judges.speaker.embed(waveform, self.rate)
        return found if np.isfinite(found).all() and np.abs(found).max(initial=0.0) > 0 else None

    def voice(
        self, sheet: Sheet, row: str, column: str, utterance: str, one: Embedding | None, other: Embedding | None
    ) -> None:
        """How alike two voices are."""
        if self.judges.speaker is None:
            return
        if one is None or other is None:
            sheet.lack(row, column, NO_VOICE)
        else:
            sheet.put(row, column, utterance, similarity(one, other))

    def pitch(self, waveform: Waveform) -> tuple[float, float] | None:
        """`facts.pitch_facts`, once a waveform [N]; None without a tracker, too."""
        if self.tracker is None:
            return None
        key = hash(waveform.tobytes())
        if key not in self.pitches:
            self.pitches[key] = facts.pitch_facts(waveform, self.rate, self.tracker)
        return self.pitches[key]

    def manner(self, sheet: Sheet, row: str, utterance: str, waveform: Waveform, text: str | None) -> None:
        """Pitch, its movement, pace and pauses."""
        sounds = facts.sounding(waveform, self.rate)
        letters = sum(c.isalnum() for c in self.normalise(text or ""))
        if letters and sounds.seconds:
            sheet.put(row, "pace", utterance, letters / sounds.seconds)
        else:
            sheet.lack(row, "pace", SILENT if letters else NO_TEXT)
        sheet.put(row, "silent", utterance, sounds.silent)
        if self.tracker is not None:
            found = self.pitch(waveform)
            if found is None:
                sheet.lack(row, "pitch", "no voiced frame")
                sheet.lack(row, "melody", "no voiced frame")
            else:
                sheet.put(row, "pitch", utterance, found[0])
                sheet.put(row, "melody", utterance, found[1])


MANNER = {
    "pitch": Column("pitch", "Hz", 0),
    "melody": Column("pitch spread", "semitones", 1),
    "pace": Column("pace", "letters/s", 1),
    "silent": Column("silent frames", "share", 2),
}
