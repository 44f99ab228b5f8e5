"""Generation, side by side: random weights, 12 layers × 768, in turns; medians of five with their spread.

    python benchmarks/generate.py --json FILE                       all parts below but audiolm and stream, two cores
    python benchmarks/generate.py --part semantic --precision fp32  one of them

    semantic   tokens a second after a prompt of 256: against Bark's semantic model and LlamaForCausalLM with a static
               cache, through their own `generate`; prefill is taken off on both sides
    coarse     codes a second of 0.8 s of sound, prefill and all: against Bark's coarse model
    fine       seconds for all fine levels of 2.56 s and 13.65 s of sound, fp32 and bf16: against Bark's fine model
    position   a step at position 2,000 against one at 100, and the time to read the cache that is added
    batch      eight requests at once against one, semantic and coarse: steps and sound a second; and the whole cascade
    stream     the starter: time to the first sound and gaps, 5, 30 and 120 s of speech
    audiolm    audiolm-pytorch's semantic transformer, with --audiolm DIR (benchmarks/audiolm.py says how it is made)

Shares are of the read rate that this run measures beside each figure. A busy machine is refused unless --busy says that
figures do not matter: where other processes take more than a fifth of it within a second. JSON is added to
FILE, part by part.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audiolm import semantic_transformer
from machine import OFF, Bench, Work, processor, taken_by_others

from triptych.lm.blocks import PRECISIONS, Precision
from triptych.lm.decode import run
from triptych.lm.rows import Row, one
from triptych.lm.sampling import Sampling
from triptych.lm.transformer import TransformerConfig
from triptych.stages.coarse.generate import CoarseWork, coarse_rule
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.fine.generate import FineWork, with_half_products
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.semantic.generate import semantic_rule
from triptych.stages.semantic.sequence import SemanticConfig, SemanticStage
from triptych.stages.span import Span
from triptych.stages.stage import Specs
from triptych.tokenizers.spec import TokenizerSpec
from triptych.training.precision import has_bf16

BUSY_SHARE = 0.2
PROMPT, NEW = 256, 49
"""ids of the semantic prompt, and of what is decoded after it"""
SAMPLING = Sampling(temperature=0.8, top_k=50)
SPECS = Specs(
    TokenizerSpec("semantic", "random", 1024, 16_000, 320, fingerprint="s"),
    TokenizerSpec("acoustic", "random", 1024, 24_000, 320, levels=8, fingerprint="a"),
    TokenizerSpec("text", "random", 80, fingerprint="t"),
)
SHAPE = TransformerConfig(dim=768, layers=12, heads=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["semantic", "coarse", "fine", "position", "batch"])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--audiolm", type=Path)
    parser.add_argument("--busy", action="store_true", help="measure all the same; the figures mean nothing")
    said = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: said.cores])
    torch.set_num_threads(said.cores)
    load = taken_by_others()
    if load > BUSY_SHARE and not said.busy:
        sys.exit(f"the machine is busy ({load:.0%} of it is taken): wait, or say --busy")
    bench = Bench(said)
    machine = {"processor": processor(), "cores": said.cores, "taken_by_others": load, "torch": torch.__version__}
    print(f"{machine['processor']}, {said.cores} cores, {load:.0%} taken by others")
    for part in said.part:
        torch.manual_seed(0)
        PARTS[part](bench)
        if said.json:
            before = json.loads(said.json.read_text()) if said.json.exists() else {}
            said.json.write_text(json.dumps(before | {"machine": machine} | bench.found, indent=1) + "\n")


def stages() -> tuple[Any, ...]:
    """Semantic, coarse and fine stage with their models."""
    made: list[Any] = []
    for stage in (
        SemanticStage(SemanticConfig(transformer=SHAPE, frames_per_symbol=4.0), SPECS),
        CoarseStage(CoarseConfig(transformer=SHAPE), SPECS),
        FineStage(FineConfig(transformer=replace(SHAPE, causal=False)), SPECS),
    ):
        made += [stage, stage.model().eval()]
    return tuple(made)


def semantic_rows(vocabulary: int, count: int, new: int, prompt: int = PROMPT) -> list[Row]:
    legal = [torch.ones(vocabulary, dtype=torch.bool)]
    ids, positions = torch.randint(0, vocabulary, (count, prompt)), torch.arange(float(prompt))
    streams = [torch.Generator().manual_seed(n) for n in range(count)]
    return [Row(ids[n], positions, legal, new, SAMPLING, streams[n]) for n in range(count)]


def decoded(rule: Any, rows: list[Row], slots: int = 1) -> float:
    """Decodes rows; notes how long the first id of each took."""
    steps, began = run(rule, [one(row) for row in rows], slots), time.perf_counter()
    while not all(row.new for row in rows):
        next(steps)
    OFF["seconds"] = time.perf_counter() - began
    before = sum(len(row.new) for row in rows)
    for _ in steps:
        pass
    return float(sum(len(row.new) for row in rows) - before)


def alone(rule: Any, vocabulary: int) -> Work:
    """One request, made anew each time."""
    return lambda: decoded(rule, semantic_rows(vocabulary, 1, NEW))


def bytes_read(rule: Any, precision: Precision, step: int = PROMPT) -> float:
    """Of the matrices and the filled cache, by one step."""
    engine = rule.engine
    weights = sum(p.numel() for p in engine.transformer.parameters() if p.dim() > 1)
    heads = rule.model.embedding.weight.numel() if hasattr(rule.model, "embedding") else 0
    cache = 2 * SHAPE.layers * SHAPE.dim * step * 4
    return float((weights + heads) * {"fp32": 4, "bf16": 2, "int8": 1}[precision] + cache)


def semantic(bench: Bench) -> None:
    from transformers import LlamaForCausalLM
    from transformers.models.bark.configuration_bark import BarkSemanticConfig
    from transformers.models.bark.generation_configuration_bark import BarkSemanticGenerationConfig
    from transformers.models.bark.modeling_bark import BarkSemanticModel

    from triptych.lm.llama import to_llama

    _, model, *_ = stages()
    size = model.language_model.vocabulary_size
    rules = {precision: semantic_rule(model, precision, 10**6) for precision in bench.said.precision}
    works: dict[str, Work] = {f"triptych {precision}": alone(rule, size) for precision, rule in rules.items()}
    bark: Any = BarkSemanticModel(BarkSemanticConfig(input_vocab_size=129_600, output_vocab_size=10_048)).eval()
    settings = BarkSemanticGenerationConfig()
    text = torch.randint(0, 10_000, (1, PROMPT))
    config, state = to_llama(model.language_model)
    llama: Any = LlamaForCausalLM(config).eval()
    llama.load_state_dict(state)
    ids = torch.randint(0, size, (1, PROMPT))
    more = {"do_sample": True, "temperature": 0.8, "top_k": 50}
    fixed = {"cache_implementation": "static", "pad_token_id": 0, "eos_token_id": None, **more}
    works["Bark, transformers"] = theirs(
        lambda n: bark.generate(text, settings, max_new_tokens=n, min_new_tokens=n, **more)
    )
    works["LlamaForCausalLM, static cache"] = theirs(
        lambda n: llama.generate(ids, max_new_tokens=n, min_new_tokens=n, **fixed)
    )
    found = bench.turns(works)
    for precision, rule in rules.items():
        rate = found[f"triptych {precision}"]
        rate["share"] = rate["median"] * bytes_read(rule, precision) / (rate["read_GBps"] * 1e9)
    bench.say("semantic", "tokens/s", found, "Bark, transformers")


def theirs(generate: Callable[[int], Any]) -> Work:
    """Their `generate`, for NEW tokens but for the first, whose time is measured by a call of its own."""

    def work() -> float:
        with torch.inference_mode():
            began = time.perf_counter()
            generate(1)
            once = time.perf_counter() - began
            generate(NEW)
        OFF["seconds"] = 2 * once
        return NEW - 1.0

    return work


def coarse(bench: Bench) -> None:
    from transformers.models.bark import generation_configuration_bark as settings_of
    from transformers.models.bark.configuration_bark import BarkCoarseConfig
    from transformers.models.bark.modeling_bark import BarkCoarseModel

    _, _, stage, model, *_ = stages()
    rng, seconds = np.random.default_rng(0), 0.8
    tokens = rng.integers(0, 1024, SPECS.grid.beats(seconds) * SPECS.grid.semantic_per_beat).astype(np.uint16)
    works: dict[str, Work] = {}
    for precision in bench.said.precision:
        rule = coarse_rule(model, precision, 10**6)
        works[f"triptych {precision}"] = lambda rule=rule: float(coarse_codes(stage, rule, [tokens])[0].size)  # type: ignore[misc]
    bark: Any = BarkCoarseModel(BarkCoarseConfig(input_vocab_size=12_096, output_vocab_size=12_096)).eval()
    semantic_settings = settings_of.BarkSemanticGenerationConfig()
    coarse_settings = settings_of.BarkCoarseGenerationConfig()

    def peer() -> float:
        given = torch.from_numpy(tokens.astype(np.int64))[None]
        more = {"do_sample": True, "temperature": 0.8}
        with torch.inference_mode():
            return float(bark.generate(given, semantic_settings, coarse_settings, **more).shape[1])

    works["Bark, transformers"] = peer
    bench.say("coarse", "codes/s", bench.turns(works), "Bark, transformers")


def coarse_codes(stage: CoarseStage, rule: Any, semantic: list[Any], slots: int = 1) -> list[Any]:
    nobody = Span(np.zeros(0, np.uint16), np.zeros((8, 0), np.uint16), 0)
    none = np.zeros((stage.config.levels, 0), np.uint16)
    streams = [torch.Generator().manual_seed(n) for n in range(len(semantic))]
    works = [
        CoarseWork(stage, nobody, SAMPLING, stream, none, semantic=tokens, ended=True)
        for tokens, stream in zip(semantic, streams, strict=True)
    ]
    for _ in run(rule, [work.job(rule) for work in works], slots):
        pass
    return [work.made for work in works]


def fine_codes(stage: FineStage, model: Any, codes: Any) -> Any:
    nobody = Span(np.zeros(0, np.uint16), np.zeros((8, 0), np.uint16), 0)
    none = np.zeros((8, 0), np.uint16)
    longer = replace(stage, config=replace(stage.config, prompt=replace(stage.config.prompt, max_seconds=14.0)))
    work = FineWork(longer, model, nobody, Sampling(temperature=0.0), torch.Generator(), none, 8)
    work.go_on(codes, ended=True)
    return work.made


def fine(bench: Bench) -> None:
    from transformers.models.bark import generation_configuration_bark as settings_of
    from transformers.models.bark.configuration_bark import BarkFineConfig
    from transformers.models.bark.modeling_bark import BarkFineModel

    *_, stage, model = stages()
    shape = BarkFineConfig(input_vocab_size=1056, output_vocab_size=1056)
    peers: dict[str, Any] = {"fp32": BarkFineModel(shape).eval()}
    if has_bf16(torch.device("cpu")):
        peers["bf16"] = BarkFineModel(shape).eval().to(torch.bfloat16)
    models = {"fp32": model, "bf16": with_half_products(model)}
    settings = (
        settings_of.BarkSemanticGenerationConfig(),
        settings_of.BarkCoarseGenerationConfig(),
        settings_of.BarkFineGenerationConfig(temperature=None),
    )
    for seconds, rounds in ((2.56, bench.said.rounds), (13.65, min(3, bench.said.rounds))):
        frames = round(seconds * float(SPECS.grid.acoustic_rate)) // 3 * 3
        codes = np.random.default_rng(0).integers(0, 1024, (2, frames)).astype(np.uint16)
        flat = torch.from_numpy(codes.T.astype(np.int64).reshape(1, -1)) + 10_000
        for dtype, bark in peers.items():
            if dtype not in bench.said.precision:
                continue

            def peer(bark: Any = bark, flat: Any = flat, seconds: float = seconds) -> float:
                with torch.inference_mode():
                    bark.generate(flat.clone(), *settings)
                return seconds

            def own(own: Any = models[dtype], codes: Any = codes, seconds: float = seconds) -> float:
                fine_codes(stage, own, codes)
                return seconds

            found = bench.turns({f"triptych {dtype}": own, f"Bark {dtype}": peer}, rounds)
            bench.say(f"fine, {seconds} s, {dtype}", "s of sound/s", found, f"Bark {dtype}")


def position(bench: Bench) -> None:
    _, model, *_ = stages()
    for precision in bench.said.precision:
        engine = semantic_rule(model, precision, 10**6).engine
        cache, x = engine.cache(2100), torch.randn(1, SHAPE.dim)
        for keys, values in cache.layers:
            keys.normal_(), values.normal_()

        def step(place: int, cache: Any = cache, engine: Any = engine, x: Any = x) -> float:
            for _ in range(8):
                cache.filled = place
                engine.read(x, torch.tensor([float(place)]), [cache])
            return 8.0

        works: dict[str, Work] = {f"at {place}": lambda place=place: step(place) for place in (100, 2000)}  # type: ignore[misc]
        found = bench.turns(works, 2 * bench.said.rounds)
        added = 2 * SHAPE.layers * SHAPE.dim * 1900 * 4
        reading = added / (found["at 2000"]["read_GBps"] * 1e9)
        cost = 1 / found["at 2000"]["median"] - 1 / found["at 100"]["median"]
        bench.say(f"position, {precision}", "steps/s", found)
        print(f"  {added / 1e6:.0f} MB more cost {cost * 1e3:.2f} ms, ×{cost / reading:.2f} the time to read them")
        bench.found[f"position, {precision}"] |= {"cost_ms": cost * 1e3, "of_reading": cost / reading}


def batch(bench: Bench) -> None:
    """Eight requests of 2.56 s each; the cascade is three stages without a codec."""
    _, model, coarse_stage, coarse_model, fine_stage, fine_model = stages()
    size, seconds = model.language_model.vocabulary_size, 2.56
    frames = SPECS.grid.beats(seconds) * SPECS.grid.semantic_per_beat
    tokens = np.random.default_rng(0).integers(0, 1024, frames).astype(np.uint16)
    for precision in bench.said.precision:
        first, second = semantic_rule(model, precision, 10**6), coarse_rule(coarse_model, precision, 10**6)
        spent: dict[tuple[str, int], list[float]] = {}

        third = fine_model if precision == "fp32" else with_half_products(fine_model)

        def cascade(
            count: int, first: Any = first, second: Any = second, third: Any = third, spent: Any = spent
        ) -> float:
            marks = [time.perf_counter()]
            for _ in run(first, [one(row) for row in semantic_rows(size, count, frames, 40)], count):
                pass
            marks.append(time.perf_counter())
            codes = coarse_codes(coarse_stage, second, [tokens] * count, count)
            marks.append(time.perf_counter())
            for each in codes:
                fine_codes(fine_stage, third, each)
            marks.append(time.perf_counter())
            for name, a, b in zip(("semantic", "coarse", "fine"), marks, marks[1:], strict=False):
                spent.setdefault((name, count), []).append(count * seconds / (b - a))
            return count * seconds

        found = bench.turns({"batch 1": lambda: cascade(1), "batch 8": lambda: cascade(8)}, min(3, bench.said.rounds))
        bench.say(f"batch, {precision}", "s of sound/s", found, "batch 1")
        for name in ("semantic", "coarse", "fine"):
            alone, together = (statistics.median(spent[name, count][1:]) for count in (1, 8))
            print(f"  {name:<10} {alone:6.2f} s of sound/s alone, {together:6.2f} with eight: ×{together / alone:.2f}")
            bench.found[f"batch, {precision}"][name] = {"alone": alone, "eight": together, "ratio": together / alone}


def stream(bench: Bench) -> None:
    from triptych.stages.bench import measure_stream
    from triptych.stages.cascade import Cascade

    for precision in bench.said.precision:
        cascade = Cascade.load(precision=precision)
        for first in (0.0, 2.0):
            for seconds in (5, 30, 120):
                found = measure_stream(cascade, seconds, first)
                print(f"  {precision} first_seconds={first:g}: {found.line()}")
                bench.found[f"stream, {precision}, {seconds} s, first_seconds={first:g}"] = vars(found)


def audiolm(bench: Bench) -> None:
    if bench.said.audiolm is None:
        sys.exit("the part audiolm needs --audiolm DIR")
    _, model, *_ = stages()
    size = model.language_model.vocabulary_size
    wrapped = semantic_transformer(bench.said.audiolm, SHAPE, size).eval()
    more = {"prime_ids": torch.randint(0, size, (1, PROMPT)), "cond_scale": 1}
    works: dict[str, Work] = {}
    for precision in bench.said.precision:
        rule = semantic_rule(model, precision, 10**6)
        works[f"triptych {precision}"] = alone(rule, size)
    works["audiolm-pytorch"] = theirs(lambda n: wrapped.generate(max_length=PROMPT + n, **more))
    bench.say("semantic, audiolm-pytorch", "tokens/s", bench.turns(works), "audiolm-pytorch")


PARTS: dict[str, Callable[[Bench], None]] = {
    "semantic": semantic,
    "coarse": coarse,
    "fine": fine,
    "position": position,
    "batch": batch,
    "stream": stream,
    "audiolm": audiolm,
}

if __name__ == "__main__":
    main()
