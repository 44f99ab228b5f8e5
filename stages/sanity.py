"""What the first loss says, before a step is taken.

A model with random weights knows nothing: its loss is log V, whatever the data. Less says that it sees what it is to
predict; more, that its initial weights are too large. Knows no data.
"""

import math
from collections.abc import Mapping

from triptych.stages.coarse.sequence import CoarseStage, Flattening
from triptych.stages.semantic.sequence import SemanticStage
from triptych.stages.three import AnyStage

TOLERANCE = 0.1
"""share of log V by which a first loss may differ"""


def alphabet(stage: AnyStage) -> int:
    """V: among how many ids each prediction of `stage` chooses."""
    if isinstance(stage, SemanticStage):
        return stage.layout.vocabulary.size
    if isinstance(stage, CoarseStage) and stage.config.layout == "flattened":
        return Flattening.of(stage.config, stage.specs).vocabulary.size
    return stage.specs.acoustic.size


def first_loss_is_wrong(stage: AnyStage, values: Mapping[str, float]) -> str | None:
    """What is wrong with the loss of a new model, in one line; None: nothing."""
    expected, found = math.log(alphabet(stage)), values["loss"]
    if abs(found - expected) <= TOLERANCE * expected:
        return None
    why = (
        "its initial weights are too large" if found > expected else "it sees what it is to predict, by a wrong offset"
    )
    return f"the first loss of the {stage.name} stage is {found:.2f}, and log V is {expected:.2f}: {why}"
