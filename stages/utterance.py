"""What is asked of a cascade and what it gives: how it is sampled, what was said, and how long each stage took.

Knows no stage.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.lm.sampling import Sampling
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import STRICT

if TYPE_CHECKING:
    from triptych.stages.request import Request


@config_dataclass(frozen=True, config=STRICT)
class Settings:
    """How a cascade is sampled."""

    seed: Annotated[int, Field(ge=-(2**60), le=2**60)] = 0
    """each stage has a stream of its own; the same seed gives the same sound on the same machine type"""
    semantic: Sampling = Sampling(temperature=0.7, top_p=0.9)
    """of the semantic stage"""
    coarse: Sampling = Sampling(temperature=0.8)
    """of the coarse stage"""
    fine: Sampling = Sampling(temperature=0.0)
    """of the fine stage"""
    semantic_takes: Annotated[int, Field(ge=1, le=32)] = 1
    """takes of what is said, at most: where the tokenizer's own CTC does not surely read the text in the tokens of the
    first, that of all is kept in which it reads it best. For tokens that know phonemes (`fit semantic phonemes=`)"""
    takes: Annotated[int, Field(ge=1, le=32)] = 1
    """takes of the coarse stage, window by window: the one is kept in whose sound the semantic tokenizer hears most of
    the tokens that were asked for. Each costs a pass of the codec and of the tokenizer; the stage itself makes them
    side by side"""
    levels: int = 0
    """codec levels that are made and heard, the coarse ones at least; 0: all. Fewer are faster, and clearer where the
    fine stage has learned little"""
    expected_levels: Annotated[int, Field(ge=0)] = 0
    """the last so many coarse levels are heard as the mean of their entries, each as likely as the stage finds it, and
    not as the entry that was drawn: less noise. Acts where no level of the fine stage is heard (`levels`)"""
    prompt_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3.0
    """seconds of a voice prompt that the coarse and fine stages hear"""
    shortest: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """share of the length that the text should take: speech is no shorter"""
    longest: Annotated[float, Field(gt=0, le=100)] = 2.0
    """share likewise: speech is no longer, but for a second"""
    rate: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    """speed of speech, 0.5 to 2: its semantic tokens are stretched or left out evenly"""
    first_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """seconds of the first window of the coarse and fine stages, each one after it twice as long; 0: as long as
    training rows. Short ones let a stream sound earlier"""

    def __post_init__(self) -> None:
        for name, sampling in (("coarse", self.coarse), ("fine", self.fine)):
            if sampling.longest_run or sampling.no_repeat_ngram:
                raise ValueError(f"{name}: longest_run and no_repeat_ngram act on semantic tokens alone")
        if self.fine.guidance != 1.0:
            raise ValueError("fine.guidance: the fine stage has none; leave it at 1")


@dataclass(frozen=True)
class Utterance:
    """What a cascade made; its tokens and its waveform cover the same time."""

    waveform: Waveform
    """[N] mono"""
    sample_rate: int
    """Hz"""
    semantic: NDArray[np.uint16]
    """[T]"""
    codes: NDArray[np.uint16]
    """[Q, T']"""
    text: str | None = None
    """what was to be said"""
    seconds_by_stage: Mapping[str, float] = field(default_factory=dict)
    """work, per stage"""
    notes: tuple[str, ...] = ()
    """what a listener should know: a prompt cut short, a length limit reached"""
    shift: NDArray[np.float32] | None = None
    """[D, T'] that the codec added to the latent of the codes, where `expected_levels` says so"""

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


class Clock:
    """Adds the seconds of a `with` block to a stage."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.began


def share_time(name: str, jobs: "Sequence[Request]", made: Sequence[int]) -> None:
    """Seconds that a stage worked for all `jobs`, on the clock of the first, shared out by what it made for each."""
    seconds = jobs[0].seconds.pop(name, 0.0)
    for job, part in zip(jobs, made, strict=True):
        job.seconds[name] = job.seconds.get(name, 0.0) + seconds * part / max(1, sum(made))
