"""A span on the time grid: a voice prompt (or none), then a crop of a clip. Coarse and fine rows are spans.

frames     |v v v v|v v|. . . . . . . . . .|
           two clips of     the target
           the same voice
"""

from dataclasses import dataclass

import numpy as np
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.stages.speech import Speech, Tokens, fit_length, join
from triptych.training.config import STRICT


@config_dataclass(frozen=True, config=STRICT)
class PromptConfig:
    """How a span is drawn in training, and what inference may ask for."""

    share: float = 0.7
    """share of the rows that begin with other recordings of the same speaker"""
    seconds: tuple[float, float] = (1.0, 4.0)
    """seconds of the shortest and the longest voice prompt"""
    max_seconds: float = 12.0
    """seconds of the longest row, prompt included; longer speech is made in windows of this length"""

    def __post_init__(self) -> None:
        low, high = self.seconds
        if not 0 <= low <= high < self.max_seconds:
            raise ValueError(
                f"prompt.seconds={low:g},{high:g} and prompt.max_seconds={self.max_seconds:g}: "
                "a prompt must leave room in the row for what follows"
            )

    def expected_beats(self, speech: Speech, index: int) -> int:
        """Length of a row of clip `index`, about."""
        prompt = speech.grid.beats(self.share * sum(self.seconds) / 2)
        return min(speech.grid.beats(self.max_seconds), speech.beats(index) + prompt)


@dataclass(frozen=True)
class Span:
    """Frames of which the first ones are given."""

    semantic: Tokens
    """[T]"""
    codes: Tokens
    """[levels, T'] of the same time"""
    prompt: int
    """codec frames of the voice prompt"""
    deaf: bool = False
    """the semantic tokens are not told: what the codes would be by themselves"""


def draw_span(
    speech: Speech, index: int, rng: np.random.Generator, levels: int, config: PromptConfig, given: str | None
) -> Span:
    """A row of clip `index` with the first `levels` levels; `given` as in `Stage.row`, here "semantic" or "prompt"."""
    low, high = (speech.grid.beats(seconds) for seconds in config.seconds)
    prompted = rng.random() < config.share or given is not None
    prompt = speech.voice_prompt(index, rng, (low, high), swap=given == "prompt") if prompted else []
    prompt_semantic, prompt_codes = join(prompt, levels)
    taken = len(prompt_semantic) // speech.grid.semantic_per_beat
    clip = speech.crop(index, speech.grid.beats(config.max_seconds) - taken, rng)
    semantic = clip.semantic
    if given == "semantic":
        semantic = fit_length(speech.clip(speech.stranger(index)).semantic, len(semantic))
    return Span(
        np.concatenate([prompt_semantic, semantic]),
        np.concatenate([prompt_codes, clip.codes[:levels]], axis=1),
        prompt_codes.shape[1],
    )
