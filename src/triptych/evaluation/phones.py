"""Which phone sounds when: forced alignment of a text, by the CTC of an encoder, or by that of a probe on tokens.

    log-probabilities [S, C + 1] and text [L] ─▶ align ─▶ spread over blanks nearby ─▶ read at each frame: phones [T]

A frame far from every phone (a pause) has -1. CTC says each phone in one or two steps somewhere in it, so borders are
known to some 40 ms only. Knows no tokens.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.tokens import Ids
from triptych.tokenizers.semantic.ctc import TextClasses, align, ctc_fits, spread
from triptych.tokenizers.semantic.ctc_head import CtcHead
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.waveform import Waveform

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer

REACH_SECONDS = 0.1
"""a phone is not spread farther than this from where CTC says it"""


def phones_of_frames(
    log_probabilities: NDArray[np.float32],
    text: Ids,
    blank: int,
    frames: int,
    steps_per_frame: float,
    frame_rate: float,
) -> Ids:
    """[frames]: the class that sounds in each, -1 where none is known, or where the text does not fit.

    Args:
        log_probabilities: [S, C + 1] of CTC, whose steps are `steps_per_frame` as many as the frames.
        frame_rate: Hz
    """
    if not frames or not ctc_fits(text, len(log_probabilities)):
        return np.full(frames, -1, dtype=np.int64)
    reach = round(REACH_SECONDS * frame_rate * steps_per_frame)
    near = spread(align(log_probabilities, text, blank), reach)
    steps = np.minimum(((np.arange(frames) + 0.5) * steps_per_frame).astype(np.int64), len(near) - 1)
    return np.where(near[steps] >= 0, text[near[steps]], -1)


class CtcAligner:
    """An encoder that was trained here with CTC, whole.

    Raises:
        ValueError: no such encoder, or one without CTC.
    """

    def __init__(self, folder: Path, text: "TextTokenizer", device: str = "cpu") -> None:
        head = CtcHead.load(folder)
        if head is None:
            raise ValueError(f"{folder} has no ctc.json: an aligner is an encoder of 'triptych fit encoder --text'")
        self.head, self.text = head, text
        self.classes = TextClasses.named(text, head.classes)
        self.encoder = Encoder.load(folder, head.layer, device=device)

    def phones(self, waveform: Waveform, words: str, frames: int, frame_rate: float) -> Ids:
        """Of a waveform [N] at 16 kHz: [frames], at `frame_rate` Hz, the class that sounds in each."""
        try:
            said = self.classes.encode(self.text, words)
        except ValueError:  # the front end cannot say it
            return np.full(frames, -1, dtype=np.int64)
        heard = self.head.log_probabilities(self.encoder.features([waveform])[0]).numpy()
        steps_per_frame = SAMPLE_RATE / self.encoder.hop * self.head.steps / frame_rate
        return phones_of_frames(heard, said, self.head.blank, frames, steps_per_frame, frame_rate)
