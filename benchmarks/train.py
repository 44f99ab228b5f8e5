"""A training step, side by side: forward, backward, clipping, AdamW; alternating, medians.

    python benchmarks/train.py                        two cores, 88 M, 4 × 512, fp32 and bf16
    python benchmarks/train.py --device cuda --dtype bf16 --dim 1024 --layers 24 --heads 16 --rows 32

    llama      triptych.lm against transformers' LlamaForCausalLM: the same weights, ids, dtype, optimiser and
               vocabulary, no padding; first that both losses are equal
    lengths    the same with rows of real lengths: side by side here, padded and masked there; useful tokens a second
    stages     each stage as its config NAME/base says, on rows that it draws itself, of random tokens
    audiolm    audiolm-pytorch's semantic transformer of the same width and depth, after the other parts, with --audiolm
               DIR (--part alone: nothing else); benchmarks/audiolm.py says how that folder is made

Useful tokens are positions that belong to a row. FLOP/s count matrix products alone: of the language models what they
must, with the causal half of attention; of the stages what torch's counter saw. Their share is of the matrix rate that
this run measures. Nothing else may run: a busy machine is refused unless --busy says that figures do not matter.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audiolm import semantic_transformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from triptych.cli.paths import find_config
from triptych.lm.llama import to_llama
from triptych.lm.packing import Packed
from triptych.lm.transformer import LanguageModel, TransformerConfig
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.stages.three import STAGES, make_stage
from triptych.stages.training import batches_of, stage_config_class
from triptych.tokenizers.spec import TimeGrid, TokenizerSpec
from triptych.training.config import TrainingConfig, build, load_tree
from triptych.training.loop import compile_parts
from triptych.training.memory import KEPT_BYTES, keep_freed_memory
from triptych.training.optimiser import make_optimizer
from triptych.training.step import autocast

BUSY_LOAD = 0.5
WANTED = {"fp32": 1.1, "bf16": 1.2}
SECONDS_OF_SPEECH = (1.0, 20.0, 6.0, 0.5)
"""of a clip: shortest, longest, median, and the spread of its logarithm"""

LEFT_ALONE = 64 << 20
"""bytes of the heap's free end that glibc keeps by itself, once a process has seen large blocks"""

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument(
        "--part", nargs="*", choices=["llama", "lengths", "stages"], default=["llama", "lengths", "stages"]
    )
    for name, default in {"rounds": 5, "cores": 2, "dim": 768, "layers": 12, "heads": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in {"vocabulary": 1107, "rows": 4, "steps": 512, "budget": 4096}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="ours, as training.compile does")
    parser.add_argument("--audiolm", type=Path)
    parser.add_argument("--busy", action="store_true", help="measure all the same; the figures mean nothing")
    said = parser.parse_args()
    if said.device == "cpu":
        if os.getloadavg()[0] > BUSY_LOAD and not said.busy:
            sys.exit(f"the machine is busy (load {os.getloadavg()[0]:.1f}): wait, or say --busy")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: said.cores])
        torch.set_num_threads(said.cores)
    for dtype in said.dtype:
        bench = Bench(said, dtype)
        for part in said.part:
            {"llama": llama, "lengths": lengths, "stages": stages}[part](bench)
        if said.audiolm:
            audiolm(bench, said.audiolm)


class Bench:
    """What all parts share: the shape, the dtype, the clock."""

    def __init__(self, said: argparse.Namespace, dtype: str) -> None:
        self.said, self.dtype, self.device = said, dtype, torch.device(said.device)
        self.config = TrainingConfig(dtype=dtype)
        self.rate = self._matrix_rate()
        print(f"\n{dtype} on {said.device}: matrices are multiplied at {self.rate / 1e9:,.0f} GFLOP/s")

    def language_model(self) -> LanguageModel:
        torch.manual_seed(0)
        shape = TransformerConfig(dim=self.said.dim, layers=self.said.layers, heads=self.said.heads)
        return LanguageModel(shape, self.said.vocabulary, tied=True).to(self.device)

    def step(self, model: nn.Module, loss: Callable[[], Tensor]) -> Step:
        """One optimiser step of `model`; returns its loss."""
        optimizer = make_optimizer(list(model.parameters()), self.config)

        def step() -> Tensor:
            with autocast(self.device, self.dtype):
                value = loss()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return value.detach()

        return step

    def seconds(self, steps: dict[str, Step]) -> dict[str, float]:
        """Median of each, taken in turns; the first round warms up."""
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(self.said.rounds + 1):
            for name, step in steps.items():
                keep_freed_memory(
                    KEPT_BYTES if name == "ours" else LEFT_ALONE
                )  # as `train` does, and as a script finds it
                began = self._now()
                step()
                if turn:
                    taken[name].append(self._now() - began)
        return {name: statistics.median(each) for name, each in taken.items()}

    def say(self, name: str, tokens: float, flops: float, seconds: float, more: str = "") -> None:
        rate = flops / seconds
        work = f"{rate / 1e9:9,.0f} GFLOP/s  {rate / self.rate:4.0%}"
        print(f"  {name:<28} {tokens / seconds:10,.0f} tokens/s  {work} {more}")

    def compiled(self, model: nn.Module) -> None:
        if self.said.compile:
            compile_parts(model)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _matrix_rate(self) -> float:
        """FLOP/s of a square product of the model's own dtype: the best of a few."""
        size = 8192 if self.device.type == "cuda" else 1536
        a = torch.randn(size, size, device=self.device, dtype=torch.bfloat16 if self.dtype == "bf16" else torch.float32)
        taken = []
        for _ in range(8):
            began = self._now()
            a @ a
            taken.append(self._now() - began)
        return 2 * size**3 / min(taken)


def flops(model: LanguageModel, lengths: list[int]) -> float:
    """Of forward and backward: six a weight and token, and the causal half of attention."""
    matrices = sum(p.numel() for p in model.transformer.parameters() if p.dim() > 1)
    width = model.config.heads * model.config.head_size
    attention = model.config.layers * sum(6 * n * n * width for n in lengths)
    return 6 * (matrices + model.vocabulary_size * model.config.dim) * sum(lengths) + attention


def peer(bench: Bench, model: LanguageModel) -> nn.Module:
    from transformers import LlamaForCausalLM

    config, state = to_llama(model)
    theirs: Any = LlamaForCausalLM(config).to(bench.device)
    theirs.load_state_dict(state)
    return theirs.train()  # type: ignore[no-any-return]


def entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


def compare(bench: Bench, name: str, ours: Step, theirs: Step, work: float, tokens: int) -> None:
    a, b = float(ours()), float(theirs())
    near = abs(a - b) <= (1e-5 if bench.dtype == "fp32" else 1e-2) * abs(b)
    seconds = bench.seconds({"ours": ours, "theirs": theirs})
    ratio = seconds["theirs"] / seconds["ours"]
    bench.say(f"{name}: triptych", tokens, work, seconds["ours"])
    same = "equal" if near else "DIFFERENT"
    said = f" ×{ratio:.2f}; losses {same}: {a:.6f} {b:.6f}"
    bench.say(f"{name}: LlamaForCausalLM", tokens, work, seconds["theirs"], said)


def llama(bench: Bench) -> None:
    said, model = bench.said, bench.language_model()
    theirs = peer(bench, model)
    bench.compiled(model)
    ids = torch.randint(0, said.vocabulary, (said.rows, said.steps + 1), device=bench.device)
    given, wanted = ids[:, :-1], ids[:, 1:]
    compare(
        bench,
        f"{said.rows} × {said.steps}",
        bench.step(model, lambda: entropy(model(given), wanted)),
        bench.step(theirs, lambda: entropy(theirs(given, use_cache=False).logits, wanted)),
        flops(model, [said.steps] * said.rows),
        given.numel(),
    )
    print(f"  {'':<28} wanted: ×{WANTED[bench.dtype]}")


def lengths(bench: Bench) -> None:
    said, model = bench.said, bench.language_model()
    theirs = peer(bench, model)
    bench.compiled(model)
    rng = np.random.default_rng(0)
    sizes = [int(n) for n in np.clip(rng.lognormal(np.log(said.steps * 0.7), 0.4, said.rows), 16, 2 * said.steps)]
    rows = [torch.randint(0, said.vocabulary, (n + 1,), device=bench.device) for n in sizes]
    packed = Packed.of(sizes).to(bench.device)
    given, wanted = torch.cat([row[:-1] for row in rows])[None], torch.cat([row[1:] for row in rows])
    ids = nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-100)
    mask = (labels != -100).long()
    compare(
        bench,
        f"{min(sizes)} to {max(sizes)}",
        bench.step(model, lambda: entropy(model(given, packed=packed), wanted)),
        bench.step(theirs, lambda: entropy(theirs(ids, attention_mask=mask, use_cache=False).logits, labels)),
        flops(model, sizes),
        sum(sizes),
    )


def stages(bench: Bench) -> None:
    speech = Speech(RandomShards(), "train")  # type: ignore[arg-type]
    kinds = speech.shards.specs
    specs = Specs(kinds["semantic"], kinds["acoustic"], kinds["text"])
    for name in STAGES:
        tree = load_tree(find_config(f"{name}/base"), []) | {"budget": bench.said.budget}
        config: Any = build(stage_config_class(name), tree)
        shape = {"dim": bench.said.dim, "layers": bench.said.layers, "heads": bench.said.heads}
        own = replace(config.stage, transformer=replace(config.stage.transformer, **shape))
        stage = make_stage(name, {}, specs)
        stage = replace(stage, config=own).measured(speech)  # type: ignore[type-var]
        model = stage.model().to(bench.device)
        bench.compiled(model)
        training = replace(config.training, device=bench.said.device)
        batch = batches_of(stage, speech, stage.usable(speech), replace(config, training=training))(1)[0]
        step = bench.step(model, lambda model=model, batch=batch: model.loss(batch)[0])  # type: ignore[misc]
        with FlopCounterMode(display=False) as counted:
            step()
        _, metrics = model.loss(batch)
        positions = max(rows.positions for rows in batch.packed.values())
        more = f" {metrics['targets'] / positions:.0%} targets, {metrics['padding_share']:.1%} padding"
        bench.say(name, positions, counted.get_total_flops(), bench.seconds({name: step})[name], more)


@dataclass
class RandomRow:
    id: str
    speaker: str


class RandomShards:
    """Clips of random tokens at the rates of the base configs, of four speakers."""

    def __init__(self, clips: int = 400) -> None:
        rng = np.random.default_rng(0)
        self.specs = {
            "text": TokenizerSpec("text", "random", 80, fingerprint="t"),
            "semantic": TokenizerSpec("semantic", "random", 1024, 16_000, 320, fingerprint="s"),
            "acoustic": TokenizerSpec("acoustic", "random", 1024, 24_000, 320, levels=8, fingerprint="a"),
        }
        self.grid = TimeGrid.of(self.specs["semantic"], self.specs["acoustic"])
        shortest, longest, median, spread = SECONDS_OF_SPEECH
        seconds = np.clip(rng.lognormal(np.log(median), spread, clips), shortest, longest)
        beats = [self.grid.beats(float(each)) for each in seconds]
        self._semantic = [rng.integers(0, 1024, n * self.grid.semantic_per_beat).astype(np.uint16) for n in beats]
        self._codes = [rng.integers(0, 1024, (8, n * self.grid.acoustic_per_beat)).astype(np.uint16) for n in beats]
        self._text = [rng.integers(0, 80, int(each * 14)).astype(np.uint16) for each in seconds]
        self.row = [RandomRow(f"clip{i}", f"voice{i % 4}") for i in range(clips)].__getitem__
        self.speaker_of = np.arange(clips) % 4
        self.text, self.semantic, self.codes = (x.__getitem__ for x in (self._text, self._semantic, self._codes))

    def indices(self, split: str) -> Any:
        return np.arange(len(self._text))

    def lengths(self, kind: str) -> Any:
        return np.array([each.shape[-1] for each in {"text": self._text, "semantic": self._semantic}[kind]])


def audiolm(bench: Bench, folder: Path) -> None:
    said, model = bench.said, bench.language_model()
    bench.compiled(model)
    wrapped = semantic_transformer(folder, model.config, said.vocabulary, bench.device)
    ids = torch.randint(0, said.vocabulary, (said.rows, said.steps), device=bench.device)
    theirs: nn.Module = wrapped.transformer
    steps = {
        "triptych": bench.step(model, lambda: entropy(model(ids)[:, :-1], ids[:, 1:])),
        "audiolm-pytorch": bench.step(theirs, lambda: wrapped(semantic_token_ids=ids, return_loss=True)),
    }
    seconds = bench.seconds(steps)
    for name, each in (("triptych", model), ("audiolm-pytorch", theirs)):
        weights = sum(parameter.numel() for parameter in each.parameters())
        per_second = ids.numel() / seconds[name]
        print(f"  {name:<28} {per_second:10,.0f} tokens/s  {weights / 1e6:.0f} M weights")
    print(f"  {'':<28} ×{seconds['audiolm-pytorch'] / seconds['triptych']:.2f}")


if __name__ == "__main__":
    main()
