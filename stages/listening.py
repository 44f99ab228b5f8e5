"""What a stage sounds like while it trains: held-out clips, made anew by the stage, for TensorBoard's audio tab; and
whether the tokens that were asked for can be heard in them.

coarse    true semantic tokens, its own start as prompt ──▶ coarse levels ──codec──▶ sound ──semantic tokenizer──▶ edits
fine      true coarse codes ──▶ all levels ──codec──▶ sound ──semantic tokenizer──▶ edits
semantic  the clip's text ──▶ semantic tokens ──coarse and fine stage of a bundle──▶ sound

A held-out loss is of true pasts. A stage that drifts away on its own past loses words while that loss falls; its edits
rise. Knows no text and no recogniser.
"""

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from triptych.lm.decode import run as decode
from triptych.lm.sampling import Sampling
from triptych.stages.bundle import read_bundle
from triptych.stages.cascade import Cascade
from triptych.stages.coarse.generate import CoarseWork, coarse_rule
from triptych.stages.fine.generate import generate_fine
from triptych.stages.span import Span
from triptych.stages.speech import Clip, Speech
from triptych.stages.stage import Stage
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.semantic.ctc import edits_a_run
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.spec import check_same
from triptych.training.run import RunFolder

CLIPS = 2
"""that are kept as sound"""
HEARD = 16
"""in which the tokens are listened for"""
PROMPT_SECONDS = 1.5
SAMPLING = {"coarse": Sampling(temperature=0.5), "fine": Sampling(temperature=0.0)}
ROWS = 8
"""that the coarse stage makes side by side"""


class Listener:
    """Speaks held-out clips.

    Args:
        source: a folder of tokenizers, for coarse and fine; or a bundle, for any stage.
    Raises:
        ValueError: other tokenizers than those of the shards, or no bundle for the semantic stage.
    """

    def __init__(self, source: Path, stage: Stage, held_out: Speech) -> None:
        self.stage, self.held_out = stage, held_out
        self.cascade: Cascade | None = None
        self.ear: SemanticTokenizer | None = None
        if stage.name == "semantic":
            read_bundle(source)
            self.cascade = Cascade.load(source)
            self.codec = self.cascade.tokenizers.acoustic
            self.clips = [index for index in held_out.indices if held_out.text_length(index)][:CLIPS]
        else:
            folder = source / "tokenizers" if (source / "tokenizers").is_dir() else source
            self.codec = AcousticTokenizer.load(folder / "acoustic")
            if (folder / "semantic").is_dir():
                self.ear = SemanticTokenizer.load(folder / "semantic")
                check_same(stage.specs.semantic, self.ear.spec, "these shards")
            whole = [index for index in held_out.indices if held_out.beats(index)]
            self.clips = whole[:: max(1, len(whole) // HEARD)][:HEARD]
        self.true: float | None = None
        check_same(stage.specs.acoustic, self.codec.spec, "these shards")

    def __call__(self, step: int, run: RunFolder, model: Any) -> dict[str, float]:
        """Sounds for TensorBoard. Returns `edits`: a run of equal semantic tokens that was asked for, how many of them
        are other ones in what is heard; mean over clips, nothing for the semantic stage. `edits_true`: the same of the
        clips' own codes, as many levels: what codec and tokenizer lose by themselves."""
        rate = self.codec.spec.sample_rate
        every = self._codes(model)
        sounds = [self.codec.decode(codes) for codes in (every if self.ear else every[:CLIPS])]
        for number, sound in enumerate(sounds[:CLIPS]):
            run.sound(step, f"{self.stage.name}_{number}", torch.from_numpy(sound.copy()), rate)
        if self.ear is None:
            return {}
        clips = [self.held_out.clip(index) for index in self.clips]
        if self.true is None:
            levels = len(every[0])
            self.true = self._edits(clips, [self.codec.decode(clip.codes[:levels]) for clip in clips])
        return {"edits": self._edits(clips, sounds), "edits_true": self.true}

    def _edits(self, clips: list[Clip], sounds: list[Any]) -> float:
        assert self.ear is not None
        heard = self.ear.encode(sounds, self.codec.spec.sample_rate)
        found = [edits_a_run(tokens, clip.semantic) for tokens, clip in zip(heard, clips, strict=True)]
        return sum(found) / len(found)

    def _codes(self, model: Any) -> list[NDArray[Any]]:
        """Codes [levels, T'] of each clip."""
        if self.cascade is not None:
            self.cascade.replace("semantic", self.stage, model)
            return [self.cascade.speak(str(self.held_out.shards.row(index).text)).codes for index in self.clips]
        clips = [self.held_out.clip(index) for index in self.clips]
        beats = self.held_out.grid.beats(PROMPT_SECONDS)
        starts = [self.held_out.clip(index, 0, beats) for index in self.clips]
        prompts = [Span(start.semantic, start.codes, start.codes.shape[1]) for start in starts]
        streams = [torch.Generator().manual_seed(int(index)) for index in self.clips]
        stage: Any = self.stage
        sampling = SAMPLING[stage.name]
        if stage.name == "coarse":
            none = clips[0].codes[: stage.config.levels, :0]
            works = [
                CoarseWork(stage, prompt, sampling, stream, none, semantic=clip.semantic, ended=True)
                for clip, prompt, stream in zip(clips, prompts, streams, strict=True)
            ]
            rule = coarse_rule(model)
            for _ in decode(rule, [work.job(rule) for work in works], ROWS):
                pass
            return [work.made for work in works]
        return [
            generate_fine(stage, model, clip.codes[: stage.config.coarse_levels], prompt, sampling, stream)
            for clip, prompt, stream in zip(clips, prompts, streams, strict=True)
        ]
