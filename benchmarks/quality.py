"""Makes the recordings behind the README's figures, and the lists that `triptych score` judges.

    python benchmarks/quality.py MANIFEST -o OUT [--bundle DIR] [--clips 30]

    OUT/codec.jsonl       held-out clips through the codec alone                 voice: the clip itself
    OUT/semantic.jsonl    held-out clips from their semantic tokens, another clip of the voice as the prompt
                                                                                 voice: the clip itself
    OUT/speak.jsonl       the 100 lines of benchmarks/sentences.txt, five voices voice: its longest held-out clip
    OUT/convert.jsonl     held-out clips in another voice                        voice: the target
    OUT/convert-source.jsonl   the same                                          voice: the source
    OUT/continue.json     10 prompts of 3 s continued by 7 s: length, silence, share copied, similarity

MANIFEST is one of the corpus that the bundle was trained on; only its split `test` is used, and its speakers are the
bundle's named voices. Knows no judge but the speaker encoder, for what is continued. Prints the processor's
name: rounding differs between processors, and so do some words of what is sampled, so bundles are compared on one.
Chance is larger than it looks: four draws of the same bundle over 88 clips had 123 to 152 of 1,053 words wrong, so a
tenth of the words of 30 clips says nothing. More are heard with `--clips`, in which sentences may come again.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor

from triptych.corpus.manifest import Recording, read_manifest
from triptych.evaluation.speaker import load_speaker, similarity
from triptych.stages.cascade import Cascade, Utterance
from triptych.tokenizers.waveform import write_wav

SENTENCES = Path(__file__).with_name("sentences.txt")
PROMPT_SECONDS, CONTINUED_SECONDS = 3.0, 7.0
SILENCE_DB = -55.0
"""a frame of 20 ms under this level is silent"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle")
    parser.add_argument("--clips", type=int, default=30)
    said = parser.parse_args()
    print(f"on {processor()}")
    cascade = Cascade.load(said.bundle)
    by_speaker = defaultdict(list)
    for recording in read_manifest(said.manifest):
        if recording.split == "test" and recording.text and recording.speaker:
            by_speaker[recording.speaker].append(recording)
    lists = Lists(said.output, cascade)
    codec(cascade, spread(by_speaker, said.clips), lists)
    resynthesise(cascade, by_speaker, said.clips, lists)
    speak(cascade, by_speaker, lists)
    convert(cascade, by_speaker, said.clips, lists)
    go_on(cascade, spread(by_speaker, 10, PROMPT_SECONDS + 1), said.output)
    lists.close()


class Lists:
    """Writes wavs, one JSONL list a kind, and the work of each stage."""

    def __init__(self, folder: Path, cascade: Cascade) -> None:
        self.folder, self.cascade = folder, cascade
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.work: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, kind: str, number: int, made: Utterance, text: str | None, voice: Path, name: str = "") -> None:
        wav = f"{name or kind}-{number:02d}.wav"
        if not name:
            write_wav(self.folder / wav, made.waveform, made.sample_rate)
            self.work[kind]["seconds"] += made.seconds
            for stage, seconds in made.seconds_by_stage.items():
                self.work[kind][stage] += seconds
        self.rows[kind].append({"audio": wav, "text": text, "voice": str(voice.resolve()), "notes": made.notes})

    def close(self) -> None:
        for kind, rows in self.rows.items():
            (self.folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for kind, work in self.work.items():
            seconds = work.pop("seconds")
            shares = "  ".join(f"{stage} {spent / seconds:.3f}" for stage, spent in work.items())
            print(f"{kind}: {seconds:.1f} s of sound; work a second of sound: {shares}")


def spread(by_speaker: dict[str, list[Recording]], count: int, shortest: float = 0.0) -> list[Recording]:
    """`count` clips, taken from the speakers in turn."""
    queues = [[clip for clip in clips if clip.seconds >= shortest] for _, clips in sorted(by_speaker.items())]
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return turns[:count]


def longest(clips: list[Recording]) -> Path:
    """The clip that says most of a voice."""
    return max(clips, key=lambda clip: clip.seconds).path


def codec(cascade: Cascade, clips: list[Recording], lists: Lists) -> None:
    for number, clip in enumerate(clips):
        lists.add("codec", number, cascade.resynthesise(clip.path, level="codes"), clip.text, clip.path)


def resynthesise(cascade: Cascade, by_speaker: dict[str, list[Recording]], count: int, lists: Lists) -> None:
    """What coarse and fine make of true semantic tokens: the ceiling of speaking and of converting."""
    for number, clip in enumerate(spread(by_speaker, count)):
        own = by_speaker[str(clip.speaker)]
        other = own[(own.index(clip) + 1) % len(own)]
        lists.add("semantic", number, cascade.convert(clip.path, voice=other.path), clip.text, clip.path)


def speak(cascade: Cascade, by_speaker: dict[str, list[Recording]], lists: Lists) -> None:
    voices = [name for name in cascade.voices() if by_speaker.get(name)][:5]
    for number, line in enumerate(SENTENCES.read_text().splitlines()):
        voice = voices[number % len(voices)]
        lists.add("speak", number, cascade.speak(line, voice=voice), line, longest(by_speaker[voice]))


def convert(cascade: Cascade, by_speaker: dict[str, list[Recording]], count: int, lists: Lists) -> None:
    voices = [name for name in cascade.voices() if by_speaker.get(name)][:5]
    for number, clip in enumerate(spread(by_speaker, count)):
        target = next(name for name in voices[number % len(voices) :] + voices if name != clip.speaker)
        made = cascade.convert(clip.path, voice=target)
        lists.add("convert", number, made, clip.text, longest(by_speaker[target]))
        lists.add("convert-source", number, made, clip.text, clip.path, name="convert")


def go_on(cascade: Cascade, clips: list[Recording], folder: Path) -> None:
    """Continues prompts, and says of each what a list of words cannot."""
    speaker, rows = load_speaker(), []
    for number, clip in enumerate(clips):
        waveform = cascade.tokenizers.prepare_file(clip.path).waveform
        prompt = folder / f"prompt-{number:02d}.wav"
        write_wav(prompt, waveform[: int(PROMPT_SECONDS * cascade.sample_rate)], cascade.sample_rate)
        made = cascade.continue_(prompt, seconds=CONTINUED_SECONDS)
        write_wav(folder / f"continue-{number:02d}.wav", made.waveform, made.sample_rate)
        new = made.waveform[-int(CONTINUED_SECONDS * made.sample_rate) :]
        given = len(made.semantic) - int(CONTINUED_SECONDS * cascade.grid.semantic_rate)
        alike = similarity(
            speaker.embed(new, made.sample_rate), speaker.embed(waveform[: len(new)], cascade.sample_rate)
        )
        copied = share_copied(made.semantic[:given].tolist(), made.semantic[given:].tolist())
        rows.append(
            {
                "audio": f"continue-{number:02d}.wav",
                "seconds": len(new) / made.sample_rate,
                "silent": silent_share(new, made.sample_rate),
                "copied": copied,
                "similarity": alike,
            }
        )
    (folder / "continue.json").write_text(json.dumps(rows, indent=1))
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("seconds", "silent", "copied", "similarity")}
    print("continue: " + "  ".join(f"{key} {value:.3f}" for key, value in means.items()))


def silent_share(waveform: np.ndarray, rate: int) -> float:
    """Share of 20 ms frames under SILENCE_DB."""
    size = rate // 50
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    return float((20 * np.log10(np.sqrt(np.square(frames).mean(1)) + 1e-9) < SILENCE_DB).mean())


def share_copied(prompt: list[int], new: list[int], span: int = 8) -> float:
    """Share of the new tokens that lie in a run of `span` that stands in the prompt as well."""
    known = {tuple(prompt[i : i + span]) for i in range(len(prompt) - span + 1)}
    copied = np.zeros(len(new), bool)
    for i in range(len(new) - span + 1):
        if tuple(new[i : i + span]) in known:
            copied[i : i + span] = True
    return float(copied.mean())


if __name__ == "__main__":
    main()
