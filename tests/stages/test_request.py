"""What a request cannot be asked for is refused when it is made, before any stage has worked for nothing."""

from dataclasses import replace
from typing import Any

import pytest

from triptych.lm.sampling import Sampling
from triptych.stages.cascade import Cascade
from triptych.stages.request import Request, Settings


def test_guards_against_loops_are_of_the_semantic_stage() -> None:
    Settings(semantic=Sampling(longest_run=3, guidance=2.0), coarse=Sampling(guidance=2.0))
    for wrong in ({"coarse": Sampling(longest_run=3)}, {"fine": Sampling(guidance=2.0)}):
        with pytest.raises(ValueError, match=r"act on semantic|has none"):
            Settings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_seconds": -1.0},
        {"shortest": float("nan")},
        {"longest": float("inf")},
        {"seed": 2**63},
        {"first_seconds": float("inf")},
    ],
)
def test_settings_that_no_stage_could_follow_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


def test_guidance_that_a_layout_has_not_is_refused_before_a_stage_works() -> None:
    cascade = Cascade.load()
    stage, model = cascade.stages["coarse"]
    other = replace(stage, config=replace(stage.config, layout="flattened", semantic_drop=0.0))
    flat = Cascade(cascade.tokenizers, {**cascade.stages, "coarse": (other, model)}, {}, cascade.settings)
    plain = replace(cascade.settings, expected_levels=0, coarse=replace(cascade.settings.coarse, guidance=1.0))
    assert Request(flat, plain).seconds == {}
    with pytest.raises(ValueError, match=r"coarse\.guidance: .* leave it at 1"):
        Request(flat, replace(plain, coarse=replace(plain.coarse, guidance=1.5)))
