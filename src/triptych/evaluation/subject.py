"""What is evaluated, and with what: the cascade, clips of a manifest, judges, settings, and where things are kept.

    OUT/samples/…ogg          sounds that the page plays
        cache/made/…npz       tokens of what the cascade made; an evaluation that was killed does not make them again
        cache/parts/…wav      clips that are parts of longer files, cut out for the cascade
        cache/judged.jsonl    what the judges said (judges.py)

Knows no section and no page.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.corpus.clips import part_of, reason_of
from triptych.corpus.manifest import Recording, Split, read_manifest
from triptych.evaluation.codec import evenly
from triptych.evaluation.judges import Judges
from triptych.stages.cascade import Cascade, Utterance
from triptych.tokenizers.trio import Tokens
from triptych.tokenizers.waveform import WHOLE, Waveform, load_prepared, resample, write_wav
from triptych.training.config import STRICT, Positive
from triptych.training.files import atomic_file

Progress = Callable[[int, int, str], None]
"""done, total, note"""
OPUS_RATE = 24_000
"""Hz, one of the few that Opus takes"""


@config_dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """How much is judged, and by whom."""

    clips: Positive = 30
    """clips of the split, taken evenly; each section uses them, or the first of them"""
    split: Split = "test"
    """of the manifest; the cascade should not have been trained on it"""
    longest_seconds: float = 15.0
    """longer clips are left out"""
    codec_levels: tuple[int, ...] = ()
    """levels kept in turn in the section 'codec'; empty: 1 to all"""
    sentences: Positive = 30
    """texts to speak"""
    sentences_file: str = ""
    """a text a line; empty: the texts of the clips"""
    takes: Positive = 2
    """times that each text is spoken with another seed, to compare the voice between takes"""
    prompt_seconds: Annotated[float, Field(gt=0)] = 3.0
    """of a clip that is continued"""
    continued_seconds: Annotated[float, Field(gt=0)] = 7.0
    """asked of a continuation"""
    recogniser: str = "openai/whisper-base.en"
    """a folder or a hub id, as for 'score'; none: no word error"""
    speaker: str = "resemblyzer"
    """resemblyzer, or a folder or hub id of an x-vector model of transformers; none: no voice similarity"""
    naturalness: Literal["dnsmos", "none"] = "dnsmos"
    """a predictor of mean opinion scores"""
    language_model: str = "none"
    """a folder or a hub id of a causal language model of transformers, which reads what continuations say; none:
    nobody does"""
    pairs: tuple[str, ...] = ()
    """folders of likelihood tests, in the formats of ZeroSpeech 2021 or slamkit; 'make-pairs' makes such"""
    resamples: Positive = 2000
    """of the utterances, for the 95 % intervals"""
    seed: int = 0
    """of sampling and of resampling"""
    sections: tuple[str, ...] = ()
    """names of sections, such as codec,cost; empty: all that need not be asked for"""
    slots: Positive = 8
    """utterances that are made side by side, and heard so where the recogniser can; more take more memory"""
    samples: Annotated[int, Field(ge=0)] = 4
    """sounds a section that the page plays; 0: none"""


@dataclass(frozen=True)
class Evaluation:
    """All that a section works with."""

    cascade: Cascade
    manifest: Path
    settings: EvaluateConfig
    judges: Judges
    folder: Path
    """the report's"""
    progress: Progress

    @property
    def cache(self) -> Path:
        """What may be thrown away once the report is made."""
        return self.folder / "cache"

    @cached_property
    def recordings(self) -> tuple[Recording, ...]:
        """Everything in the manifest, all splits."""
        return tuple(read_manifest(self.manifest))

    @cached_property
    def clips(self) -> tuple[Recording, ...]:
        """Those that are judged: of the split, not too long, taken evenly over the order of the manifest.

        Raises:
            ValueError: there is none.
        """
        wanted, longest = self.settings.split, self.settings.longest_seconds
        fit = [i for i, r in enumerate(self.recordings) if r.split == wanted and r.seconds <= longest]
        if not fit:
            raise ValueError(f"{self.manifest} has no recording of the split '{wanted}' of {longest:g} s or less")
        return tuple(self.recordings[i] for i in evenly(fit, self.settings.clips))

    @cached_property
    def unheard(self) -> dict[str, str]:
        """Why clips cannot be heard, by their ids."""
        return {clip.id: why for clip in self.clips if (why := self.why_unheard(clip))}

    @cached_property
    def heard(self) -> tuple[Recording, ...]:
        """The clips that can be heard.

        Raises:
            ValueError: there is none.
        """
        found = tuple(clip for clip in self.clips if clip.id not in self.unheard)
        if not found:
            first, why = next(iter(self.unheard.items()))
            raise ValueError(
                f"{self.manifest}: none of its {len(self.clips)} judged clips can be heard; the first is {first}: {why}"
            )
        return found

    @property
    def left_out(self) -> str:
        """A sentence of the clips that cannot be heard; empty where there is none."""
        if not self.unheard:
            return ""
        first, why = next(iter(self.unheard.items()))
        return f" Of {len(self.clips)} clips, left out as they cannot be heard: {len(self.unheard)} ({first}: {why})."

    def why_unheard(self, recording: Recording) -> str:
        """Why a recording cannot be heard; empty where it can."""
        try:
            self.waveform(recording)
        except ValueError as error:
            return reason_of(error, recording)
        return ""

    @cached_property
    def trained_speakers(self) -> frozenset[str]:
        """Speakers of the manifest's split 'train': their voices are known to the cascade, if it was trained on it."""
        return frozenset(r.speaker for r in self.recordings if r.split == "train" and r.speaker)

    def group(self, recording: Recording) -> str:
        """Whose voice it is, as far as the manifest says: 'known voices', 'held-out voices', 'unnamed voices', and
        what its `origin` is ('known voices, human')."""
        known = recording.speaker is not None and recording.speaker in self.trained_speakers
        name = "known voices" if known else "held-out voices" if recording.speaker else "unnamed voices"
        origin = recording.custom.get("origin")
        return f"{name}, {origin}" if isinstance(origin, str) and origin else name

    def another(self, recording: Recording) -> Recording | None:
        """Another recording of the same speaker, of any split, the next in the manifest; None where there is none."""
        return self._next(recording, lambda other: other.speaker == recording.speaker) if recording.speaker else None

    def stranger(self, recording: Recording) -> Recording | None:
        """The next recording of another speaker; None where there is none."""
        return self._next(recording, lambda other: other.speaker not in (None, recording.speaker))

    def _next(self, recording: Recording, fits: Callable[[Recording], bool]) -> Recording | None:
        place = self.recordings.index(recording)
        turn = self.recordings[place + 1 :] + self.recordings[:place]
        fit = (r for r in turn if fits(r) and r.seconds <= self.settings.longest_seconds)
        return next((r for r in fit if not self.why_unheard(r)), None)

    def expected_seconds(self, text: str) -> float:
        """How long the semantic stage takes a text to be; 0 for a cascade without text."""
        front_end, stage = self.cascade.tokenizers.text, self.cascade.stages["semantic"][0]
        if front_end is None:
            return 0.0
        return float(stage.expected_frames(len(front_end.encode(text)))) / float(self.cascade.grid.semantic_rate)

    def waveform(self, recording: Recording) -> Waveform:
        """[N] at the cascade's rate, prepared as its tokenizers want it; not padded to a beat."""
        return load_prepared(recording.path, self.cascade.tokenizers.waveform, part_of(recording))

    def tokens(self, recording: Recording) -> Tokens:
        """Semantic tokens [T] and codes [Q, T'] of a clip, on the same beats."""
        tokenizers = self.cascade.tokenizers
        return tokenizers.tokens(tokenizers.prepare_file(recording.path, part_of(recording)))

    def file(self, recording: Recording) -> Path:
        """An audio file that is this clip and nothing else, for the cascade's doors that take a path."""
        if part_of(recording) == WHOLE:
            return recording.path
        path = self.cache / "parts" / f"{slug(recording.id)}.wav"
        if not path.exists():
            write_wav(path, self.waveform(recording), self.cascade.sample_rate)
        return path

    def make(self, key: str, maker: Callable[[], Utterance]) -> Utterance:
        """What `maker` makes; from the second time on, and after a kill, from its tokens on disk.

        Args:
            key: one of its kind in the report: section, utterance, take.
        """
        path = self._made(key)
        if path.exists():
            with np.load(path, allow_pickle=False) as kept:
                stages, spent = kept["stages"].tolist(), kept["seconds"].tolist()
                text = str(kept["text"]) if kept["text"].size else None
                shift = kept.get("shift")
                again = self.cascade.tokenizers.acoustic.decode(kept["codes"], shift)
                return Utterance(
                    again, self.cascade.sample_rate, kept["semantic"], kept["codes"], text,
                    dict(zip(stages, spent, strict=True)), tuple(kept["notes"].tolist()), shift,
                )  # fmt: skip
        made = maker()
        shift = {} if made.shift is None else {"shift": made.shift}
        with atomic_file(path) as beside:
            np.savez_compressed(
                beside,
                semantic=made.semantic,
                codes=made.codes,
                text=np.array([] if made.text is None else made.text),
                stages=np.array(list(made.seconds_by_stage), dtype=str),
                seconds=np.array(list(made.seconds_by_stage.values()), dtype=float),
                notes=np.array(list(made.notes), dtype=str),
                **shift,
            )
        return made

    def make_all(
        self, keys: Sequence[str], maker: Callable[[Sequence[int]], Iterator[Utterance]]
    ) -> Iterator[Utterance]:
        """`make` of each key, one after another; what is not on disk is made side by side, and kept as it comes.

        Args:
            maker: of utterances, by their places in `keys`.
        """
        made = maker([place for place, key in enumerate(keys) if not self.is_made(key)])
        return (self.make(key, partial(next, made)) for key in keys)

    def is_made(self, key: str) -> bool:
        """Whether `make` would find it on disk."""
        return self._made(key).exists()

    def _made(self, key: str) -> Path:
        return self.cache / "made" / f"{slug(key)}.npz"

    def keep(self, name: str, waveform: Waveform) -> str:
        """Writes a sound [N] for the page, as Ogg Opus, and returns its file relative to the report's folder."""
        import soundfile

        relative = f"samples/{slug(name)}.ogg"
        with atomic_file(self.folder / relative) as beside:
            loud = np.clip(resample(waveform, self.cascade.sample_rate, OPUS_RATE), -1.0, 1.0)
            soundfile.write(str(beside), loud, OPUS_RATE, format="OGG", subtype="OPUS")
        return relative

    def with_progress(self, progress: Progress) -> "Evaluation":
        return replace(self, progress=progress)


def slug(name: str) -> str:
    """A file name for any name: its letters and digits, and a few digits of its hash."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[-60:].strip("-")
    return f"{plain}-{sha256(name.encode()).hexdigest()[:8]}"
