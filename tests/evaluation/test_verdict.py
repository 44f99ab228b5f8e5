"""Which part loses most: differences are of the same utterances, and what was not measured counts for nothing."""

import numpy as np
import pytest

from triptych.evaluation.report import Values
from triptych.evaluation.verdict import Losses, losses, verdict

PARTS = ("semantic", "coarse", "fine", "codec")


def rungs(rng: np.random.Generator, *means: float, clips: int = 20, noise: float = 0.02) -> list[Values]:
    """Values on each rung; an utterance that is hard is so on all of them."""
    hard = rng.normal(0, 0.3, clips)
    return [{f"u{u}": (mean + hard[u] + rng.normal(0, noise), 1.0) for u in range(clips)} for mean in means]


@pytest.mark.parametrize("worst", range(4))
def test_the_part_with_the_largest_loss_is_named(rng: np.random.Generator, worst: int) -> None:
    steps = np.full(4, 0.05)
    steps[worst] = 0.4
    means = [float(steps[place:].sum()) for place in range(5)]  # word error: less is better
    found = losses(rungs(rng, *means), PARTS, 1.0, rising=False, least=0.1)
    assert found is not None
    said = verdict({"words": found}, PARTS, 200, 0)
    assert said.part == PARTS[worst] and said.sure == 1.0
    assert said.shares[PARTS[worst]].mean == pytest.approx(0.4 / found.range, abs=0.05)


def test_what_falls_when_more_is_better_is_a_loss_too(rng: np.random.Generator) -> None:
    found = losses(rungs(rng, 0.5, 0.8, 0.8, 0.8, 0.9), PARTS, 0.2, rising=True, least=0.1)
    assert found is not None
    said = verdict({"voice": found}, PARTS, 100, 0)
    assert said.part == "semantic" and said.shares["fine"].mean == pytest.approx(0, abs=0.05)


def test_differences_within_chance_name_nobody(rng: np.random.Generator) -> None:
    found = losses(rungs(rng, 0.3, 0.3, 0.3, 0.3, 0.3, clips=6, noise=0.2), PARTS, 1.0, rising=False, least=0.1)
    assert found is not None
    assert verdict({"words": found}, PARTS, 200, 0).part is None


def test_utterances_are_compared_with_themselves(rng: np.random.Generator) -> None:
    """The interval is that of differences, which is far narrower than the spread of the utterances."""
    found = losses(rungs(rng, 0.5, 0.4, 0.3, 0.2, 0.1), PARTS, 1.0, rising=False, least=0.1)
    assert found is not None
    share = verdict({"words": found}, PARTS, 300, 0).shares["coarse"]
    assert share.low is not None and share.high is not None
    assert share.high - share.low < 0.1 < 0.3 / found.range


def test_a_rung_that_was_not_measured_counts_for_nothing(rng: np.random.Generator) -> None:
    values = rungs(rng, 0.9, 0.6, 0.2, 0.2, 0.1)
    values[0] = {}
    found = losses(values, PARTS, 1.0, rising=False, least=0.1)
    assert found is not None and not found.parts["semantic"]
    said = verdict({"words": found}, PARTS, 100, 0)
    assert "semantic" not in said.shares and said.part == "coarse"


def test_nothing_can_be_lost_where_another_recording_is_as_good(rng: np.random.Generator) -> None:
    assert losses(rungs(rng, 0.5, 0.4, 0.3, 0.2, 0.1), PARTS, 0.05, rising=False, least=0.1) is None
    assert losses([{}, {}, {}, {}, {}], PARTS, 1.0, rising=False, least=0.1) is None
    assert verdict({}, PARTS, 10, 0).part is None


def alike(loss: float, clips: int = 6) -> Values:
    return {f"u{u}": (loss, 1.0) for u in range(clips)}


@pytest.mark.parametrize("clips", [1, 5])
def test_too_few_clips_name_nobody(clips: int) -> None:
    found = {"words": Losses({"semantic": alike(0.4, clips), "coarse": alike(0.0, clips)}, 1.0)}
    said = verdict(found, PARTS[:2], 10, 0)
    assert said.part is None and said.shares["semantic"].mean == pytest.approx(0.4)


def test_weights_decide_between_measures() -> None:
    words = Losses({"semantic": alike(0.4), "coarse": alike(0.0)}, 1.0, weight=2.0)
    voice = Losses({"semantic": alike(0.0), "coarse": alike(0.6)}, 1.0)
    said = verdict({"words": words, "voice": voice}, PARTS[:2], 10, 0)
    assert said.part == "semantic"
    assert said.shares["semantic"].mean == pytest.approx(0.8 / 3)
    assert said.shares["coarse"].mean == pytest.approx(0.2)
