"""From whatever lies on disk to a manifest, in one pass over the file headers.

    1  a reader finds entries           readers.py
    2  headers are read                 real length, rate and channels; what cannot be used is rejected
    3  splits are dealt                 by a hash of the text, 96/2/2, where the source names none
    4  copies at other speeds           of what is trained on alone, where they are asked for
    5  manifest.jsonl, and manifest.rejected.jsonl with a reason a line

The same sentence is never in two splits. Decodes audio only where it is asked to be strict.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from triptych.corpus.clips import part_of
from triptych.corpus.manifest import SPLITS, Recording, Split, read_header, write_manifest, written
from triptych.corpus.readers import Found, found_in
from triptych.tokenizers.waveform import SHORTEST_SECONDS, Part, read_audio
from triptych.training.files import atomic_file

DEV_PERCENT = 2
TEST_PERCENT = 2
SPEEDS = (0.5, 2.0)
"""of copies, at least and at most"""
LATEST_START = 0.04
"""seconds, about a frame of semantic tokens: a codec's codes of a sound change with the part of a frame it begins in"""


@dataclass(frozen=True)
class Summary:
    """What a manifest holds."""

    manifest: Path
    recordings: int
    rejected: int
    seconds: float
    """of all recordings"""
    speakers: int
    with_text: int
    splits: dict[str, int] = field(default_factory=dict)
    """recordings a split"""
    rejected_file: Path | None = None
    """a JSON line for each rejected entry: where, reason; None where nothing was rejected"""
    first_reason: str | None = None


def rejected_path(manifest: Path) -> Path:
    """manifest.jsonl[.gz] -> manifest.rejected.jsonl"""
    return manifest.with_name(manifest.name.removesuffix(".gz").removesuffix(".jsonl") + ".rejected.jsonl")


def prepare(source: Path, manifest: Path, *, strict: bool = False, speeds: Sequence[float] = ()) -> Summary:
    """Writes the manifest of `source`.

    Args:
        source: an LJSpeech folder, a folder of audio, a JSONL file, or a lhotse recordings or cuts file.
        manifest: the file to write, .jsonl or .jsonl.gz.
        strict: decode every file in full, and refuse the whole source if one entry cannot be used.
        speeds: each recording of split train is there once more at each of these, see `copy_of`.
    Raises:
        ValueError: the source is none of these; the manifest exists; every entry was rejected; or strict, and one was;
            a speed that is none, or is there twice.
    """
    names = [f"{speed:g}" for speed in speeds]
    if not all(SPEEDS[0] <= speed <= SPEEDS[1] for speed in speeds) or len(set(names)) < len(names):
        said = ", ".join(names)
        raise ValueError(f"speeds are {said}, and must be different numbers from {SPEEDS[0]:g} to {SPEEDS[1]:g}")
    if not manifest.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"{manifest}: name the manifest .jsonl or .jsonl.gz")
    if manifest.exists():
        raise ValueError(f"{manifest} exists already: name another manifest, or move it away first")
    kept, rejected = sort_out(found_in(source), decode=strict)
    rejected_file = rejected_path(manifest)
    if rejected:
        with atomic_file(rejected_file) as beside:
            lines = [json.dumps({"where": f.where, "reason": f.reason}, ensure_ascii=False) for f in rejected]
            beside.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    else:
        rejected_file.unlink(missing_ok=True)  # of an earlier try
    if not kept and not rejected:
        raise ValueError(
            f"{source} holds no audio: give a folder of wav, flac, ogg, opus or mp3 files, or a JSONL file"
        )
    if rejected and (strict or not kept):
        raise ValueError(
            f"{source}: {len(rejected)} of {len(kept) + len(rejected)} entries cannot be used, the first is "
            f"{rejected[0].where}: {rejected[0].reason} (all of them: {rejected_file})"
        )
    recordings = deal_splits(kept)
    recordings += copies_of(recordings, speeds)
    write_manifest(manifest, recordings)
    return Summary(
        manifest=manifest,
        recordings=len(recordings),
        rejected=len(rejected),
        seconds=sum(r.seconds for r in recordings),
        speakers=len({r.speaker for r in recordings if r.speaker is not None}),
        with_text=sum(r.text is not None for r in recordings),
        splits=dict(Counter(r.split for r in recordings)),
        rejected_file=rejected_file if rejected else None,
        first_reason=f"{rejected[0].where}: {rejected[0].reason}" if rejected else None,
    )


def sort_out(entries: Iterable[Found], decode: bool) -> tuple[list[Found], list[Found]]:
    """Entries whose audio can be used, with headers; and the others, with reasons."""
    kept: list[Found] = []
    rejected: list[Found] = []
    taken: dict[str, str] = {}
    for entry in entries:
        try:
            if entry.recording is None:
                raise ValueError(entry.reason)
            written(entry.recording.id, "id")
            written(str(entry.recording.path), "path")
            recording = with_header(entry.recording)
            if recording.id in taken:
                raise ValueError(f"its id '{recording.id}' is that of {taken[recording.id]}: give each another 'id'")
            if decode:
                listen(recording)
        except ValueError as error:
            rejected.append(replace(entry, recording=None, reason=str(error)))
        else:
            taken[recording.id] = entry.where
            kept.append(replace(entry, recording=recording))
    return kept, rejected


def with_header(recording: Recording) -> Recording:
    """`recording` with the header and the length that its file really has.

    Raises:
        ValueError: not an audio file, too short, or a part that lies beyond its end.
    """
    header = read_header(recording.path)
    whole = recording.header is None or part_of(recording) == Part(channel=recording.channel, speed=recording.speed)
    seconds = header.seconds / recording.speed - recording.start
    if not whole:
        if seconds < recording.seconds - 0.05:
            raise ValueError(f"{recording.path}: ends before {recording.stop:.2f} s")
        seconds = min(seconds, recording.seconds)
    if seconds < SHORTEST_SECONDS:
        raise ValueError(f"{recording.path}: {seconds:.3f} s is too short; give at least {SHORTEST_SECONDS} s")
    return replace(recording, header=header, seconds=seconds)


def listen(recording: Recording) -> None:
    """Decodes a file in full.

    Raises:
        ValueError: it cannot be decoded, holds no numbers, or is silent throughout.
    """
    waveform, _ = read_audio(recording.path, *part_of(recording)[:3])
    if float(np.abs(waveform).max()) < 1e-4:
        raise ValueError(f"{recording.path}: silence throughout")


def deal_splits(entries: list[Found]) -> list[Recording]:
    """Entries without a split get one by the hash of their text (of their id, where there is no text); but what the
    source trains on or holds out is so whoever says it, unless all is held out.

    Where the source names no split at all, dev and test get the lowest hashes rather than nothing, and train something.
    """
    recordings = [entry.recording for entry in entries if entry.recording is not None]
    if all(entry.has_split for entry in entries):
        return recordings
    shares = {key: _share(key) for key in map(_said, recordings)}
    dealt: dict[str, Split] = {key: _split_of(share) for key, share in shares.items()}
    if not any(entry.has_split for entry in entries) and len(dealt) >= len(SPLITS):
        in_order = sorted(dealt, key=lambda key: shares[key])
        for split in ("test", "dev"):
            if split not in dealt.values():
                dealt[next(key for key in in_order if dealt[key] == "train")] = split
    elif not any(entry.has_split for entry in entries) and "train" not in dealt.values():
        dealt[max(dealt, key=lambda key: shares[key])] = "train"
    named = [entry.recording for entry in entries if entry.has_split and entry.recording]
    trained = {_said(one): one.split for one in named if one.split == "train"}
    held = {_said(one): one.split for one in named if one.split != "train"}
    dealt |= trained
    if trained or any(key not in held for key, split in dealt.items() if split == "train"):  # else all is held out
        dealt |= held
    return [
        recording if entry.has_split else replace(recording, split=dealt[_said(recording)])
        for entry, recording in zip(entries, recordings, strict=True)
    ]


def copies_of(recordings: Sequence[Recording], speeds: Sequence[float]) -> list[Recording]:
    """A copy at each speed of all that is trained on and would not be too short, or too fast or slow in all.

    Raises:
        ValueError: a copy is there already.
    """
    copies: list[Recording] = []
    taken = {recording.id for recording in recordings}
    for speed in speeds:
        for recording in recordings:
            usable = recording.seconds >= SHORTEST_SECONDS * speed and SPEEDS[0] <= recording.speed * speed <= SPEEDS[1]
            if recording.split == "train" and usable:
                copies.append(copy_of(recording, speed))
                if copies[-1].id in taken:
                    raise ValueError(f"the source has copies already, as {copies[-1].id}: give it without them")
    return copies


def copy_of(recording: Recording, speed: float) -> Recording:
    """The recording played `speed` times as fast, and begun up to a frame later: to a codec it is another sound.

    Speed moves pitch and formants with it, so that a copy is of another voice (Ko et al. 2015, three-way speed
    perturbation). Its speaker is another at a speed of 1 too: else a recording might prompt its own copy. Where its
    phones lie is not taken over.
    """
    seconds = recording.seconds / speed
    late = min(_share(f"{recording.id} {speed:g}") / 100 * LATEST_START, max(0.0, seconds - SHORTEST_SECONDS))
    return replace(
        recording,
        id=f"{recording.id}_sp{speed:g}",
        speaker=None if recording.speaker is None else f"{recording.speaker}_sp{speed:g}",
        start=recording.start / speed + late,
        seconds=seconds - late,
        speed=recording.speed * speed,
        custom={key: value for key, value in recording.custom.items() if key != "alignment"},
    )


def _said(recording: Recording) -> str:
    name = re.sub(r"(_sp[\d.]+)+$", "", recording.id)  # of which it is a copy, as lhotse names them
    return " ".join((recording.text or name).casefold().split())


def _share(key: str) -> float:
    """In [0, 100), the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 * 100


def _split_of(share: float) -> Split:
    if share < TEST_PERCENT:
        return "test"
    return "dev" if share < TEST_PERCENT + DEV_PERCENT else "train"
