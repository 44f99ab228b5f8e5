"""What a stage sounds like while it trains: held-out clips, made anew by the stage, for TensorBoard's audio tab; and
whether the tokens that were asked for can be heard in them.

coarse    true semantic tokens, another clip's voice    ──▶ coarse levels ──codec──▶ sound ──semantic tokenizer──▶ edits
fine      true coarse codes ──▶ all levels ──codec──▶ sound ──semantic tokenizer──▶ edits
semantic  the clip's text ──▶ semantic tokens ──coarse and fine stage of a bundle──▶ sound

A held-out loss is of true pasts. A stage that drifts away on its own past loses words while that loss falls; its edits
rise. Knows no text and no recogniser.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.lm.decode import run as decode
from triptych.lm.sampling import Sampling
from triptych.stages.bundle import check_stage, read_bundle
from triptych.stages.cascade import Cascade
from triptych.stages.coarse.generate import CoarseWork, coarse_rule
from triptych.stages.fine.generate import generate_fine
from triptych.stages.span import Span
from triptych.stages.speech import Speech, join
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.semantic.ctc import edits_a_run
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.spec import check_same
from triptych.training.distributed import rank, reached, sum_metrics, world
from triptych.training.run import RunFolder
from triptych.training.step import add_metric

CLIPS = 2
"""that are kept as sound"""
HEARD = 16
"""in which the tokens are listened for"""
PROMPT_SECONDS = 3.0
SAMPLING = {"coarse": Sampling(temperature=0.5), "fine": Sampling(temperature=0.0)}
ROWS = 8
"""that the coarse stage makes side by side"""


class Listener:
    """Speaks held-out clips, where they are listened to each rank its own; the first ones can be heard.

    Args:
        source: a folder of tokenizers, for coarse and fine; or a bundle, for any stage.
    Raises:
        ValueError: other tokenizers than those of the shards, or no bundle for the semantic stage.
    """

    def __init__(self, source: Path, stage: Any, held_out: Speech) -> None:
        self.stage, self.held_out = stage, held_out
        self.cascade: Cascade | None = None
        self.ear: SemanticTokenizer | None = None
        if stage.name == "semantic":
            read_bundle(source)
            self.cascade = Cascade.load(source)
            self.codec = self.cascade.tokenizers.acoustic
            check_stage("semantic", stage, self.cascade.tokenizers.specs, self.cascade.grid, source)
            clips = [index for index in held_out.indices if held_out.text_length(index)]
        else:
            folder = source / "tokenizers" if (source / "tokenizers").is_dir() else source
            self.codec = AcousticTokenizer.load(folder / "acoustic")
            self.ear = self._ear(folder / "semantic")
            clips = [index for index in held_out.indices if held_out.beats(index)]
        check_same(stage.specs.acoustic, self.codec.spec, "these shards")
        wanted = HEARD if self.ear else CLIPS
        self.clips = clips[:: max(1, len(clips) // wanted)][:wanted]
        if self.ear:  # else rank 0 keeps what it made, and nothing is counted
            self.clips = self.clips[rank() :: world()]
        self.true: list[float] | None = None

    def _ear(self, folder: Path) -> SemanticTokenizer | None:
        """What listens for the tokens. The fine stage never reads any: of other ones, it is only heard."""
        if not folder.is_dir():
            return None
        ear = SemanticTokenizer.load(folder)
        if self.stage.name == "fine" and ear.spec.fingerprint != self.stage.specs.semantic.fingerprint:
            return None
        check_same(self.stage.specs.semantic, ear.spec, "these shards")
        return ear

    def __call__(self, step: int, run: RunFolder, model: Any) -> dict[str, float]:
        """Sounds for TensorBoard. Returns `edits`: a run of equal semantic tokens that was asked for, how many of them
        are other ones in what is heard; mean over the clips of all ranks, nothing for the semantic stage.
        `edits_true`: the same of the clips' own codes, as many levels: what codec and tokenizer lose by themselves."""
        reached("what is heard of a validation")
        made = self._codes(model)
        with torch.autocast("cpu", enabled=False):  # codec and tokenizer lie there, whatever the stage is trained in
            sounds = [self.codec.decode(codes) for codes in made]
            for number, sound in enumerate(sounds[:CLIPS]):
                told = torch.from_numpy(sound.copy())
                run.sound(step, f"{self.stage.name}_{number}", told, self.codec.spec.sample_rate)
            if self.ear is None:
                return {}
            if self.true is None:
                clips = map(self.held_out.clip, self.clips)
                own = [clip.codes[: len(codes)] for clip, codes in zip(clips, made, strict=True)]
                self.true = self._edits([self.codec.decode(codes) for codes in own])
            heard = {"edits": self._edits(sounds), "edits_true": self.true}
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        for name, found in heard.items():
            add_metric(sums, weights, name, sum(found) / max(1, len(found)), float(len(found)))
        return sum_metrics(sums, weights)

    def _edits(self, sounds: Sequence[NDArray[Any]]) -> list[float]:
        assert self.ear is not None
        heard = self.ear.encode(sounds, self.codec.spec.sample_rate)
        meant = (self.held_out.clip(index).semantic for index in self.clips)
        return [edits_a_run(tokens, wanted) for tokens, wanted in zip(heard, meant, strict=True)]

    def _codes(self, model: Any) -> list[NDArray[Any]]:
        """Codes [levels, T'] of each clip."""
        if self.cascade is not None:
            self.cascade.replace("semantic", self.stage, model)
            texts = [str(self.held_out.shards.row(index).text) for index in self.clips]
            with torch.autocast("cpu", enabled=False):
                return [self.cascade.speak(text).codes for text in texts]
        stage: Any = self.stage
        sampling, streams = SAMPLING[stage.name], [torch.Generator().manual_seed(int(i)) for i in self.clips]
        clips, prompts = [self.held_out.clip(index) for index in self.clips], [self._prompt(i) for i in self.clips]
        if stage.name == "fine":
            return [
                generate_fine(stage, model, clip.codes[: stage.config.coarse_levels], prompt, sampling, stream)
                for clip, prompt, stream in zip(clips, prompts, streams, strict=True)
            ]
        none = np.zeros((stage.config.levels, 0), np.uint16)
        works = [
            CoarseWork(stage, prompt, sampling, stream, none, semantic=clip.semantic, ended=True)
            for clip, prompt, stream in zip(clips, prompts, streams, strict=True)
        ]
        rule = coarse_rule(model)
        for _ in decode(rule, [work.job(rule) for work in works], ROWS):
            pass
        return [work.made for work in works]

    def _prompt(self, index: int) -> Span:
        """The voice: another recording of the speaker, always the same; none where there is none."""
        beats = self.held_out.grid.beats(min(PROMPT_SECONDS, self.stage.config.prompt.seconds[1]))
        voice = self.held_out.voice_prompt(index, np.random.default_rng(int(index)), (beats, beats))
        semantic, codes = join(voice, self.stage.specs.acoustic.levels)
        return Span(semantic, codes, codes.shape[1])
