"""Section 'converting': clips in another voice; are the words kept, and has the voice changed?

Knows no page.
"""

from collections.abc import Iterator, Mapping, Sequence

from triptych.corpus.manifest import Recording
from triptych.evaluation.report import Column, Sample, Section, Sheet
from triptych.evaluation.sections.measures import CHARACTERS, NATURAL, NO_VOICE, WORDS, Listener
from triptych.evaluation.sections.speaking import Speaks, voices
from triptych.evaluation.speaker import similarity
from triptych.evaluation.subject import Evaluation
from triptych.stages.cascade import Utterance
from triptych.tokenizers.waveform import Waveform

ABOUT = (
    "Recordings said again in another voice, from their semantic tokens. Word error against what the source says: what "
    "is far above the recordings' own was lost in the semantic tokens, or in the stages below. Good: nearer to the "
    "target's voice than to the source's; 'nearer' is the share of utterances for which that is so."
)
COLUMNS = {
    "words": WORDS,
    "characters": CHARACTERS,
    "voice-target": Column("voice of the target", "cosine", 3, True),
    "voice-source": Column("voice of the source", "cosine", 3, False),
    "voice-nearer": Column("nearer the target", "share", 2, True),
    "natural": NATURAL,
}
UNKNOWN = "Where a clip has no text, what the recogniser hears in the clip itself counts as the text of its conversion."


def converting_section(subject: Evaluation) -> Section:
    """Converts every clip into a voice that is not its own, the voices in turn."""
    listener = Listener(subject)
    sheet = Sheet("converted", "Converted", COLUMNS, listener.absent(COLUMNS))
    targets = [who for those in voices(subject).values() for who in those]
    samples: list[Sample] = []
    asked = {}
    for number, clip in enumerate(subject.heard):
        others = [who for who in targets if who.name != (clip.speaker or clip.id)]
        if others:
            asked[number] = others[number % len(others)]
    converted = convert_all(subject, asked)
    clips = (
        (number, clip, subject.waveform(clip), next(converted) if number in asked else None)
        for number, clip in enumerate(subject.heard)
    )
    for number, clip, source, made in listener.ahead(clips, sounds):
        heard = None if clip.text else listener.hear(source, None)
        text = heard.words if heard else clip.text
        row = f"recordings: {subject.group(clip)}"
        sheet.row(row)
        listener.words(sheet, row, clip.id, source, clip.text)
        listener.natural(sheet, row, clip.id, source)
        if made is not None:
            target = asked[number]
            row = f"from {subject.group(clip)}"
            sheet.row(row)
            listener.words(sheet, row, clip.id, made.waveform, text)
            listener.natural(sheet, row, clip.id, made.waveform)
            likeness(listener, sheet, row, clip.id, made.waveform, target.waveform, source)
            if number < subject.settings.samples:
                samples += pair(subject, clip, target, source, made)
        subject.progress(number + 1, len(subject.heard), "converted")
    table = sheet.table(subject.settings.resamples, subject.settings.seed, UNKNOWN)
    return Section("converting", "Converting", ABOUT + subject.left_out, (table,), (), tuple(samples))


def sounds(pair: tuple[int, Recording, Waveform, Utterance | None]) -> list[Waveform]:
    """What will be heard of a clip."""
    *_, source, made = pair
    return [source] if made is None else [source, made.waveform]


def convert_all(subject: Evaluation, targets: Mapping[int, Speaks]) -> Iterator[Utterance]:
    """Clips by their numbers, each in the voice of its target."""
    numbers = list(targets)

    def make(places: Sequence[int]) -> Iterator[Utterance]:
        missing = [numbers[place] for place in places]
        return subject.cascade.convert_all(
            [subject.file(subject.heard[number]) for number in missing],
            voices=[targets[number].voice for number in missing],
            seeds=[subject.settings.seed + number for number in missing],
            slots=subject.settings.slots,
        )

    return subject.make_all([f"convert {subject.heard[n].id} {who.name}" for n, who in targets.items()], make)


def likeness(
    listener: Listener, sheet: Sheet, row: str, utterance: str, made: Waveform, target: Waveform, source: Waveform
) -> None:
    """How like the two voices it is, and which it is nearer to."""
    new, wanted, given = (listener.embed(waveform) for waveform in (made, target, source))
    listener.voice(sheet, row, "voice-target", utterance, new, wanted)
    listener.voice(sheet, row, "voice-source", utterance, new, given)
    if new is not None and wanted is not None and given is not None:
        sheet.put(row, "voice-nearer", utterance, float(similarity(new, wanted) > similarity(new, given)))
    elif listener.judges.speaker is not None:
        sheet.lack(row, "voice-nearer", NO_VOICE)


def pair(subject: Evaluation, clip: Recording, target: Speaks, source: Waveform, made: Utterance) -> list[Sample]:
    """The source, and what became of it."""
    kept = subject.keep(f"converting source {clip.id}", source)
    converted = subject.keep(f"converting {clip.id} {target.name}", made.waveform)
    strips = {"semantic": made.semantic.tolist(), "level 0": made.codes[0].tolist()}
    return [
        Sample(f"source: {clip.speaker or clip.id}", kept, clip.text or ""),
        Sample(f"in the voice of {target.name}", converted, clip.text or "", strips, made.notes),
    ]
