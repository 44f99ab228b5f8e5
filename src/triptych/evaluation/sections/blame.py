"""Section `blame`, the cascade doctor: the same utterances with the truth in the place of one stage after another.

    held-out clips ─▶ ladder.py: five rungs of each ─▶ judges, warp.py ─▶ what is lost between two rungs ─▶ verdict.py

What is said weighs as much as how it sounds: word error counts for half. Where there is no recogniser, mel-cepstral
distortion takes its place for the three stages, and it is said so; a measure that is missing never counts as zero.
Knows no page.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from triptych.evaluation.held_out import HeldOut, held_out
from triptych.evaluation.ladder import (
    CODES,
    PARTS,
    RECORDING,
    RUNGS,
    Utterer,
    cannot_make,
    fine_levels_made,
    make_rung,
    utterer,
)
from triptych.evaluation.report import Column, Figure, Sample, Section, Sheet, Table, Values
from triptych.evaluation.score import count_errors
from triptych.evaluation.sections.measures import CHARACTERS, NATURAL, WORDS, Heard, Listener
from triptych.evaluation.sections.stages import GAPS, choices, draws_of, fill_gap
from triptych.evaluation.speaker import Embedding
from triptych.evaluation.stage_scores import bits_a_token
from triptych.evaluation.subject import Evaluation
from triptych.evaluation.verdict import Losses, Verdict, losses, mean, verdict
from triptych.evaluation.warp import Frames, cepstra, distortion
from triptych.stages.cascade import Utterance
from triptych.stages.three import STAGES
from triptych.tokenizers.waveform import Waveform

OTHER = "another recording"
"""what is put in the place of the right one, to see what can be lost"""
COLUMNS = {
    "words": WORDS,
    "characters": CHARACTERS,
    "voice": Column("voice", "cosine", 3, True),
    "natural": NATURAL,
    "mel": Column("warped mel-cepstral distortion", "dB", 2, False),
}
COUNTED = {"words": 2.0, "voice": 1.0, "natural": 1.0, "mel": 2.0}
"""measure -> its weight in the verdict; mel counts only where words are missing"""
LEAST_RANGE = {"words": 0.1, "voice": 0.05, "natural": 0.2, "mel": 1.0}
"""by which another recording must be worse than the right one for a measure to count; mel in dB²"""
LEAST_MOS = 1.0
MOST_ERRORS = 1.0
"""a word: beyond this a recogniser dreams"""
DEAF = 0.1
"""nats: a stage whose gap is smaller hardly listens to that condition"""
SURE = 0.95
"""share of the resamples in which a part must lose most, or the next one is named too"""
OWN_CONDITION = {"text": "text", "semantic": "semantic tokens", "coarse": "coarse codes", "prompt": "voice prompt"}
UNLEARNED = 0.97
"""of the bits of an even guess: a stage that needs more a token has learned nothing"""
SHADOW = 0.5
"""share: a part that loses so much hides what those above it lose"""


def blame_section(evaluation: Evaluation) -> Section:
    """Which part of the cascade loses how much, and which to work on first."""
    settings = evaluation.settings
    clips, ear = held_out(evaluation), Listener(evaluation)
    sheet = Sheet("rungs", "The truth in the place of one stage after another", COLUMNS, ear.absent(COLUMNS))
    samples = climb(evaluation, clips, ear, sheet)
    found = counted(sheet)
    said = verdict(found, PARTS, settings.resamples, settings.seed)
    unlearned = learned_nothing(evaluation, clips)
    if unlearned:
        losing = {part: said.shares[part].mean if part in said.shares else 0.0 for part in unlearned}
        said = replace(said, part=max(losing, key=losing.__getitem__))
    lost = lost_table(found, said, sheet.absent, settings.resamples, settings.seed)
    table = sheet.table(settings.resamples, settings.seed, note=rung_note(evaluation))
    first = sentence(said, lost, unlearned.get(said.part or "", ""))
    about = " ".join(filter(None, [first, evidence(said, evaluation, clips), shadow(said), without(found)]))
    return Section("blame", "Which stage to work on", about, (lost, table), (), tuple(samples))


def climb(evaluation: Evaluation, clips: HeldOut, ear: Listener, sheet: Sheet) -> list[Sample]:
    """Makes and judges all rungs of all clips; returns sounds of the first clip."""
    by_id, samples, known = {r.id: r for r in evaluation.recordings}, [], []
    judged = [utterer(evaluation, clips, row, number) for number, row in enumerate(clips.judged)]
    utterances = {rung: climb_all(evaluation, rung, judged) for rung in RUNGS[:-1]}
    for number, clip in enumerate(judged):
        made = {}
        for rung, those in utterances.items():
            if why := cannot_make(evaluation.cascade, rung, clip):
                lack_all(sheet, rung, why)
            else:
                made[rung] = next(those).waveform
        made[RECORDING] = evaluation.waveform(by_id[clip.name])
        ear.hear_ahead(made.values())
        prompt = None if clip.prompt is None else ear.embed(evaluation.waveform(by_id[clip.prompt]))
        reference = Reference(clip, prompt, by_id[clip.name].speaker, cepstra(made[CODES], ear.rate))
        said = {rung: put(sheet, rung, reference, waveform, ear) for rung, waveform in made.items()}
        known.append(replace(reference, heard=said[RECORDING][0], own=said[RECORDING][1]))
        if not number and evaluation.settings.samples:
            samples = [Sample(r, evaluation.keep(f"blame {r}", made[r]), clip.text or "") for r in RUNGS if r in made]
        evaluation.progress(number + 1, len(judged), "blame: judged")
    for number, reference in enumerate(known):
        put_other(sheet, reference, known[number + 1 :] + known[:number], ear)
    return samples


def climb_all(evaluation: Evaluation, name: str, judged: Sequence[Utterer]) -> Iterator[Utterance]:
    """A rung of each clip that has it."""
    cascade = evaluation.cascade
    able = [clip for clip in judged if not cannot_make(cascade, name, clip)]

    def make(places: Sequence[int]) -> Iterator[Utterance]:
        return make_rung(cascade, name, [able[place] for place in places], evaluation.settings.slots)

    return evaluation.make_all([f"blame {name} {clip.name}" for clip in able], make)


@dataclass(frozen=True)
class Reference:
    """What every rung of a clip is held against."""

    clip: Utterer
    prompt: Embedding | None
    """of another recording of the speaker"""
    speaker: str | None
    frames: Frames
    """of the codec alone: what a codec changes of a spectrum is mostly not heard, and no stage's doing"""
    heard: Heard | None = None
    """in the recording"""
    own: Embedding | None = None
    """of the recording"""


def put(
    sheet: Sheet, rung: str, reference: Reference, waveform: Waveform, ear: Listener
) -> tuple[Heard | None, Embedding | None]:
    """Judges one rung of a clip."""
    clip = reference.clip
    heard = ear.words(sheet, rung, clip.name, waveform, clip.text)
    ear.natural(sheet, rung, clip.name, waveform)
    voice = ear.embed(waveform)
    if clip.prompt is None:
        sheet.lack(rung, "voice", "no other recording of the speaker")
    else:
        ear.voice(sheet, rung, "voice", clip.name, voice, reference.prompt)
    if rung != RECORDING:
        sheet.put(rung, "mel", clip.name, distortion(cepstra(waveform, ear.rate), reference.frames))
    return heard, voice


def put_other(sheet: Sheet, reference: Reference, others: Sequence[Reference], ear: Listener) -> None:
    """What the judges say of another speaker's recording of another text in the place of this one."""
    clip, speaker = reference.clip, reference.speaker
    strange = [one for one in others if None not in (speaker, one.speaker) and one.speaker != speaker]
    other = next(iter([one for one in strange if one.clip.text != clip.text] or strange or others), None)
    if other is None:
        lack_all(sheet, OTHER, "one clip alone")
        return
    sheet.put(OTHER, "mel", clip.name, distortion(other.frames, reference.frames))
    if reference.heard is not None and other.heard is not None and reference.heard.wanted:
        words = len(reference.heard.wanted.split())
        errors = count_errors(reference.heard.wanted, other.heard.words)
        sheet.put(OTHER, "words", clip.name, errors / words, words)
    if strange and clip.prompt is not None:
        ear.voice(sheet, OTHER, "voice", clip.name, other.own, reference.prompt)
    else:
        sheet.lack(OTHER, "voice", "no recording of another speaker beside one of this")


def lack_all(sheet: Sheet, rung: str, why: str) -> None:
    for column in COLUMNS:
        sheet.lack(rung, column, why)


def counted(sheet: Sheet) -> dict[str, Losses]:
    """The losses of each measure that can be counted."""
    found = {}
    for name, weight in COUNTED.items():
        if name == "mel" and "words" in found:
            continue
        rungs, parts = (RUNGS[:-1], PARTS[:-1]) if name == "mel" else (RUNGS, PARTS)
        values = [lessened(name, sheet.values.get(rung, {}).get(name, {})) for rung in rungs]
        floor = mean(lessened(name, sheet.values.get(OTHER, {}).get(name, {})))
        if name == "natural":
            floor = LEAST_MOS
        rising = bool(COLUMNS[name].rising)
        one = losses(values, parts, floor, rising=rising, least=LEAST_RANGE[name], weight=weight)
        if one is not None:
            found[name] = one
    return found


def lessened(name: str, values: Values) -> Values:
    """As losses are counted: word errors capped; distortions squared, since errors of several stages add up so."""
    if name == "words":
        return {u: (min(v, MOST_ERRORS), w) for u, (v, w) in values.items()}
    return {u: (v * v, w) for u, (v, w) in values.items()} if name == "mel" else values


def lost_table(
    found: Mapping[str, Losses], said: Verdict, absent: Mapping[str, str], resamples: int, seed: int
) -> Table:
    """What each part loses, measure by measure."""
    columns = {name: replace(COLUMNS[name], title=f"{COLUMNS[name].title} lost", rising=False) for name in COUNTED}
    columns["mel"] = replace(columns["mel"], title="squared distortion", unit="dB²")
    share = {"share": Column("share of what can be lost", "", 3, False)}
    sheet = Sheet("lost", "What each part loses", share | columns, absent)
    for part in PARTS:
        for name in COUNTED:
            values = found[name].parts.get(part, {}) if name in found else {}
            for utterance, (value, weight) in values.items():
                sheet.put(part, name, utterance, value, weight)
            if not values:
                sheet.lack(part, name, "not measured on both rungs" if name in found else not_counted(name, found))
    table = sheet.table(resamples, seed, note=LOST_NOTE)
    shares = {part: Figure(said.shares.get(part), "" if part in said.shares else "nothing measured") for part in PARTS}
    return replace(table, rows={part: {"share": shares[part]} | table.rows[part] for part in PARTS})


def not_counted(name: str, found: Mapping[str, Losses]) -> str:
    return "word error counts in its place" if name == "mel" and "words" in found else "nothing to compare with"


LOST_NOTE = (
    "A part's loss is the difference of two rungs of the table below, on the same utterances; below 0, what the part "
    "makes does better than the truth. A word error counts at most 1 in an utterance here. Share: loss / (recording "
    "minus another recording in its place; for naturalness, minus 1), over the measures; word error counts for "
    "half. What is lost on a lower rung cannot be lost again on a higher one."
)


def rung_note(evaluation: Evaluation) -> str:
    """What the rungs have in common."""
    made = fine_levels_made(evaluation.cascade, evaluation.cascade.settings)
    left_out = (
        "" if made else " This cascade leaves its fine stage out: its loss is that of the levels that nobody makes."
    )
    return (
        "Each clip has one voice prompt, another recording of its speaker, and one seed on all rungs. Voice is the "
        f"cosine to that prompt's recording; distortion, after time warping, is to the codec alone.{left_out}"
    )


def learned_nothing(evaluation: Evaluation, clips: HeldOut) -> dict[str, str]:
    """Stages in use that foresee true tokens no better than an even guess, and how they do.

    What they lose may be little, and still nothing is mended as surely.
    """
    found = {}
    for part, (stage, model) in evaluation.cascade.stages.items():
        if part == "fine" and not fine_levels_made(evaluation.cascade, evaluation.cascade.settings):
            continue
        bits, even = bits_a_token(stage, model, clips.speech, clips.judged, draws_of(stage)), math.log2(choices(stage))
        if bits is not None and bits > UNLEARNED * even:
            found[part] = f"{bits:.1f} bits a token, where an even guess has {even:.1f}"
    return found


def sentence(said: Verdict, lost: Table, unlearned: str = "") -> str:
    """Which part to work on first, and how sure that is.

    Args:
        unlearned: how the part shows that it has learned nothing.
    """
    if unlearned and said.part is not None:
        return f"Work on the {called(said.part)} first: it has learned nothing ({unlearned}).{loses(said)}"
    if said.part is None:
        return "No part loses more than chance may with so few utterances: judge more clips."
    share = said.shares[said.part]
    figures = []
    for name, figure in lost.rows[said.part].items():
        if name != "share" and figure.estimate:
            column, turned = lost.columns[name], -1 if COLUMNS[name].rising else 1
            told = f"{turned * figure.estimate.mean:+.{column.digits}f} {column.unit}".strip()
            figures.append(f"{column.title.removesuffix(' lost')} {told}")
    others = sorted((found.mean, part) for part, found in said.shares.items() if part != said.part)
    close = ""
    if others and said.sure < SURE:
        close = f" That is no sure thing: the {called(others[-1][1])} loses {others[-1][0]:.0%}."
    return (
        f"Work on the {called(said.part)} first: it loses {share.mean:.0%} of what can be lost ({', '.join(figures)}), "
        f"more than any other part in {said.sure:.0%} of the resamples.{close}"
    )


def loses(said: Verdict) -> str:
    """What a part that has learned nothing loses, and what loses more."""
    own = said.shares.get(said.part or "")
    if own is None:
        return ""
    more = [f"the {called(part)} {found.mean:.0%}" for part, found in said.shares.items() if found.mean > own.mean]
    return f" It loses {own.mean:.0%} of what can be lost{', '.join(['', *more])}."


def called(part: str) -> str:
    return part if part == "codec" else f"{part} stage"


def evidence(said: Verdict, evaluation: Evaluation, clips: HeldOut) -> str:
    """Whether the stage that is named listens to its conditions."""
    if said.part not in STAGES:
        return ""
    trained = evaluation.cascade.stages[said.part]
    conditions = trained[0].conditions
    gaps = Sheet("gaps", "", {name: Column(name) for name in conditions})
    for condition in conditions:
        fill_gap(gaps, *trained, clips, condition, 1)
    table = gaps.table(1, 0)
    found = {key: figure.estimate.mean for key, figure in table.rows.get(said.part, {}).items() if figure.estimate}
    told = " and ".join(f"{value:.2f} nat a token with {GAPS[name]}" for name, value in found.items())
    deaf = [OWN_CONDITION[name] for name, value in found.items() if value < DEAF]
    said_so = f" It hardly listens to its {' and '.join(deaf)}." if deaf else ""
    return f"It foresees tokens worse by {told}.{said_so}" if found else ""


def shadow(said: Verdict) -> str:
    """What cannot be judged while this part is as it is."""
    own = said.shares.get(said.part or "")  # None: it has learned nothing, and its loss was not measured
    if said.part is None or own is None or own.mean < SHADOW or said.part == PARTS[0]:
        return ""
    above = " and ".join(PARTS[: PARTS.index(said.part)])
    return f"While it is so, little can be said of what stands above it ({above}): mend it, and ask again."


def without(found: Mapping[str, Losses]) -> str:
    """Which measures were not counted."""
    missing = [COLUMNS[name].title for name in COUNTED if name not in found and name != "mel"]
    deaf = " No judge hears words here: distortion stands in their place, and says nothing of the codec."
    return f"Not measured: {', '.join(missing)}.{deaf if 'mel' in found else ''}" if missing else ""
