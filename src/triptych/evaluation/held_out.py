"""The judged clips as token shards, with other recordings of their speakers beside them for voice prompts.

    Evaluation.clips + companions ──corpus/shards.py──▶ cache/tokens/KEY/shards.json ──▶ Speech ──▶ stage.row(…)

So a row is drawn here as training draws it. Companions come from the judged split where it has some, else from anywhere
in the manifest; they are heard, never judged. Tokens on disk are used again by the next section and after a kill.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from triptych.corpus.manifest import Recording, write_manifest
from triptych.corpus.shards import ShardConfig, ShardSet, write_shards
from triptych.evaluation.subject import Evaluation
from triptych.stages.bundle import LONGEST_VOICE, SHORTEST_VOICE
from triptych.stages.speech import Speech
from triptych.training.files import fingerprint_of

COMPANIONS = 3
"""other recordings of a speaker that are tokenized beside theirs, at most; with one of theirs, enough for a probe"""


@dataclass(frozen=True)
class HeldOut:
    """Tokens of what is judged."""

    speech: Speech
    """judged clips and companions"""
    judged: tuple[int, ...]
    """rows of the judged clips, in the order of `Evaluation.clips`"""
    rejected: int
    """clips that could not be tokenized, such as those with a text that the front end cannot say"""

    def name(self, row: int) -> str:
        return self.speech.shards.row(row).id


def held_out(evaluation: Evaluation) -> HeldOut:
    """Tokenizes what is not tokenized yet.

    Raises:
        ValueError: not one clip can be tokenized.
    """
    judged = evaluation.clips
    recordings = [*judged, *companions(evaluation.recordings, judged)]
    tokenizers = evaluation.cascade.tokenizers
    specs = {kind: spec.fingerprint for kind, spec in tokenizers.specs.items()}
    folder = evaluation.cache / "tokens" / fingerprint_of({"ids": [r.id for r in recordings], "specs": specs})
    if not (folder / "shards.json").exists():
        manifest = folder.with_suffix(".jsonl")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest, [replace(r, split="test", path=Path(r.path).resolve()) for r in recordings])
        write_shards(
            manifest,
            tokenizers,
            folder,
            ShardConfig(max_rejected=1.0),
            lambda done, total: evaluation.progress(done, total, "tokens of the clips"),
        )
    shards = ShardSet.open(folder, tokenizers.specs)
    speech = Speech(shards, "test")
    found = {shards.row(int(row)).id: int(row) for row in speech.indices if speech.beats(int(row))}
    rows = tuple(found[clip.id] for clip in judged if clip.id in found)
    if not rows:
        raise ValueError(f"{evaluation.manifest}: none of its {len(judged)} judged clips can be tokenized")
    return HeldOut(speech, rows, len(judged) - len(rows))


def companions(recordings: tuple[Recording, ...], judged: tuple[Recording, ...]) -> list[Recording]:
    """Recordings long enough for a voice prompt, of the speakers that are judged, and not judged themselves."""
    taken, split = {clip.id for clip in judged}, judged[0].split
    by_speaker = defaultdict(list)
    for recording in recordings:
        fit = SHORTEST_VOICE <= recording.seconds <= LONGEST_VOICE
        if recording.speaker is not None and fit and recording.id not in taken:
            by_speaker[recording.speaker].append(recording)
    found = []
    for speaker in dict.fromkeys(clip.speaker for clip in judged if clip.speaker is not None):
        theirs = sorted(by_speaker[speaker], key=lambda recording: recording.split != split)
        found += theirs[:COMPANIONS]
    return found
