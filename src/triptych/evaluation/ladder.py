"""The same utterance with more and more of the truth in it: what the cascade doctor listens to.

    rung                     semantic tokens   coarse codes   fine codes    waveform
    all generated            stage 1           stage 2        stage 3       codec       ┐ semantic
    true semantic tokens     the clip's        stage 2        stage 3       codec       ┤ coarse
    true coarse codes        the clip's        the clip's     stage 3       codec       ┤ fine
    codec alone              the clip's        the clip's     the clip's    codec       ┤ codec
    recording                                                               the clip's  ┘

What is lost between two rungs is the loss of the part named at their border. The voice prompt and the seed are the same
on all rungs. Where the cascade leaves the fine stage out (`levels`), its loss is that of the levels that nobody makes.
Knows no judge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.held_out import HeldOut
from triptych.evaluation.subject import Evaluation
from triptych.stages.bundle import Voice
from triptych.stages.cascade import Cascade
from triptych.stages.request import Request, Settings, Utterance, cut
from triptych.stages.together import Draft, utter_all

PARTS = ("semantic", "coarse", "fine", "codec")
GENERATED, SEMANTIC, COARSE, CODES, RECORDING = RUNGS = (
    "all generated",
    "true semantic tokens",
    "true coarse codes",
    "codec alone",
    "recording",
)


@dataclass(frozen=True)
class Utterer:
    """One clip, and what all its rungs have in common."""

    name: str
    text: str | None
    semantic: NDArray[np.uint16]
    """[T]"""
    codes: NDArray[np.uint16]
    """[Q, T']"""
    voice: Voice
    """the prompt"""
    prompt: str | None
    """whose name is this; None: it is the beginning of the clip itself, its speaker having no other recording here"""
    seed: int


def utterer(evaluation: Evaluation, clips: HeldOut, row: int, number: int) -> Utterer:
    """Clip `row`, with another recording of its speaker as the prompt where there is one."""
    speech, settings = clips.speech, evaluation.cascade.settings
    other = speech.other(row, np.random.default_rng(0))
    clip, said = speech.clip(row), speech.shards.row(row)
    if other is None:
        whole = Voice(clip.semantic, clip.codes, None)
        voice = cut(whole, min(speech.grid.beats(settings.prompt_seconds), max(1, speech.beats(row) // 2)), speech.grid)
    else:
        said_before = speech.clip(other)
        voice = Voice(said_before.semantic, said_before.codes, speech.shards.row(other).text)
    seed = evaluation.settings.seed + number
    prompt = None if other is None else clips.name(other)
    return Utterer(said.id, said.text, clip.semantic, clip.codes, voice, prompt, seed)


def make_rung(cascade: Cascade, name: str, clips: Sequence[Utterer], slots: int) -> Iterator[Utterance]:
    """A rung but the recording, of clips that can have it, one after another; up to `slots` are made at a time."""
    seeds = [clip.seed for clip in clips]
    if name == GENERATED:
        texts, voices = [str(clip.text) for clip in clips], [clip.voice for clip in clips]
        return cascade.speak_all(texts, voices=voices, seeds=seeds, slots=slots)
    jobs = (Request(cascade, replace(cascade.settings, seed=seed)) for seed in seeds)
    if name == CODES:
        return (job.decode(clip.semantic, clip.codes) for job, clip in zip(jobs, clips, strict=True))
    drafts = (
        Draft(job, clip.semantic, clip.voice, coarse=clip.codes if name == COARSE else None)
        for job, clip in zip(jobs, clips, strict=True)
    )
    return utter_all(drafts, slots)


def cannot_make(cascade: Cascade, name: str, clip: Utterer) -> str:
    """Why a clip cannot have a rung: the semantic stage has nothing to say; '' where it can."""
    if name != GENERATED:
        return ""
    if cascade.tokenizers.text is None:
        return "this cascade has no text front end"
    return "" if clip.text and clip.text.strip() else "no text"


def fine_levels_made(cascade: Cascade, settings: Settings) -> int:
    """Codec levels that the fine stage makes, as this cascade is sampled."""
    all_levels = cascade.tokenizers.acoustic.spec.levels
    return (settings.levels or all_levels) - int(cascade.stages["fine"][0].config.coarse_levels)
