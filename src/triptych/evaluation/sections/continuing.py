"""Section 'continuing': clips are cut after a few seconds, and the cascade goes on by itself, without a text.

    clip ──first seconds──▶ prompt ──continue──▶ new part [N]      ◀── beside what the speaker really said next

Knows no page.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triptych.corpus.manifest import Recording
from triptych.evaluation import facts
from triptych.evaluation.judges import RememberingRecogniser
from triptych.evaluation.report import INK, Column, Plot, Sample, Section, Sheet, Table, plot
from triptych.evaluation.sections.measures import NATURAL, SILENT, Listener
from triptych.evaluation.sense import NO_MODEL, Reader
from triptych.evaluation.sound import is_silent
from triptych.evaluation.subject import Evaluation, slug
from triptych.stages.cascade import Utterance
from triptych.tokenizers.waveform import Waveform, write_wav

WINDOW_SECONDS = 2.0
"""spans in which the voice is compared with the prompt; shorter ones say little of a voice"""
COPIED_SECONDS = 0.32
"""tokens of so long a run, found in the prompt as well, are copied"""
ABOUT = (
    "The first seconds of a recording are continued without any text. Good: the voice stays as near to the prompt as "
    "in the real recordings and does not drift, the length is reached with sound, nothing is copied, and as many words "
    "a second are heard as people say."
)
WORDS_NOTE = (
    "Nobody knows what should be said, so words are judged by proxies. Words a second: a recogniser finds few in "
    "babble; it also guesses words into babble, so this is an upper bound. Sureness is the recogniser's own mean log "
    "probability: a proxy of how clearly words are formed, not of sense. Nats a word of a language model: a proxy of "
    "whether words follow each other as in written text; it rewards the commonplace, and it reads only what the "
    "recogniser wrote."
)
COLUMNS = {
    "voice": Column("voice to prompt", "cosine", 3, True),
    "natural": NATURAL,
    "length": Column("length reached", "share", 2, True),
    "silent": Column("silent frames", "share", 2, False),
    "copied": Column("copied", "share", 2, False),
    "loop": Column("loops", "share", 2, False),
}
HEARD = {
    "heard-pace": Column("words heard", "words/s", 2),
    "heard-sure": Column("sureness", "nats", 2, True),
    "heard-sense": Column("language model", "nats/word", 2, False),
}


def continuing_section(subject: Evaluation) -> Section:
    """Continues the start of every clip that is long enough."""
    settings, longest = subject.settings, subject.settings.continued_seconds
    clips = [clip for clip in subject.heard if clip.seconds > settings.prompt_seconds + WINDOW_SECONDS / 2]
    clips = [clip for clip in clips if not is_silent(subject.waveform(clip)[: prompt_samples(subject)])]
    if not clips:
        why = f"no clip is longer than a prompt of {settings.prompt_seconds:g} s and heard in it: change prompt_seconds"
        return Section("continuing", "Continuing", f"{ABOUT} Not measured: {why}.{subject.left_out}")
    sheets, samples = Sheets(subject), []
    pairs = zip(clips, go_on_all(subject, clips), strict=True)
    parts = ((clip, made, *cut(subject, clip, made)) for clip, made in pairs)
    for number, (clip, made, prompt, rest, new) in enumerate(sheets.listener.ahead(parts, lambda each: each[3:])):
        row = f"continued: {subject.group(clip)}"
        sheets.judge(row, clip.id, prompt, new, longest)
        sheets.tokens(row, clip.id, made)
        sheets.judge(f"recordings: {subject.group(clip)}", clip.id, prompt, rest, len(rest) / made.sample_rate)
        if number < settings.samples:
            kept = subject.keep(f"continuing {clip.id}", made.waveform)
            strips = {"semantic": made.semantic.tolist(), "level 0": made.codes[0].tolist()}
            note = f"the first {settings.prompt_seconds:g} s are the recording"
            samples.append(
                Sample(f"{subject.group(clip)}: {clip.speaker or clip.id}", kept, "", strips, (note, *made.notes))
            )
        subject.progress(number + 1, len(clips), "continued")
    about = ABOUT + subject.left_out
    return Section("continuing", "Continuing", about, sheets.tables(), sheets.plots(), tuple(samples))


def cut(subject: Evaluation, clip: Recording, made: Utterance) -> tuple[Waveform, Waveform, Waveform]:
    """The prompt, what really came after it, and what the cascade made of it, [N] each."""
    whole, given = subject.waveform(clip), prompt_samples(subject)
    return whole[:given], whole[given:], made.waveform[-round(subject.settings.continued_seconds * made.sample_rate) :]


def prompt_samples(subject: Evaluation) -> int:
    return round(subject.settings.prompt_seconds * subject.cascade.sample_rate)


def go_on_all(subject: Evaluation, clips: Sequence[Recording]) -> Iterator[Utterance]:
    """The first seconds of each clip, and what the cascade adds."""
    settings = subject.settings

    def prompt(clip: Recording) -> Path:
        file = subject.cache / "parts" / f"{slug(clip.id)}-prompt.wav"
        write_wav(file, subject.waveform(clip)[: prompt_samples(subject)], subject.cascade.sample_rate)
        return file

    def make(places: Sequence[int]) -> Iterator[Utterance]:
        return subject.cascade.continue_all(
            [prompt(clips[place]) for place in places],
            seconds=settings.continued_seconds,
            seeds=[settings.seed + place for place in places],
            slots=settings.slots,
        )

    return subject.make_all([f"continue {clip.id}" for clip in clips], make)


class Sheets:
    """The three tables of the section."""

    def __init__(self, subject: Evaluation) -> None:
        self.subject, self.listener = subject, Listener(subject)
        self.rate = subject.cascade.sample_rate
        windows = int(subject.settings.continued_seconds / WINDOW_SECONDS)
        over_time = {
            f"voice-{n}": Column(f"{n * WINDOW_SECONDS:g}–{(n + 1) * WINDOW_SECONDS:g} s", "cosine", 3, True)
            for n in range(max(1, windows))
        }
        model = subject.settings.language_model
        self.reader = None if model == NO_MODEL else Reader(model)
        no_words = self.listener.absent(HEARD)
        if self.reader is None:
            no_words.setdefault("heard-sense", "language_model=none")
        self.continued = Sheet("continued", "Continued", COLUMNS, self.listener.absent(COLUMNS))
        self.drift = Sheet("drift", "Voice to prompt, over time", over_time, self.listener.absent(over_time))
        self.heard = Sheet("words", "What is heard in it", HEARD, no_words)

    def judge(self, row: str, utterance: str, prompt: Waveform, new: Waveform, asked: float) -> None:
        """A new part [N], made or real, beside its prompt."""
        self.drift.row(row)
        self.heard.row(row)
        sounds, given = facts.sounding(new, self.rate), self.listener.embed(prompt)
        self.listener.voice(self.continued, row, "voice", utterance, self.listener.embed(new), given)
        self.listener.natural(self.continued, row, utterance, new)
        self.continued.put(row, "length", utterance, sounds.end / asked)
        self.continued.put(row, "silent", utterance, sounds.silent)
        size = round(WINDOW_SECONDS * self.rate)
        for number, column in enumerate(self.drift.columns):
            part = new[number * size : (number + 1) * size]
            if len(part) == size:
                self.listener.voice(self.drift, row, column, utterance, self.listener.embed(part), given)
        self._words(row, utterance, new, sounds.seconds)

    def tokens(self, row: str, utterance: str, made: Utterance) -> None:
        """What only the tokens tell: copies of the prompt, and loops."""
        rate = float(self.subject.cascade.grid.semantic_rate)
        new = len(made.semantic) - round(self.subject.settings.continued_seconds * rate)
        copied = facts.copied(made.semantic[:new], made.semantic[new:], max(2, round(COPIED_SECONDS * rate)))
        self.continued.put(row, "copied", utterance, copied)
        self.continued.put(row, "loop", utterance, float(facts.loops_in_tokens(made.semantic[new:], rate)))

    def _words(self, row: str, utterance: str, new: Waveform, seconds: float) -> None:
        ear = self.listener.judges.recogniser
        if ear is None:
            return
        sure = ear.hear_surely(new, self.rate)[1] if isinstance(ear, RememberingRecogniser) else None
        heard = self.listener.hear(new, None)
        words = heard.words.split() if heard else []
        if seconds:
            self.heard.put(row, "heard-pace", utterance, len(words) / seconds)
        else:
            self.heard.lack(row, "heard-pace", SILENT)
        if sure is None:
            self.heard.lack(row, "heard-sure", "nothing heard" if not words else "this recogniser does not say")
        else:
            self.heard.put(row, "heard-sure", utterance, sure)
        if self.reader is not None:
            nats = self.reader.nats(" ".join(words))
            if nats is None:
                self.heard.lack(row, "heard-sense", "nothing heard")
            else:
                self.heard.put(row, "heard-sense", utterance, nats / len(words), len(words))

    def tables(self) -> tuple[Table, ...]:
        settings = self.subject.settings
        notes = (
            f"Copied: share of new semantic tokens in runs of {COPIED_SECONDS:g} s that stand in the prompt as well. "
            "Length: up to the last sound, of what was asked; the recordings' own rest is shorter, and differs from "
            "clip to clip.",
            "A figure that falls from left to right is a voice that drifts.",
            WORDS_NOTE,
        )
        sheets = (self.continued, self.drift, self.heard)
        return tuple(s.table(settings.resamples, settings.seed, note) for s, note in zip(sheets, notes, strict=True))

    def plots(self) -> tuple[Plot, ...]:
        settings = self.subject.settings
        table = self.drift.table(settings.resamples, settings.seed)
        if not any(figure.estimate for row in table.rows.values() for figure in row.values()):
            return ()
        return (plot("drift", "Voice to prompt, over time", lambda axes: draw_drift(axes, table)),)


def draw_drift(axes: Any, table: Table) -> None:
    """A line a row; recordings are dotted."""
    for number, (row, cells) in enumerate(table.rows.items()):
        points = [(place, cells[key].estimate) for place, key in enumerate(table.columns) if key in cells]
        known = [(place, e) for place, e in points if e is not None]
        real = row.startswith("recordings")
        x = [(place + 0.5) * WINDOW_SECONDS for place, _ in known]
        axes.plot(
            x,
            [e.mean for _, e in known],
            ":" if real else "-",
            color="0.5" if real else None,
            marker="o",
            ms=4,
            label=row,
        )
        if not real:
            low, high = ([getattr(e, end) or e.mean for _, e in known] for end in ("low", "high"))
            axes.fill_between(
                x, np.array(low), np.array(high), alpha=0.15, color=INK if number == 0 else "0.6", linewidth=0
            )
    axes.set_xlabel("seconds after the prompt")
    axes.set_ylabel("cosine")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
