"""How each stage of a cascade decodes: its weights, packed at the first use for the machine and the precision.

Invariant: follows the models that the cascade has at the moment; a stage that was exchanged is packed anew. Knows no
request.
"""

from collections.abc import Mapping
from typing import Any

from triptych.lm.blocks import Precision
from triptych.stages.coarse.generate import coarse_rule
from triptych.stages.fine.generate import with_half_products
from triptych.stages.semantic.generate import semantic_rule
from triptych.training.precision import has_bf16


class Rules:
    """Of the stages, by name: (stage, model) each."""

    def __init__(self, stages: Mapping[str, tuple[Any, Any]], precision: Precision) -> None:
        self.stages, self.precision = stages, precision
        self._known: dict[str, Any] = {}

    def of(self, stage: str, steps: int = 0) -> Any:
        """The rule of the semantic or the coarse stage.

        Args:
            steps: about to be made; where the work is long, a GPU's step is compiled first (see lm/engine.py).
        """
        model = self.stages[stage][1]
        known = self._known.get(stage)
        longer = known is not None and known[1].engine.tier == "static" and steps > known[2]
        if known is None or known[0] is not model or longer:
            make: Any = semantic_rule if stage == "semantic" else coarse_rule
            self._known[stage] = known = (model, make(model, self.precision, steps), steps)
        return known[1]

    def forget(self, stage: str) -> None:
        """Packed weights of a stage, which may have learned since."""
        self._known.pop(stage, None)

    @property
    def fine_model(self) -> Any:
        """The fine stage's model; its products are in bfloat16 where fewer bits are asked for and can be had."""
        model = self.stages["fine"][1]
        if self.precision == "fp32" or not has_bf16(model.flag.weight.device):
            return model
        known = self._known.get("fine")
        if known is None or known[0] is not model:
            self._known["fine"] = known = (model, with_half_products(model))
        return known[1]
