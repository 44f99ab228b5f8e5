"""Section 'speaking': texts that nobody recorded, in named, known and held-out voices, beside real recordings.

    voices of a group × sentences ─speak─▶ utterances ─▶ words, voice, naturalness, manner, failures     a row a group
    clips of a group              ────────────────────▶ the same                                         a row a group

Knows no page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.evaluation import facts
from triptych.evaluation.report import Column, Sample, Section, Sheet, Table, plot
from triptych.evaluation.sections.measures import CHARACTERS, MANNER, NATURAL, WORDS, Heard, Listener
from triptych.evaluation.subject import Evaluation
from triptych.stages.cascade import Utterance
from triptych.stages.request import REACHED_LONGEST
from triptych.tokenizers.waveform import Waveform

NAMED = "named voices"
SHORTEST_PROMPT_SECONDS, LONGEST_PROMPT_SECONDS = 1.0, 30.0
SHORT_SHARE = 0.5
"""of the length that a text should take: what is shorter has lost words, however fast it is said"""
LOST_WORDS, LOST_SHARE = 2, 0.2
"""words, and share of a text, that are missing at its end, or too many behind it"""
ABOUT = (
    "Texts that nobody recorded. Word and character error: of a recogniser against the text; good is what the same "
    "recogniser makes of the recordings in the last rows. Voice: cosine to the prompt that was given; good is what two "
    "recordings of one speaker have, bad what two speakers have. Failures are shares of utterances; each should be 0."
)
COLUMNS = {
    "words": WORDS,
    "characters": CHARACTERS,
    "voice": Column("voice to prompt", "cosine", 3, True),
    "voice-takes": Column("voice between takes", "cosine", 3, True),
    "natural": NATURAL,
}
FAILURES = {
    "loop": Column("loops", "share", 2, False),
    "silence": Column("silence", "share", 2, False),
    "early": Column("early end", "share", 2, False),
    "overrun": Column("overrun", "share", 2, False),
    "any": Column("any failure", "share", 2, False),
}


@dataclass(frozen=True)
class Speaks:
    """A voice that can be asked for, and how it sounds."""

    name: str
    voice: str | Path
    text: str | None
    """what its prompt says"""
    waveform: Waveform
    """[N] of its prompt"""


def speaking_section(subject: Evaluation) -> Section:
    """Speaks every sentence in a voice of every group, and judges it beside the clips themselves."""
    texts = sentences(subject)
    if not texts or subject.cascade.tokenizers.text is None:
        why = "the cascade has no text front end" if texts else "no clip has a text: give sentences_file=FILE"
        return Section("speaking", "Speaking", f"{ABOUT} Not measured: {why}.")
    listener, takes = Listener(subject), subject.settings.takes
    sheets = Sheets(subject, listener)
    groups, samples = voices(subject), []
    total, done = len(groups) * len(texts) + len(subject.heard), 0
    for group, spoken_by in groups.items():
        spoken = speak_together(subject, group, texts, spoken_by)
        listener.hear_ahead(made.waveform for (_, take), made in spoken.items() if not take)
        for number, text in enumerate(texts):
            who = choose(spoken_by, number, text)
            made = [spoken[number, take] for take in range(takes)]
            heard = sheets.judge(group, f"{who.name}: {text}", made[0].waveform, text, made[0])
            sheets.compare(group, f"{who.name}: {text}", [one.waveform for one in made], who.waveform)
            done += 1
            subject.progress(done, total, f"spoken: {group}")
            if number < subject.settings.samples:
                samples.append(sample(subject, group, who, made[0], heard))
    recordings = ((recording, subject.waveform(recording)) for recording in subject.heard)
    for recording, waveform in listener.ahead(recordings, lambda pair: pair[1:]):
        row = f"recordings: {subject.group(recording)}"
        sheets.judge(row, recording.id, waveform, recording.text, None)
        other = subject.another(recording)
        if other is not None:
            sheets.compare(row, recording.id, [waveform], subject.waveform(other))
        else:
            sheets.spoken.lack(row, "voice", "no other recording of the speaker")
        stranger = subject.stranger(recording)
        if stranger is not None:
            sheets.compare("recordings: two speakers", recording.id, [waveform], subject.waveform(stranger))
        done += 1
        subject.progress(done, total, "heard: recordings")
    about = ABOUT + subject.left_out
    return Section("speaking", "Speaking", about, sheets.tables(), tuple(sheets.plots()), tuple(samples))


def sentences(subject: Evaluation) -> list[str]:
    """Texts to speak: the lines of the file, or of what the clips say all that can be spoken.

    Raises:
        ValueError: the file is not there, has none, or one that cannot be spoken.
    """
    settings = subject.settings
    if not settings.sentences_file:
        texts = dict.fromkeys(clip.text for clip in subject.clips if clip.text)
        return [text for text in texts if not unspeakable(subject, text)][: settings.sentences]
    path = Path(settings.sentences_file)
    if not path.is_file():
        raise ValueError(f"sentences_file={path}: no such file")
    found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    found = [line for line in found if line][: settings.sentences]
    if not found:
        raise ValueError(f"{path} has no line of text")
    for line in found:
        why = unspeakable(subject, line)
        if why:
            raise ValueError(f"{path}: {why}")
    return found


def unspeakable(subject: Evaluation, text: str) -> str:
    """Why the cascade cannot say a text; empty where it can, or says none at all."""
    front_end = subject.cascade.tokenizers.text
    try:
        if front_end is not None:
            front_end.encode(text)
    except ValueError as error:
        return str(error)
    return ""


def voices(subject: Evaluation) -> dict[str, list[Speaks]]:
    """Group -> its voices: the named ones of the cascade, and one recording of each speaker among the clips."""
    cascade, found = subject.cascade, {}
    named = [(name, cascade.named_voice(name)) for name in cascade.voices()]
    if named:
        decode = cascade.tokenizers.acoustic.decode
        found[NAMED] = [Speaks(name, name, voice.text, decode(voice.codes)) for name, voice in named]
    for clip in subject.heard:
        those = found.setdefault(subject.group(clip), [])
        name = clip.speaker or clip.id
        fits = SHORTEST_PROMPT_SECONDS <= clip.seconds <= LONGEST_PROMPT_SECONDS
        if fits and name not in {one.name for one in those}:
            said = clip.text if clip.text and not unspeakable(subject, clip.text) else None
            those.append(Speaks(name, subject.file(clip), said, subject.waveform(clip)))
    return {group: those for group, those in found.items() if those}


def choose(spoken_by: Sequence[Speaks], number: int, text: str) -> Speaks:
    """The voices in turn, but none whose prompt says the very text, if there is another."""
    turn = [spoken_by[(number + step) % len(spoken_by)] for step in range(len(spoken_by))]
    return next((who for who in turn if who.text != text), turn[0])


def speak_together(
    subject: Evaluation, group: str, texts: Sequence[str], spoken_by: Sequence[Speaks]
) -> dict[tuple[int, int], Utterance]:
    """Every text, as often as there are takes, by (number, take); those of a voice are decoded side by side. A name may
    be a voice of several groups, with another prompt in each."""
    settings, found = subject.settings, dict[tuple[int, int], Utterance]()
    for who in spoken_by:
        mine = [number for number, text in enumerate(texts) if choose(spoken_by, number, text) is who]
        asked = [(number, take) for number in mine for take in range(settings.takes)]

        def speak(
            places: Sequence[int], who: Speaks = who, asked: list[tuple[int, int]] = asked
        ) -> Iterator[Utterance]:
            missing = [asked[place] for place in places]
            return subject.cascade.speak_all(
                [texts[number] for number, _ in missing],
                voice=who.voice,
                voice_text=None if isinstance(who.voice, str) else who.text,
                seeds=[settings.seed + number + take * settings.sentences for number, take in missing],
                slots=settings.slots,
            )

        keys = [f"speak {group} {who.name} {number} {take} {texts[number]}" for number, take in asked]
        found |= dict(zip(asked, subject.make_all(keys, speak), strict=True))
    return found


class Sheets:
    """The three tables of the section, filled row by row."""

    def __init__(self, subject: Evaluation, listener: Listener) -> None:
        self.subject, self.listener = subject, listener
        self.spoken = Sheet("spoken", "What listeners would say", COLUMNS, listener.absent(COLUMNS))
        self.manner = Sheet("manner", "Pitch and pace, against real speech", MANNER, listener.absent(MANNER))
        self.failed = Sheet("failures", "Failures", FAILURES)
        self.pitches: dict[str, list[tuple[float, float]]] = {}

    def judge(
        self, row: str, utterance: str, waveform: Waveform, text: str | None, made: Utterance | None
    ) -> Heard | None:
        """Words, naturalness, manner and failures of one utterance; `made` where the cascade made it."""
        self.spoken.row(row)
        heard = self.listener.words(self.spoken, row, utterance, waveform, text)
        self.listener.natural(self.spoken, row, utterance, waveform)
        self.listener.manner(self.manner, row, utterance, waveform, text)
        failed = failures(self.subject, waveform, text, made, heard)
        for kind, value in failed.items():
            self.failed.put(row, kind, utterance, float(value))
        self.failed.put(row, "any", utterance, float(any(failed.values())))
        return heard

    def compare(self, row: str, utterance: str, takes: Sequence[Waveform], prompt: Waveform) -> None:
        """The first take with the prompt, and with the second take."""
        voices = [self.listener.embed(waveform) for waveform in (prompt, *takes[:2])]
        self.listener.voice(self.spoken, row, "voice", utterance, voices[1], voices[0])
        if len(voices) > 2:
            self.listener.voice(self.spoken, row, "voice-takes", utterance, voices[1], voices[2])
        if not row.endswith("two speakers"):
            given, said = self.listener.pitch(prompt), self.listener.pitch(takes[0])
            if given is not None and said is not None:
                self.pitches.setdefault(row, []).append((given[0], said[0]))

    def tables(self) -> tuple[Table, ...]:
        settings = self.subject.settings
        notes = (
            "'known voices' are of speakers in the split 'train' of the manifest, 'held-out voices' are not; 'named "
            "voices' are those that the bundle carries. Rows 'recordings' are real ones: their voice is compared with "
            "another recording of the speaker, and of a stranger in 'two speakers'.",
            "No better and no worse: near the recordings is good. A spread far below theirs is a monotone.",
            f"Loop: words or tokens three times in a row. Silence: none but silence, more than half of it, or a gap of "
            f"{facts.LONG_SILENCE_SECONDS:g} s. Early end: the last words of the text were not heard, or less than "
            "half of the length that it should take. Overrun: words after its end, or the longest length allowed. None "
            "among n utterances only says that fewer than about 3 in n fail so.",
        )
        sheets = (self.spoken, self.manner, self.failed)
        return tuple(
            sheet.table(settings.resamples, settings.seed, note) for sheet, note in zip(sheets, notes, strict=True)
        )

    def plots(self) -> list[Any]:
        found = []
        if self.pitches:
            found.append(plot("pitch", "Pitch of the prompt and of what was said (median, Hz)", self._draw_pitch))
        pace = {
            row: [value for value, _ in cells["pace"].values()]
            for row, cells in self.manner.values.items()
            if cells.get("pace")
        }
        if pace:
            found.append(plot("pace", "Pace, letters a second", lambda axes: draw_spread(axes, pace)))
        return found

    def _draw_pitch(self, axes: Any) -> None:
        for row, points in self.pitches.items():
            marker = "x" if row.startswith("recordings") else "o"
            axes.plot([x for x, _ in points], [y for _, y in points], marker, ms=4, alpha=0.7, label=row)
        ends = [
            min(min(p) for those in self.pitches.values() for p in those),
            max(max(p) for those in self.pitches.values() for p in those),
        ]
        axes.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)
        axes.set_xlabel("prompt, or another recording of the speaker")
        axes.set_ylabel("utterance")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def draw_spread(axes: Any, values: dict[str, list[float]]) -> None:
    """A box a row."""
    axes.boxplot(list(values.values()), orientation="horizontal", widths=0.5)
    axes.set_yticks(range(1, len(values) + 1), list(values))
    axes.invert_yaxis()


def failures(
    subject: Evaluation, waveform: Waveform, text: str | None, made: Utterance | None, heard: Heard | None
) -> dict[str, bool]:
    """Kind -> whether it failed so. Without a recogniser only what can be told without one."""
    sounds = facts.sounding(waveform, subject.cascade.sample_rate)
    wanted, words = (heard.wanted.split(), heard.words.split()) if heard else ([], [])
    lost, extra = facts.missing_end(wanted, words) if wanted else (0, 0)
    least = max(LOST_WORDS, LOST_SHARE * len(wanted))
    expected = subject.expected_seconds(text) if text and made is not None else 0.0
    rate = float(subject.cascade.grid.semantic_rate)
    return {
        "loop": facts.loops_in_words(words, wanted)
        or (made is not None and facts.loops_in_tokens(made.semantic, rate)),
        "silence": not sounds.seconds or sounds.silent > 0.5 or sounds.longest_gap >= facts.LONG_SILENCE_SECONDS,
        "early": lost >= least or sounds.seconds < SHORT_SHARE * expected,
        "overrun": extra >= least or (made is not None and any(note.endswith(REACHED_LONGEST) for note in made.notes)),
    }


def sample(subject: Evaluation, group: str, who: Speaks, made: Utterance, heard: Heard | None) -> Sample:
    file = subject.keep(f"speaking {group} {who.name} {made.text}", made.waveform)
    said = (f"heard: {heard.words}",) if heard else ()
    strips = {"semantic": made.semantic.tolist(), "level 0": made.codes[0].tolist()}
    return Sample(f"{group}: {who.name}", file, made.text or "", strips, said + made.notes)
