import math
from typing import Any

import pytest
import torch

from triptych.lm.cache import Cache
from triptych.lm.loss import cross_entropy
from triptych.lm.packing import Packed
from triptych.lm.transformer import LanguageModel, Transformer, TransformerConfig

V = 40
SHAPES: list[dict[str, Any]] = [
    {},
    {"kv_heads": 2, "qk_norm": True},
    {"kv_heads": 1, "alibi": True},
    {"head_dim": 6, "hidden": 20},
]


def config(**changes: Any) -> TransformerConfig:
    return TransformerConfig(**{"dim": 32, "layers": 3, "heads": 4, **changes})


def model(seed: int = 0, **changes: Any) -> LanguageModel:
    torch.manual_seed(seed)
    made = LanguageModel(config(**changes), V).eval()
    for parameter in made.parameters():  # large weights, so that attention is far from uniform
        parameter.data.mul_(4.0 if parameter.dim() > 1 else torch.rand(()) + 0.5)
    return made


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward_pass(shape: dict[str, Any]) -> None:
    lm, ids = model(**shape), some_ids(2, 14)
    positions = torch.arange(14) * 0.75 + 2
    full = lm(ids, positions=positions)
    cache = Cache.make(lm.config, 2, 14)
    pieces = [slice(0, 5), slice(5, 9), *(slice(i, i + 1) for i in range(9, 14))]  # prefill, a span, single steps
    cached = torch.cat([lm(ids[:, piece], positions=positions[piece], cache=cache) for piece in pieces], dim=1)
    torch.testing.assert_close(cached, full, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_cache_continues_positions_by_itself_and_refuses_when_full() -> None:
    lm, ids = model(), some_ids(1, 6)
    cache = Cache.make(lm.config, 1, 6)
    cached = torch.cat([lm(ids[:, :4], cache=cache), lm(ids[:, 4:], cache=cache)], dim=1)
    torch.testing.assert_close(cached, lm(ids), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="has 6 steps, 6 taken"):
        lm(ids[:, :1], cache=cache)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_changing_the_future_leaves_the_past_if_causal_alone(shape: dict[str, Any]) -> None:
    ids = some_ids(2, 10)
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % V
    causal, both_sides = model(**shape), model(**shape, causal=False)
    assert torch.equal(causal(ids)[:, :6], causal(changed)[:, :6])
    assert ((both_sides(ids) - both_sides(changed))[:, :6].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_padding_on_the_right_changes_no_valid_step(shape: dict[str, Any], causal: bool) -> None:
    lm, ids, lengths = model(**shape, causal=causal), some_ids(2, 10), torch.tensor([10, 7])
    padded = lm(ids, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = lm(ids[row : row + 1, :length])[0]
        torch.testing.assert_close(padded[row, :length], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_rows_are_as_if_alone_in_values_and_gradients(shape: dict[str, Any], causal: bool) -> None:
    lm, lengths = model(**shape, causal=causal), [7, 1, 10]
    ids, weights = some_ids(1, sum(lengths)), torch.randn(sum(lengths), V, generator=torch.Generator().manual_seed(2))
    together = lm(ids, packed=Packed.of(lengths))[0]
    (together * weights).sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in lm.named_parameters() if parameter.grad is not None}
    lm.zero_grad()
    alone = torch.cat([lm(row)[0] for row in ids.split(lengths, dim=1)])
    (alone * weights).sum().backward()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert packed.keys() == {name for name, _ in lm.named_parameters()}
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_mask_overrides_causality(shape: dict[str, Any]) -> None:
    lm, both_sides, ids = model(**shape), model(**shape, causal=False), some_ids(2, 8)
    triangle = torch.ones(8, 8, dtype=torch.bool).tril().expand(2, 8, 8)
    torch.testing.assert_close(both_sides(ids, mask=triangle), lm(ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(lm(ids, mask=torch.ones_like(triangle)), both_sides(ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alibi", [False, True])
@torch.no_grad()
def test_only_distances_between_positions_count(alibi: bool) -> None:
    lm, ids = model(alibi=alibi), some_ids(1, 8)
    positions = torch.arange(8) * 0.5
    torch.testing.assert_close(lm(ids, positions=positions), lm(ids, positions=positions + 30), rtol=0, atol=1e-3)
    assert (lm(ids, positions=positions) - lm(ids, positions=2 * positions)).abs().max() > 1e-3


@torch.no_grad()
def test_a_cast_model_keeps_exact_angles() -> None:
    lm, ids = model(), some_ids(1, 6)
    far = torch.arange(6) + 1001  # 1001..1006 all round to the same few bfloat16 numbers
    close = (lm.bfloat16()(ids, positions=far).float() - lm.float()(ids, positions=far)).abs().max()
    assert close < 0.1 * lm(ids).abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_bfloat16_computes_the_same_more_coarsely_with_and_without_a_cache(shape: dict[str, Any]) -> None:
    torch.manual_seed(0)
    lm, ids = LanguageModel(config(**shape), V).eval(), some_ids(2, 8)
    exact, cache = lm(ids), Cache.make(lm.config, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = lm(ids)
        cached = torch.cat([lm(ids[:, :5], cache=cache), *(lm(ids[:, i : i + 1], cache=cache) for i in (5, 6, 7))], 1)
    cast, cast_cache = lm.bfloat16(), Cache.make(lm.config, 2, 8, torch.bfloat16)
    for logits in (
        coarse,
        cached,
        cast(ids),
        torch.cat([cast(ids[:, i : i + 4], cache=cast_cache) for i in (0, 4)], 1),
    ):
        assert (logits.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_at_step_zero_is_log_v(tied: bool) -> None:
    torch.manual_seed(0)
    size = 1000
    lm = LanguageModel(config(dim=128), size, tied=tied)
    ids = torch.randint(0, size, (4, 64))
    targets = torch.randint(0, size, (4, 64))
    with torch.no_grad():
        loss = float(cross_entropy(lm(ids).flatten(0, 1), targets.flatten()))
    assert abs(loss / math.log(size) - 1) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_has_a_gradient(shape: dict[str, Any]) -> None:
    lm = LanguageModel(config(**shape, dropout=0.1), V)
    lm(some_ids(2, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lm.parameters())


def test_dropout_acts_in_training_alone() -> None:
    transformer = Transformer(config(dropout=0.5))
    x = torch.randn(1, 4, 32)
    assert not torch.equal(transformer(x), transformer(x))
    transformer.eval()
    assert torch.equal(transformer(x), transformer(x))


def test_shapes_that_cannot_be_are_refused() -> None:
    for wrong in ({"dim": 30}, {"kv_heads": 3}, {"head_dim": 5}, {"dmi": 3}):
        with pytest.raises((ValueError, TypeError)):
            config(**wrong)


def test_the_hidden_width_is_a_multiple_of_64_and_at_least_eight_thirds() -> None:
    for dim in (32, 100, 384, 768, 1024):
        width = config(dim=dim, heads=2).hidden_size
        assert width % 64 == 0 and 8 * dim / 3 <= width < 8 * dim / 3 + 64


@pytest.mark.slow
def test_compiled_layers_give_the_same_slopes_and_no_new_length_compiles_again() -> None:
    """Needs a C++ compiler."""
    from torch._dynamo.utils import counters

    plain, compiled = model().train(), model().train()
    compiled.load_state_dict(plain.state_dict())
    for layer in compiled.transformer.layers:
        layer.compile_parts()  # type: ignore[operator]
    graphs = []
    for lengths in ([5, 9], [7, 2, 20], [33]):
        ids, packed = some_ids(1, sum(lengths)), Packed.of(lengths)
        for lm in (plain, compiled):
            lm.zero_grad()
            cross_entropy(lm(ids, packed=packed)[0], ids[0]).backward()
        for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and len(set(graphs)) == 1
