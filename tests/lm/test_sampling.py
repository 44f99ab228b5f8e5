import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.lm.loss import accuracy, cross_entropy, illegal_mass
from triptych.lm.sampling import RepetitionGuard, Sampling, choose, guide

V = 12
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-30, 1e-5, 0.7, 1.0, 100.0, 1e30]),
    top_k=st.integers(0, V + 2),
    top_p=st.sampled_from([1e-9, 0.5, 0.95, 1.0]),
)
numbers = st.one_of(st.floats(-50, 50), st.sampled_from([-math.inf, math.inf, math.nan, -1e38, 1e38]))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def logits_and_legal(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    rows = draw(st.integers(1, 3))
    logits = torch.tensor(draw(st.lists(st.lists(numbers, min_size=V, max_size=V), min_size=rows, max_size=rows)))
    legal = torch.tensor(
        draw(st.lists(st.lists(st.booleans(), min_size=V, max_size=V).filter(any), min_size=rows, max_size=rows))
    )
    return logits, legal if draw(st.booleans()) else legal[0]


@settings(max_examples=100, deadline=None)
@given(logits_and_legal(), samplings, st.integers(0, 2**32))
def test_every_chosen_id_is_legal(
    given_logits: tuple[torch.Tensor, torch.Tensor], sampling: Sampling, seed: int
) -> None:
    logits, legal = given_logits
    ids = choose(logits, legal, sampling, generator(seed))
    assert ids.shape == logits.shape[:1]
    assert legal.expand_as(logits).gather(1, ids[:, None]).all()


def test_same_seed_same_ids_and_greedy_ignores_it() -> None:
    logits, legal = torch.randn(500, V), torch.ones(V, dtype=torch.bool)
    assert torch.equal(choose(logits, legal, Sampling(), generator(1)), choose(logits, legal, Sampling(), generator(1)))
    assert not torch.equal(
        choose(logits, legal, Sampling(), generator(1)), choose(logits, legal, Sampling(), generator(2))
    )
    for seed in (1, 2):
        assert torch.equal(choose(logits, legal, Sampling(temperature=0), generator(seed)), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_ids_are_drawn_with_the_probabilities_of_the_softmax(temperature: float) -> None:
    logits, legal, draws = torch.randn(V, generator=generator()), torch.ones(V, dtype=torch.bool), 40_000
    legal[3:5] = False
    ids = choose(logits.expand(draws, V), legal, Sampling(temperature=temperature), generator())
    expected = (logits / temperature).masked_fill(~legal, -math.inf).softmax(0)
    assert (ids.bincount(minlength=V) / draws - expected).abs().max() < 0.01


@given(st.integers(1, V), st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_top_k_and_top_p_keep_the_smallest_set_that_suffices(top_k: int, top_p: float) -> None:
    logits, legal = torch.randn(V, generator=generator(4)), torch.ones(V, dtype=torch.bool)
    drawn = set(choose(logits.expand(2000, V), legal, Sampling(top_k=top_k, top_p=top_p), generator()).tolist())
    values, ids = logits.softmax(0).sort(descending=True)
    values = values[:top_k] / values[:top_k].sum()
    kept = [int(id) for id, before in zip(ids, values.cumsum(0) - values, strict=False) if before < top_p - 1e-6]
    assert kept[0] in drawn and drawn <= {*kept, *ids[: min(top_k, len(kept) + 1)].tolist()}


def test_guidance_of_one_is_the_condition_alone_and_zero_is_none_of_it() -> None:
    c, u = torch.randn(2, V), torch.randn(2, V)
    torch.testing.assert_close(guide(c, u, 1.0), c.log_softmax(-1))
    torch.testing.assert_close(guide(c, u, 0.0), u.log_softmax(-1))
    torch.testing.assert_close(guide(c, c, 3.0), c.log_softmax(-1))
    twice = guide(c, u, 2.0)
    torch.testing.assert_close(twice, 2 * c.log_softmax(-1) - u.log_softmax(-1))


def collapse(ids: list[int]) -> list[int]:
    return [id for i, id in enumerate(ids) if i == 0 or id != ids[i - 1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000))
def test_the_guard_forbids_long_runs_and_repeated_ngrams_and_nothing_else(run: int, n: int, seed: int) -> None:
    rule = Sampling(longest_run=run, no_repeat_ngram=n)
    guard, ids, random = RepetitionGuard(rule), list[int](), generator(seed)
    for _ in range(40):
        forbidden = set()
        for id in range(4):
            grown = collapse([*ids, id])
            grams = [tuple(grown[i : i + n]) for i in range(len(grown) - n + 1)] if n else []
            too_long = run and len(ids) >= run and set(ids[-run:]) == {id}
            if too_long or (grown != collapse(ids) and len(set(grams)) < len(grams)):
                forbidden.add(id)
        assert guard.forbidden() == forbidden
        legal = guard.narrow(torch.ones(4, dtype=torch.bool))
        assert legal.any()
        ids.append(int(choose(torch.zeros(1, 4), legal, rule, random)))
        guard.show(ids[-1])
        if len(forbidden) == 4:
            break


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"temperature": float("inf")}):
        with pytest.raises(ValueError):
            Sampling(**wrong)  # type: ignore[arg-type]


def test_losses_of_certain_and_of_uniform_predictions() -> None:
    targets = torch.arange(V)
    certain, uniform = torch.eye(V) * 100, torch.zeros(V, V)
    assert float(cross_entropy(certain, targets)) == pytest.approx(0, abs=1e-5)
    assert float(cross_entropy(uniform, targets)) == pytest.approx(math.log(V))
    assert float(cross_entropy(certain, targets, 0.1)) > 1
    assert float(accuracy(certain, targets)) == 1 and float(accuracy(certain, targets.roll(1))) == 0
    legal = targets < 3
    assert float(illegal_mass(uniform, legal)) == pytest.approx(1 - 3 / V)
    assert float(illegal_mass(uniform, torch.ones_like(legal))) == 0
