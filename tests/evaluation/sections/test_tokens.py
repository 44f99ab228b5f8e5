"""Section tokens: alphabets, probes, purity and disturbances of the judged clips; reasons where there is no number."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from triptych.corpus.manifest import read_manifest, write_manifest
from triptych.evaluation.held_out import companions, held_out
from triptych.evaluation.report import Section, Table
from triptych.evaluation.sections.tokens import CHANGED, NO_PHONES, PURE, SEMANTIC, phones_given, tokens_section
from triptych.evaluation.subject import Evaluation

Changed = Callable[..., Evaluation]


def table(section: Section, name: str) -> Table:
    return next(found for found in section.tables if found.name == name)


def test_tokens_of_the_clips_are_described(evaluation: Evaluation) -> None:
    section = tokens_section(evaluation)
    use = table(section, "use").rows
    clips = held_out(evaluation)
    ids = np.concatenate([clips.speech.clip(int(row)).semantic for row in clips.speech.indices])
    size = evaluation.cascade.tokenizers.semantic.spec.size
    assert use[SEMANTIC]["usage"].estimate.mean == len(np.unique(ids)) / size  # type: ignore[union-attr]
    assert len(use) == 1 + evaluation.cascade.tokenizers.acoustic.spec.levels
    assert use["codes, level 0"]["bits_per_second"].estimate.mean < 10 * float(clips.speech.grid.acoustic_rate)  # type: ignore[union-attr]
    left = table(section, "left").rows[SEMANTIC]
    assert left["speaker"].estimate is None and "four clips" in left["speaker"].why
    assert all(left[key].estimate is None and left[key].why == NO_PHONES for key in PURE)
    changed = table(section, "changed")
    gain, noise = changed.rows["gain -12 dB"], changed.rows["noise 10 dB"]
    assert gain["frames"].estimate.mean < noise["frames"].estimate.mean  # type: ignore[union-attr]
    assert set(changed.values["noise 10 dB"]) == set(CHANGED)
    assert set(changed.values["noise 10 dB"]["edits"]) == {clip.id for clip in evaluation.clips}


def test_phones_that_the_manifest_gives_are_read_in_the_middle_of_frames(evaluation: Evaluation) -> None:
    """lhotse's alignment of a supervision survives the manifest; frames outside every phone are unknown."""
    items = [["AH", 0.0, 0.1], ["B", 0.1, 0.08, 0.9], ["AH", 0.2, 0.09]]
    clip = replace(evaluation.clips[0], custom={"alignment": {"phone": items}})
    path = evaluation.folder / "aligned.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, [clip])
    numbers: dict[str, int] = {}
    found = phones_given(next(iter(read_manifest(path))), 10, 25.0, numbers)
    assert numbers == {"AH": 0, "B": 1}
    assert found.tolist() == [0, 0, 1, 1, -1, 0, 0, -1, -1, -1]  # middles at 0.02, 0.06, 0.10, …
    assert (phones_given(evaluation.clips[0], 3, 25.0, numbers) == -1).all()


def test_phones_of_a_part_of_a_file_are_read_from_where_it_begins(evaluation: Evaluation) -> None:
    """lhotse leaves their times as they are in the file, however its cuts are trimmed."""
    from lhotse import CutSet, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse import Recording as LhotseRecording
    from lhotse.supervision import AlignmentItem

    path = evaluation.folder / "parts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = LhotseRecording.from_file(evaluation.clips[0].path, recording_id="x")
    phones = [AlignmentItem("AH", 0.4, 0.04), AlignmentItem("B", 0.44, 0.08)]
    said = SupervisionSegment("s", "x", 0.4, 0.2, text="hi", alignment={"phone": phones})
    cuts = CutSet.from_manifests(RecordingSet.from_recordings([sound]), SupervisionSet.from_segments([said]))
    cuts.trim_to_supervisions().to_file(path)
    (found,) = read_manifest(path)
    write_manifest(path, [found])
    for clip in (found, *read_manifest(path)):
        assert phones_given(clip, 5, 25.0, {}).tolist() == [0, 1, 1, -1, -1]


def test_companions_are_of_the_judged_voices_and_judged_never(evaluation: Evaluation) -> None:
    judged = evaluation.clips
    beside = companions(evaluation.recordings, judged)
    assert {clip.speaker for clip in beside} == {clip.speaker for clip in judged}
    assert not {clip.id for clip in beside} & {clip.id for clip in judged}
    nobody = tuple(replace(clip, speaker=None) for clip in judged)
    assert companions(evaluation.recordings, nobody) == []


def test_tokens_on_disk_are_used_again(evaluation: Evaluation, evaluation_of: Changed) -> None:
    first = held_out(evaluation)
    again = held_out(evaluation)
    assert again.speech.shards.folder == first.speech.shards.folder
    assert held_out(evaluation_of(clips=1)).judged != first.judged
