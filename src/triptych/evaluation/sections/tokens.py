"""Section `tokens`: what the semantic tokens and the codes of held-out clips carry. As `inspect tokens` measures.

    ids of all clips ─▶ use          share of ids that occur, entropy, bits a second          semantic tokens, levels
                     ─▶ probes       speaker, pitch, melody: how much of the voice is left    semantic tokens
                     ─▶ purity       PNMI against the phones that the manifest gives          semantic tokens
    clips, disturbed ─▶ change       share of the tokens that differ, way by way              semantic tokens

Knows no stage and no page.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from triptych.corpus.manifest import Recording
from triptych.evaluation.disturb import disturbances
from triptych.evaluation.held_out import HeldOut, held_out
from triptych.evaluation.probes import pitch_probe, speaker_probe
from triptych.evaluation.report import INK, Column, Figure, Plot, Section, Sheet, Table, plot, single
from triptych.evaluation.subject import Evaluation
from triptych.evaluation.token_clips import Ears, Heard
from triptych.evaluation.token_report import encode
from triptych.evaluation.tokens import Ids, change, purity, use
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.waveform import Waveform, resample

USE = {
    "usage": Column("ids that occur", "share", 3),
    "entropy": Column("entropy", "bit", 2),
    "per_second": Column("without repeats", "tokens/s", 1),
    "bits_per_second": Column("bits a second", "bit/s", 0),
}
LEFT = {
    "speaker": Column("speaker named rightly", "share", 3, False),
    "majority": Column("by always naming one", "share", 3),
    "pitch": Column("pitch", "R²", 3, False),
    "melody": Column("melody", "R²", 3),
    "pnmi": Column("PNMI", "", 3, True),
    "by_chance": Column("PNMI by chance", "", 3),
    "phone": Column("phone purity", "share", 3, True),
    "cluster": Column("cluster purity", "share", 3, True),
}
CHANGED = {
    "edits": Column("edits a token", "", 3, False),
    "collapsed": Column("edits, repeats collapsed", "", 3, False),
    "frames": Column("frames that differ", "share", 3, False),
}
ABOUT = (
    "Good semantic tokens use their whole alphabet, tell phones (PNMI near 1) and not the speaker, and stay the same "
    "under what a listener would forgive. A codec level that uses few of its ids has collapsed."
)
SEMANTIC = "semantic tokens"
NO_PHONES = "the manifest gives no phones (lhotse's alignment 'phone' or 'phones')"
PHONE_KINDS = ("phone", "phones")


def tokens_section(evaluation: Evaluation) -> Section:
    """Semantic tokens and codes of the judged clips."""
    clips, settings = held_out(evaluation), evaluation.settings
    missing: dict[str, str] = {}
    ears = Ears(None, None, missing)
    rate = float(clips.speech.grid.semantic_rate)
    changed = Sheet("changed", "What a disturbance changes", CHANGED)
    ways, cannot = disturbances(1 / rate)
    for name, why in cannot.items():
        for column in CHANGED:
            changed.lack(name, column, why)
    by_id, tokenizer = {r.id: r for r in evaluation.recordings}, evaluation.cascade.tokenizers.semantic
    heard: list[Heard] = []
    phones: dict[str, int] = {}
    for number, row in enumerate(clips.judged):
        recording = by_id[clips.name(row)]
        waveform = resample(evaluation.waveform(recording), evaluation.cascade.sample_rate, SAMPLE_RATE)
        heard.append(listen(clips, row, recording, waveform, ears, phones))
        clean = encode(tokenizer, waveform)
        for way in ways:
            made = way.change(waveform, SAMPLE_RATE, np.random.default_rng((settings.seed, number)))
            found = change(clean, encode(tokenizer, made), way.speed)
            if found is not None:
                changed.put(way.name, "edits", recording.id, found.edits, found.tokens)
                changed.put(way.name, "collapsed", recording.id, found.collapsed, found.runs)
                changed.put(way.name, "frames", recording.id, found.frames, found.tokens)
        evaluation.progress(number + 1, len(clips.judged), "tokens, disturbed")
    tables = (
        use_table(clips),
        left_table(clips, heard, bool(phones), settings.resamples, settings.seed, missing),
        changed.table(settings.resamples, settings.seed),
    )
    return Section("tokens", "Tokens", ABOUT, tables, (frequencies(clips),))


def listen(
    clips: HeldOut, row: int, recording: Recording, waveform: Waveform, ears: Ears, phones: dict[str, int]
) -> Heard:
    """A clip with its ids, pitch and phones; new phones get the next numbers in `phones`."""
    ids, rate = clips.speech.clip(row).semantic.astype(np.int64), float(clips.speech.grid.semantic_rate)
    sounding = phones_given(recording, len(ids), rate, phones)
    return Heard(recording.id, recording.speaker, ids[:0], ids, ears.pitch(waveform, len(ids), rate), sounding)


def phones_given(recording: Recording, frames: int, rate: float, numbers: dict[str, int]) -> Ids:
    """[frames]: the number of the phone that the manifest has in the middle of each frame; -1 where it has none.

    lhotse's times are those of the whole file, wherever in it the clip begins.
    """
    found = np.full(frames, -1, dtype=np.int64)
    alignment = recording.custom.get("alignment")
    items: Any = next((alignment[k] for k in PHONE_KINDS if k in alignment), []) if isinstance(alignment, dict) else []
    middles = recording.start + (np.arange(frames) + 0.5) / rate
    for symbol, start, duration, *_ in items:
        inside = (middles >= float(start)) & (middles < float(start) + float(duration))
        found[inside] = numbers.setdefault(str(symbol), len(numbers))
    return found


def use_table(clips: HeldOut) -> Table:
    """How the alphabets are used, over all clips and companions."""
    speech, rows = clips.speech, [int(row) for row in clips.speech.indices]
    specs, grid = speech.shards.specs, speech.grid
    all_ids = {SEMANTIC: ([speech.clip(row).semantic for row in rows], specs["semantic"].size, grid.semantic_rate)}
    for level in range(specs["acoustic"].levels):
        ids = [speech.clip(row).codes[level] for row in rows]
        all_ids[f"codes, level {level}"] = (ids, specs["acoustic"].size, grid.acoustic_rate)
    found = {}
    for label, (ids, size, rate) in all_ids.items():
        said = use([clip.astype(np.int64) for clip in ids], size, float(rate))
        found[label] = {key: single(getattr(said, key), len(ids)) for key in USE}
    frames = sum(speech.beats(row) for row in rows) * grid.semantic_per_beat
    note = f"{len(rows)} clips, {frames} semantic frames: of a large alphabet, so few do not show all that occurs."
    return Table("use", "Use of the alphabets", USE, found, note)


def left_table(
    clips: HeldOut, heard: Sequence[Heard], phones: bool, resamples: int, seed: int, missing: dict[str, str]
) -> Table:
    """What can be read from the semantic tokens."""
    size = clips.speech.shards.specs["semantic"].size
    names, of = clips.speech.shards.speakers, clips.speech.shards.speaker_of
    ids, who = [], []
    for row in clips.speech.indices:
        ids.append(clips.speech.clip(int(row)).semantic.astype(np.int64))
        who.append(names[of[row]] if of[row] >= 0 else None)
    voice = speaker_probe(ids, who, size, resamples, seed)
    pitch, melody = (
        pitch_probe([clip.ids for clip in heard], [clip.pitch for clip in heard], size, resamples, seed, within=within)
        for within in (False, True)
    )
    few = missing.get("pitch", "too few voiced clips")
    row = {
        "speaker": Figure(voice[0]) if voice else Figure(None, "fewer than two speakers with four clips each"),
        "majority": single(voice[1], voice[0].clips) if voice else Figure(None, "no probe for the speaker"),
        "pitch": Figure(pitch, "" if pitch else few),
        "melody": Figure(melody, "" if melody else few),
    }
    pure = None
    if phones:
        every = np.concatenate([clip.ids for clip in heard]), np.concatenate([clip.phones for clip in heard])
        pure = purity(*every, np.random.default_rng((seed, 14)))
    for key in PURE:
        row[key] = single(getattr(pure, key), len(heard)) if pure else Figure(None, NO_PHONES)
    return Table("left", "What the semantic tokens tell", LEFT, {SEMANTIC: row}, LEFT_NOTE)


PURE = ("pnmi", "by_chance", "phone", "cluster")
LEFT_NOTE = (
    "Linear probes, judged on clips that they were not fitted on. PNMI: the share of a phone that its token tells (Hsu "
    "et al. 2021); with few clips, much of it is chance."
)


def frequencies(clips: HeldOut) -> Plot:
    """How often ids occur, the most frequent first."""
    speech = clips.speech
    ids = np.concatenate([speech.clip(int(row)).semantic for row in speech.indices])
    counts = np.sort(np.bincount(ids, minlength=speech.shards.specs["semantic"].size))[::-1]

    def draw(axes: Any) -> None:
        axes.plot(np.arange(1, len(counts) + 1), counts / counts.sum(), color=INK)
        axes.set_xlabel("semantic tokens, the most frequent first")
        axes.set_ylabel("share of frames")
        axes.set_yscale("log")

    return plot("frequencies", "How often each semantic token occurs", draw)
