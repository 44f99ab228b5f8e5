"""What a stage sounds like while it trains: held-out clips, made anew by the stage, for TensorBoard's audio tab.

coarse    true semantic tokens, its own start as prompt ──▶ coarse levels ──codec──▶ sound
fine      true coarse codes ──▶ all levels ──codec──▶ sound
semantic  the clip's text ──▶ semantic tokens ──coarse and fine stage of a bundle──▶ sound
"""

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from triptych.lm.sampling import Sampling
from triptych.stages.bundle import read_bundle
from triptych.stages.cascade import Cascade
from triptych.stages.coarse.generate import generate_coarse
from triptych.stages.fine.generate import generate_fine
from triptych.stages.span import Span
from triptych.stages.speech import Speech
from triptych.stages.stage import Stage
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.spec import check_same
from triptych.training.run import RunFolder

CLIPS = 2
PROMPT_SECONDS = 1.5


class Listener:
    """Speaks two held-out clips.

    Args:
        source: a folder of tokenizers, for coarse and fine; or a bundle, for any stage.
    Raises:
        ValueError: another codec than that of the shards, or no bundle for the semantic stage.
    """

    def __init__(self, source: Path, stage: Stage, held_out: Speech) -> None:
        self.stage, self.held_out = stage, held_out
        self.clips = [index for index in held_out.indices if held_out.text_length(index)][:CLIPS]
        self.cascade: Cascade | None = None
        if stage.name == "semantic":
            read_bundle(source)
            self.cascade = Cascade.load(source)
            self.codec = self.cascade.tokenizers.acoustic
        else:
            inside = source / "tokenizers" / "acoustic"
            self.codec = AcousticTokenizer.load(inside if inside.is_dir() else source / "acoustic")
        check_same(stage.specs.acoustic, self.codec.spec, "these shards")

    def __call__(self, step: int, run: RunFolder, model: Any) -> None:
        for number, index in enumerate(self.clips):
            waveform = self.codec.decode(self._codes(index, model))
            run.sound(
                step, f"{self.stage.name}_{number}", torch.from_numpy(waveform.copy()), self.codec.spec.sample_rate
            )

    def _codes(self, index: int, model: Any) -> NDArray[Any]:
        if self.cascade is not None:
            self.cascade.replace("semantic", self.stage, model)
            return self.cascade.speak(str(self.held_out.shards.row(index).text)).codes
        clip = self.held_out.clip(index)
        start = self.held_out.clip(index, 0, self.held_out.grid.beats(PROMPT_SECONDS))
        prompt = Span(start.semantic, start.codes, start.codes.shape[1])
        stream = torch.Generator().manual_seed(int(index))
        stage: Any = self.stage
        if stage.name == "coarse":
            return generate_coarse(stage, model, clip.semantic, prompt, Sampling(temperature=0.8), stream)
        coarse = clip.codes[: stage.config.coarse_levels]
        return generate_fine(stage, model, coarse, prompt, Sampling(temperature=0.0), stream)
