from typing import Any

import pytest
import torch
from torch import Tensor

from triptych.lm.loss import cross_entropy
from triptych.lm.rows import generate
from triptych.lm.sampling import Sampling, choose, guide
from triptych.lm.transformer import LanguageModel, TransformerConfig

V = 20
EOS = 1
LEGAL = torch.arange(V) >= 4


def language_model(**changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(TransformerConfig(dim=32, layers=2, heads=4, kv_heads=2, qk_norm=True, **changes), V).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5.0 if parameter.dim() > 1 else 1.0)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(model: LanguageModel, prompt: Tensor, sampling: Sampling, seed: int = 0, **changes: Any) -> list[int]:
    settings: dict[str, Any] = {"legal": LEGAL, "eos_id": None, "max_new": 12, **changes}
    return generate(model, prompt, sampling=sampling, generator=generator(seed), **settings)


@torch.no_grad()
def slow(
    model: LanguageModel, prompts: list[Tensor], new_positions: Tensor, sampling: Sampling, seed: int
) -> list[int]:
    """Without a cache: every row alone, in full, for each new id."""
    random, new = generator(seed), list[int]()
    for i in range(len(new_positions)):
        logits = []
        for prompt in prompts:
            ids = torch.cat((prompt, torch.tensor(new, dtype=torch.long)))
            start = new_positions[0] - len(prompt)
            positions = torch.cat((start + torch.arange(len(prompt)), new_positions[:i]))
            logits.append(model(ids[None], positions=positions)[:, -1])
        scores = logits[0] if len(logits) == 1 else guide(logits[0], logits[1], sampling.guidance)
        new.append(int(choose(scores, LEGAL, sampling, random)))
    return new


PROMPT = torch.tensor([0, 4, 9, 2, 7])
BARE = torch.tensor([0, 2, 7])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("alibi", [False, True])
def test_cached_generation_equals_the_slow_one(temperature: float, alibi: bool) -> None:
    model, sampling = language_model(alibi=alibi), Sampling(temperature=temperature, top_k=8)
    assert run(model, PROMPT, sampling, 3) == slow(model, [PROMPT], torch.arange(5.0, 17.0), sampling, 3)


@pytest.mark.parametrize(("prompt", "bare"), [(PROMPT, BARE), (BARE, PROMPT), (BARE, BARE + 1)])
def test_guided_generation_equals_the_slow_one_whatever_the_lengths(prompt: Tensor, bare: Tensor) -> None:
    model, sampling = language_model(), Sampling(guidance=2.5, temperature=0.8)
    places = torch.arange(len(prompt), len(prompt) + 12.0)
    assert run(model, prompt, sampling, 5, unconditional_ids=bare) == slow(model, [prompt, bare], places, sampling, 5)


def test_guidance_of_one_ignores_the_unconditional_prompt() -> None:
    model = language_model()
    assert run(model, PROMPT, Sampling(), unconditional_ids=BARE) == run(model, PROMPT, Sampling())
    with pytest.raises(ValueError, match="unconditional"):
        run(model, PROMPT, Sampling(guidance=2.0))


def test_positions_of_the_caller_are_used() -> None:
    model, sampling, last = language_model(), Sampling(temperature=0), len(PROMPT) - 1
    half = slow(model, [PROMPT], 5 + torch.arange(12) / 2, sampling, 0)
    assert run(model, PROMPT, sampling, position_of=lambda i: last + 1 + i / 2) == half
    shifted = run(model, PROMPT, sampling, positions=torch.arange(5) + 3, position_of=lambda i: last + 4 + i / 2)
    assert shifted == half
    assert run(model, PROMPT, sampling) != half


def test_same_seed_same_ids_and_greedy_ignores_it() -> None:
    model, warm, greedy = language_model(), Sampling(temperature=2.0), Sampling(temperature=0)
    assert run(model, PROMPT, warm, 1) == run(model, PROMPT, warm, 1) != run(model, PROMPT, warm, 2)
    assert run(model, PROMPT, greedy, 1) == run(model, PROMPT, greedy, 2)


def test_every_new_id_is_legal_in_its_row_of_the_cycle() -> None:
    cycle = torch.stack([(torch.arange(V) >= 4) & (torch.arange(V) < 12), torch.arange(V) >= 12])
    for seed in range(5):
        new = run(language_model(), PROMPT, Sampling(temperature=5.0), seed, legal=cycle)
        assert all(cycle[i % 2, id] for i, id in enumerate(new))


def test_the_end_comes_not_before_min_new_and_at_once_after() -> None:
    model = language_model()
    wants_to_end = torch.zeros(1, V).index_fill_(1, torch.tensor([EOS]), 50.0)
    model.logits = lambda *_: wants_to_end  # type: ignore[method-assign, assignment]
    for min_new in (0, 3):
        new = run(model, PROMPT, Sampling(), eos_id=EOS, min_new=min_new)
        assert len(new) == min_new and EOS not in new
    assert len(run(model, PROMPT, Sampling(), eos_id=None)) == 12


def test_the_guard_holds_in_generation() -> None:
    model = language_model()
    model.logits = lambda *_: torch.arange(V).float()[None] * 10  # type: ignore[method-assign, assignment]
    greedy = Sampling(temperature=0, longest_run=3)
    assert run(model, PROMPT, greedy, max_new=8) == [19, 19, 19, 18, 19, 19, 19, 18]
    greedy = Sampling(temperature=0, longest_run=2, no_repeat_ngram=2)
    assert run(model, PROMPT, greedy, max_new=7) == [19, 19, 18, 19, 19, 17, 19]


def test_a_broken_model_is_told() -> None:
    model = language_model()
    model.embedding.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="checkpoint is broken"):
        run(model, PROMPT, Sampling())


def test_a_tiny_model_overfits_a_sequence_and_greedy_returns_it() -> None:
    torch.manual_seed(0)
    model = LanguageModel(TransformerConfig(dim=32, layers=2, heads=2), V)
    melody = torch.randint(4, V, (24,), generator=generator())
    ids = torch.cat((torch.tensor([0]), melody, torch.tensor([EOS])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = cross_entropy(model(ids[None, :-1])[0], ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model.eval()
    assert run(model, ids[:1], Sampling(temperature=0), eos_id=EOS, max_new=100) == melody.tolist()
