"""Every tier computes what the plain transformer does, and a request is not disturbed by the ones beside it."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from triptych.lm import native, static
from triptych.lm.blocks import PRECISIONS, NativeMatrix, Precision, rounded
from triptych.lm.decode import Job, run
from triptych.lm.engine import Engine, NativeEngine, PrepackedEngine, StaticEngine, make_engine
from triptych.lm.rows import LanguageRule, Row, one
from triptych.lm.sampling import Sampling
from triptych.lm.static import SHORTEST
from triptych.lm.transformer import LanguageModel, Transformer, TransformerConfig

torch.set_num_threads(1)
V, EOS = 37, 1
LIBRARY = native.library()
needs_native = pytest.mark.skipif(LIBRARY is None, reason="no C++ compiler here")
SHAPES = {
    "plain": TransformerConfig(dim=32, layers=2, heads=2),
    "grouped": TransformerConfig(dim=32, layers=2, heads=4, kv_heads=2, qk_norm=True),
    "odd": TransformerConfig(dim=36, layers=2, heads=3, head_dim=10, hidden=54, rope_stretch=(4.0, 1.0, 4.0, 64.0)),
}
TOLERANCE = {"plain": 1e-5, "static": 1e-4, "native": 1e-4, "prepacked": 1e-4}


def language_model(shape: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(SHAPES[shape], V).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model


MODELS = {shape: language_model(shape) for shape in SHAPES}


def engine_of(tier: str, model: LanguageModel, precision: Precision = "fp32") -> Engine:
    if tier == "plain":
        return Engine(model.transformer)
    if tier == "static":
        return StaticEngine(model.transformer)
    if tier == "prepacked":
        return PrepackedEngine(model.transformer, precision)
    assert LIBRARY is not None
    return NativeEngine(model.transformer, precision, LIBRARY)


def with_rounded_weights(transformer: Transformer, precision: Precision) -> Transformer:
    coarser = copy.deepcopy(transformer)
    for layer in coarser.layers:
        for name in ("qkv", "out", "gate_up", "down"):
            weight = getattr(layer, name).weight
            weight.data = rounded(weight.data, precision)
    return coarser


tiers = pytest.mark.parametrize("tier", ["plain", "static", "prepacked", pytest.param("native", marks=needs_native)])


@tiers
@given(data=st.data(), shape=st.sampled_from(list(SHAPES)), length=st.integers(2, 90))
@settings(max_examples=12, deadline=None)
def test_cached_steps_equal_the_whole_pass(tier: str, data: st.DataObject, shape: str, length: int) -> None:
    model = MODELS[shape]
    prompt = data.draw(st.integers(1, length))
    x = torch.randn(length, model.config.dim, generator=torch.Generator().manual_seed(length))
    positions = torch.arange(length) * data.draw(st.sampled_from([1.0, 0.5, 1.7]))
    engine = engine_of(tier, model)
    cache = engine.cache(length)
    with torch.inference_mode():
        parts = [engine.read(x[:prompt], positions[:prompt], [cache] * prompt)]
        parts += [engine.read(x[i : i + 1], positions[i : i + 1], [cache]) for i in range(prompt, length)]
        whole = model.transformer(x[None], positions=positions)[0]
    assert cache.filled == length
    assert torch.allclose(torch.cat(parts), whole, atol=TOLERANCE[tier])


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fewer_bits_mean_rounded_weights_and_nothing_else(shape: str, precision: Precision) -> None:
    model = MODELS[shape]
    x, positions = torch.randn(40, model.config.dim), torch.arange(40.0)
    coarser = with_rounded_weights(model.transformer, precision)
    engine = engine_of("native", model, precision)
    cache = engine.cache(40)
    with torch.inference_mode():
        found = engine.read(x, positions, [cache] * 40)
        assert torch.allclose(found, coarser(x[None], positions=positions)[0], atol=3e-4)


@needs_native
@given(
    data=st.data(),
    shape=st.sampled_from(list(SHAPES)),
    precision=st.sampled_from(PRECISIONS),
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=11),
)
@settings(max_examples=15, deadline=None)
def test_a_token_is_the_same_to_the_bit_whatever_stands_beside_it(
    data: st.DataObject, shape: str, precision: Precision, lengths: list[int]
) -> None:
    engine = engine_of("native", MODELS[shape], precision)
    dim = MODELS[shape].config.dim
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    prompts = [torch.randn(n, dim, generator=random) for n in lengths]
    after = torch.randn(len(lengths), dim, generator=random)
    alone, caches = [], []
    for prompt, x in zip(prompts, after, strict=True):
        for kept in (False, True):
            cache = engine.cache(len(prompt) + 1)
            engine.read(prompt, torch.arange(float(len(prompt))), [cache] * len(prompt))
            if kept:
                caches.append(cache)
            else:
                alone.append(engine.read(x[None], torch.tensor([float(len(prompt))]), [cache])[0])
    together = engine.read(after, torch.tensor([float(n) for n in lengths]), caches)
    assert torch.equal(together, torch.stack(alone))


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [(5, 7), (64, 32), (37, 100)])
def test_a_product_is_that_of_the_rounded_weight(size: tuple[int, int], precision: Precision) -> None:
    assert LIBRARY is not None
    weight, x = torch.randn(size), torch.randn(70, size[1])
    wanted = x @ rounded(weight, precision).T
    assert torch.allclose(NativeMatrix(LIBRARY, weight, precision)(x), wanted, atol=2e-3)


@needs_native
@pytest.mark.parametrize("columns", [512, 544, 1024, 8192])
def test_long_rows_that_all_point_one_way_do_not_overflow(columns: int) -> None:
    matrix = NativeMatrix(LIBRARY, torch.ones(4, columns), "int8")
    assert torch.allclose(matrix(torch.ones(1, columns)), torch.full((1, 4), float(columns)), rtol=1e-3)


def requests(mix: list[tuple[int, int]], sampling: Sampling, guided: bool = False) -> list[Row]:
    """Rows with prompts and longest lengths as in `mix`, each with its own seed."""
    rows, legal = [], torch.arange(V) >= 4
    for seed, (length, longest) in enumerate(mix):
        random = torch.Generator().manual_seed(100 + seed)
        ids = torch.randint(4, V, (length,), generator=random)
        bare = (ids[-1:], torch.tensor([length - 1.0])) if guided else None
        positions = torch.arange(float(length))
        rows.append(
            Row(ids, positions, [legal], longest, sampling, random, eos_id=EOS, min_new=1, unconditional=bare)
        )  # fmt: skip
    return rows


def decoded(rule: LanguageRule, rows: list[Row], slots: int) -> list[list[int]]:
    for _ in run(rule, [one(row) for row in rows], slots):
        pass
    return [row.new for row in rows]


@tiers
def test_rows_side_by_side_and_with_settings_of_their_own_are_what_they_are_alone(tier: str) -> None:
    """Lists of a job, one after another, some of rows that end at once; rows with guidance beside rows without."""
    model = MODELS["grouped"]
    rule = LanguageRule(model, engine_of(tier, model))
    colder, guided = Sampling(temperature=0.0, top_k=5), Sampling(temperature=0.0, guidance=2.0)

    def rows() -> list[Row]:
        return [*requests([(5, 9), (12, 1), (3, 4)], colder), *requests([(4, 1), (7, 6), (9, 3)], guided, True)]

    def job(lists: list[Any]) -> Job:
        for each in lists:
            assert (yield each) is each

    def ids(made: list[Row]) -> list[list[int]]:
        return [row.new for row in made]

    alone = [decoded(rule, [row], 1)[0] for row in rows()]
    for slots in (1, 3):
        one_job, other_job = rows(), rows()
        for _ in run(rule, [job([one_job[:2], one_job[2:5], one_job[5]]), job([other_job[:1], other_job[1:]])], slots):
            pass
        assert ids(one_job) == ids(other_job) == alone


@tiers
def test_rows_of_one_prompt_are_read_once_and_go_their_own_ways(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["grouped"]
    rule = LanguageRule(model, engine_of(tier, model))
    lengths = (8, 1, 8, 5)  # the second ends at once, and its cache is free

    def rows() -> list[Row]:
        (first,) = requests([(12, 8)], Sampling(temperature=0.0, guidance=2.0), True)
        return [replace(first, max_new=most, new=[]) for most in lengths]

    alone = [decoded(rule, [row], 1)[0] for row in rows()]
    together, read, calls = rows(), rule.engine.read, list[int]()
    monkeypatch.setattr(rule.engine, "read", lambda x, *rest: calls.append(len(x)) or read(x, *rest))

    def job() -> Job:
        yield together

    for _ in run(rule, [job()]):
        pass
    assert [row.new for row in together] == alone and len(alone[0]) > len(alone[1]) == 1
    assert calls[:2] == [12, 1] and 12 not in calls[2:]


MIX = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=7)


@needs_native
@given(mix=MIX, slots=st.integers(1, 8), guided=st.booleans(), precision=st.sampled_from(PRECISIONS))
@settings(max_examples=15, deadline=None)
def test_a_request_says_the_same_alone_and_in_any_batch(
    mix: list[tuple[int, int]], slots: int, guided: bool, precision: Precision
) -> None:
    model = MODELS["grouped"]
    rule = LanguageRule(model, engine_of("native", model, precision))
    sampling = Sampling(temperature=1.5, top_p=0.95, guidance=2.0 if guided else 1.0)
    together = decoded(rule, requests(mix, sampling, guided), slots)
    alone = [decoded(rule, [row], 1)[0] for row in requests(mix, sampling, guided)]
    assert together == alone
    assert all(1 <= len(new) <= longest and min(new) >= 4 for new, (_, longest) in zip(together, mix, strict=True))


@tiers
@given(mix=MIX, slots=st.integers(1, 8))
@settings(max_examples=8, deadline=None)
def test_greedy_ids_are_those_of_the_plain_model_wherever_the_best_is_clear(
    tier: str, mix: list[tuple[int, int]], slots: int
) -> None:
    """Teacher-forced: the whole pass over what was said has each id on top, but for near ties."""
    model = MODELS["plain"]
    rows = requests(mix, Sampling(temperature=0.0))
    decoded(LanguageRule(model, engine_of(tier, model)), rows, slots)
    for row in rows:
        ids = torch.cat([row.prompt, torch.tensor(row.new)])
        with torch.inference_mode():
            logits = model(ids[None])[0, len(row.prompt) - 1 :]
        for place, id in enumerate(row.new):
            allowed = logits[place].masked_fill(~row.allowed(), -torch.inf)
            if place == 0:
                allowed[EOS] = -torch.inf
            assert float(allowed.max() - allowed[id]) <= 1e-3


def test_a_finished_row_makes_room_for_the_next() -> None:
    """Eight rows of five ids in two slots take about a quarter of the steps of one slot, and caches are used again."""
    model = MODELS["plain"]
    engine, counted = Engine(model.transformer), {"reads": 0, "caches": 0}
    read, cache = engine.read, engine.cache

    def counting_read(x: Tensor, positions: Tensor, caches: Any) -> Tensor:
        counted["reads"] += len({id(one) for one in caches}) == len(caches) and len(caches) > 1
        return read(x, positions, caches)

    def counting_cache(capacity: int) -> Any:
        counted["caches"] += 1
        return cache(capacity)

    engine.read, engine.cache = counting_read, counting_cache  # type: ignore[method-assign]
    rows = requests([(4, 6)] * 8, Sampling(temperature=1.0))
    for row in rows:
        row.eos_id, row._endings = None, row._bodies
    decoded(LanguageRule(model, engine), rows, 2)
    assert [len(row.new) for row in rows] == [6] * 8
    assert counted == {"reads": 20, "caches": 2}


def test_a_job_goes_on_with_its_next_row_in_the_same_slot() -> None:
    model = MODELS["plain"]
    said: list[list[int]] = []

    def job() -> Any:
        for row in requests([(3, 4), (5, 1), (2, 3)], Sampling(temperature=0.0)):
            row.eos_id, row._endings = None, row._bodies
            said.append((yield row).new)

    for _ in run(LanguageRule(model, Engine(model.transformer)), [job()], 4):
        pass
    assert [len(new) for new in said] == [4, 1, 3]


def counting() -> tuple[CompileCounter, StaticEngine]:
    """The compiled step as on a GPU, but for its backend, which counts."""
    counter = CompileCounter()
    compiler: Any = partial(torch.compile, fullgraph=True, dynamic=False, backend=counter)
    return counter, StaticEngine(MODELS["grouped"].transformer, compiler)


def test_a_step_is_compiled_once_a_length_and_a_width_and_says_what_the_plain_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(static, "SHORTEST", 32)
    model, greedy = MODELS["grouped"], Sampling(temperature=0.0)
    counter, engine = counting()
    rule, plain = LanguageRule(model, engine), LanguageRule(model, Engine(model.transformer))
    seen = []
    for mix, slots in [
        ([(3, 9)], 1),  # compiles for every token of it
        ([(20, 5), (2, 30), (9, 20)], 1),  # other prompts and lengths
        ([(7, 6), (9, 8)], 2),  # two at once
        ([(5, 8), (2, 9), (27, 4), (8, 20)], 2),
        ([(20, 13)], 1),  # longer
        ([(7, 6)], 1),
        ([(7, 40), (9, 8)], 2),  # one of each length at once
    ]:
        assert decoded(rule, requests(mix, greedy), slots) == decoded(plain, requests(mix, greedy), slots)
        seen.append(counter.frame_count)
    assert seen == [1, 1, 2, 2, 3, 3, 3]


def test_logits_of_the_compiled_step_are_those_of_the_whole_pass() -> None:
    model, (counter, engine) = MODELS["grouped"], counting()
    lengths = [5, 17, 40]
    x = [torch.randn(n + 4, model.config.dim, generator=torch.Generator().manual_seed(n)) for n in lengths]
    with torch.inference_mode():
        caches = [engine.cache(60) for _ in lengths]
        for n, row, cache in zip(lengths, x, caches, strict=True):
            engine.read(row[:n], torch.arange(float(n)), [cache] * n)
        steps = [
            engine.read(
                torch.stack([row[n + i] for n, row in zip(lengths, x, strict=True)]),
                torch.tensor([float(n + i) for n in lengths]),
                caches,
            )
            for i in range(4)
        ]
        for number, (n, row) in enumerate(zip(lengths, x, strict=True)):
            whole = model.logits(model.transformer(row[None])[0, n:])
            assert torch.allclose(model.logits(torch.stack([step[number] for step in steps])), whole, atol=1e-4)
    assert counter.frame_count == 1


def test_a_request_that_stands_still_or_moves_to_a_wider_buffer_keeps_what_it_read() -> None:
    model, engine = MODELS["plain"], StaticEngine(MODELS["plain"].transformer)
    x, positions = torch.randn(12, model.config.dim), torch.arange(12.0)
    with torch.inference_mode():
        first = engine.cache(12)
        found = [engine.read(x[:6], positions[:6], [first] * 6)]
        others = [engine.cache(12) for _ in range(4)]  # five rows: the buffer grows to eight
        for i in range(6, 12):
            engine.read(-x[: len(others)], positions[: len(others)], others)
            found.append(engine.read(x[i : i + 1], positions[i : i + 1], [first]))
        assert torch.allclose(torch.cat(found), model.transformer(x[None])[0], atol=1e-4)
    shelf = engine._shelves[SHORTEST]
    assert [buffer.width for buffer in shelf.buffers] == [1, 2, 4, 8]
    del first, others
    assert not any(place for buffer in shelf.buffers for place in buffer.places())
    again = engine.cache(12)
    assert shelf.used == 0 and shelf.buffers[0].places() == [again]


@torch._dynamo.config.patch(recompile_limit=1)
def test_lengths_do_not_share_a_limit_of_compilations() -> None:
    counter, engine = counting()
    x = torch.randn(1, MODELS["grouped"].config.dim)
    with torch.inference_mode():
        for capacity in (100, 256, 257, 1000):
            engine.read(x, torch.zeros(1), [engine.cache(capacity)])
    assert counter.frame_count == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_cuda_graph_says_what_the_plain_step_does() -> None:
    model = copy.deepcopy(MODELS["grouped"]).cuda()
    made = make_engine(model.transformer, steps=10**9)
    assert made.tier == "compiled"
    greedy, mix = Sampling(temperature=0.0), [(7, 30), (9, 40), (20, 12)]
    plain = decoded(LanguageRule(model, Engine(model.transformer)), requests(mix, greedy), 2)
    assert decoded(LanguageRule(model, made), requests(mix, greedy), 2) == plain
