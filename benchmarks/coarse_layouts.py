"""The coarse stage's layouts at equal training: what each learns, and what a second of sound costs.

    python benchmarks/coarse_layouts.py SHARDS -o OUT [--steps 500] [--codec TOKENIZERS]

    OUT/aligned/ OUT/delayed/ OUT/flattened/      runs; what is trained already is not trained again
    OUT/layouts.json                              the figures of the table that is printed, in Markdown

All see the same rows in the same order, as many a step and as many steps, from one seed. Nats a frame are summed
over levels, of held-out clips with their own prompts, and over legal ids alone, so that layouts compare. Training is
counted in seconds of a core; the time of generation is a clock's, and wants a quiet machine. With --codec: how far
held-out clips, made from their semantic tokens, are from the codec alone in as many levels (evaluation/warp.py).
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import taken_by_others

from triptych.corpus.plan import BatchPlan
from triptych.corpus.shards import ShardSet
from triptych.evaluation.stage_scores import score
from triptych.evaluation.warp import cepstra, distortion
from triptych.lm.decode import run
from triptych.lm.sampling import Sampling
from triptych.lm.transformer import TransformerConfig
from triptych.stages.coarse.generate import CoarseWork, coarse_rule
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.span import PromptConfig, Span
from triptych.stages.speech import Speech, Tokens
from triptych.stages.stage import Batch, Specs
from triptych.stages.three import load_stage, record_of
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.training.checkpoint import find_checkpoint
from triptych.training.config import TrainingConfig
from triptych.training.loop import train
from triptych.training.run import RunFolder

LAYOUTS = ("aligned", "delayed", "flattened")
PROMPT_SECONDS, LONGEST_SECONDS = 2.0, 6.0
SAMPLING = Sampling(temperature=0.8)
COLUMNS = ("weights", "steps a second", "nats a frame", "nats", "accuracy", "training", "generation", "distortion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=40.0, help="of speech a step, without prompts")
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--clips", type=int, default=96, help="held out, for nats")
    parser.add_argument("--made", type=int, default=12, help="of them, made anew and timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", type=Path, help="folder of tokenizers, of the shards' codec")
    said = parser.parse_args()
    shards = ShardSet.open(said.shards)
    held_out = Speech(shards, "dev")
    for layout in LAYOUTS:
        if not (said.output / layout / "trained.json").exists():
            train_layout(said, shards, layout)
    known = {layout: load_stage(find_checkpoint(said.output / layout)) for layout in LAYOUTS}
    found = {layout: scored(said, held_out, *known[layout]) for layout in LAYOUTS}
    made = timed(said, held_out, known, found)
    if said.codec:
        judge(AcousticTokenizer.load(said.codec / "acoustic"), held_out, made, found)
    (said.output / "layouts.json").write_text(json.dumps({**found, "taken_by_others": taken_by_others()}, indent=1))
    print(table(found))


def train_layout(said: argparse.Namespace, shards: ShardSet, layout: Any) -> None:
    shape = TransformerConfig(dim=said.dim, layers=said.layers, heads=said.heads)
    config = CoarseConfig(layout=layout, levels=said.levels, transformer=shape, prompt=PromptConfig(seconds=(1.5, 3.0)))
    stage = CoarseStage(config, Specs(shards.specs["semantic"], shards.specs["acoustic"], shards.specs.get("text")))
    speech, longest = Speech(shards, "train"), shards.grid.beats(config.prompt.max_seconds)
    usable = stage.usable(speech)
    beats = [min(longest, speech.beats(index)) for index in usable]
    plan = BatchPlan(beats, shards.grid.beats(said.seconds), said.seed)

    def batches(step: int) -> list[Batch]:
        clips = [usable[int(at)] for at in plan.batch(step - 1)]
        streams = [np.random.default_rng((said.seed, step, place)) for place in range(len(clips))]
        return [stage.collate([stage.row(speech, clip, rng) for clip, rng in zip(clips, streams, strict=True)])]

    training = TrainingConfig(
        max_steps=said.steps, seed=said.seed, learning_rate=said.rate, warmup_steps=said.steps // 10,
        log_every=25, checkpoint_every=said.steps, threads=torch.get_num_threads(),
    )  # fmt: skip
    torch.manual_seed(said.seed)
    model: Any = stage.model()
    began = time.process_time()
    with RunFolder(said.output / layout, {"stage": asdict(config), "training": asdict(training)}) as folder:
        train(model, batches, training, folder, record_of(stage))
    trained = {
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "training_seconds": time.process_time() - began,
        "utterances": sum(len(plan.batch(step)) for step in range(said.steps)),
    }
    (said.output / layout / "trained.json").write_text(json.dumps(trained))


def scored(said: argparse.Namespace, held_out: Speech, stage: Any, model: Any) -> dict[str, Any]:
    """What a layout knows of held-out clips, level by level."""
    usable = stage.usable(held_out)
    clips = usable[:: max(1, len(usable) // said.clips)]
    found = score(stage, model, [stage.row(held_out, clip, np.random.default_rng((7, clip)), "own") for clip in clips])
    nats = found.nats if found.illegal is None else found.nats + np.log1p(-found.illegal)
    levels = [found.level == q for q in range(stage.config.levels)]
    grid = held_out.grid
    rate = grid.acoustic_per_beat / float(grid.beat)
    flat = stage.config.layout == "flattened"
    semantic = grid.semantic_per_beat / float(grid.beat)
    return {
        "frames": int(levels[0].sum()),
        "nats": [float(nats[level].mean()) for level in levels],
        "accuracy": [float(found.right[level].mean()) for level in levels],
        "steps_a_second": rate * stage.config.levels + semantic if flat else rate,
        **json.loads((said.output / stage.config.layout / "trained.json").read_text()),
    }


def excerpts(said: argparse.Namespace, held_out: Speech) -> Iterator[tuple[int, Tokens, Span, Tokens]]:
    """Of clips to be made: number, semantic tokens, the own start as a prompt, and the true codes."""
    grid = held_out.grid
    start, longest = grid.beats(PROMPT_SECONDS), grid.beats(LONGEST_SECONDS)
    long_enough = [int(index) for index in held_out.indices if held_out.beats(index) >= start + grid.beats(2.0)]
    for index in long_enough[:: max(1, len(long_enough) // said.made)][: said.made]:
        voice = held_out.clip(index, 0, start)
        rest = held_out.clip(index, start, longest)
        yield index, rest.semantic, Span(voice.semantic, voice.codes, voice.codes.shape[1]), rest.codes


def timed(
    said: argparse.Namespace, held_out: Speech, known: dict[str, tuple[Any, Any]], found: dict[str, dict[str, Any]]
) -> dict[str, list[tuple[Tokens, Tokens]]]:
    """Makes excerpts, the layouts in turn; codes made and true ones of each layout."""
    rules = {layout: coarse_rule(model, "fp32", 10**9) for layout, (_, model) in known.items()}
    made: dict[str, list[tuple[Tokens, Tokens]]] = {layout: [] for layout in known}
    seconds: dict[str, list[float]] = {layout: [] for layout in known}
    for number, (index, semantic, prompt, true) in enumerate(excerpts(said, held_out)):
        for layout, (stage, _) in known.items():
            nothing = np.zeros((said.levels, 0), np.uint16)
            stream = torch.Generator().manual_seed(index)
            work = CoarseWork(stage, prompt, SAMPLING, stream, nothing, semantic=semantic, ended=True)
            began = time.perf_counter()
            for _ in run(rules[layout], [work.job(rules[layout])]):
                pass
            sound = true.shape[1] * float(held_out.grid.beat) / held_out.grid.acoustic_per_beat
            if number:  # the first warms up
                seconds[layout].append((time.perf_counter() - began) / sound)
            made[layout].append((work.made, true[: said.levels]))
    for layout, each in seconds.items():
        found[layout] |= {"generation": statistics.median(each), "least": min(each), "most": max(each)}
        found[layout]["tier"] = rules[layout].engine.tier
    return made


def judge(
    codec: AcousticTokenizer,
    held_out: Speech,
    made: dict[str, list[tuple[Tokens, Tokens]]],
    found: dict[str, dict[str, Any]],
) -> None:
    """Distance of what was made to the codec alone, dB."""
    if codec.spec.fingerprint != held_out.shards.specs["acoustic"].fingerprint:
        raise SystemExit(f"--codec is of {codec.spec.fingerprint}, the shards are not: give the codec that made them")
    for layout, pairs in made.items():
        sounds = [[cepstra(codec.decode(codes), codec.spec.sample_rate) for codes in pair] for pair in pairs]
        apart = [distance for mine, true in sounds if (distance := distortion(mine, true)) is not None]
        error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
        found[layout] |= {"distortion": statistics.mean(apart), "distortion_error": error}


def table(found: dict[str, dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| layout | weights | causal steps a second of speech | held-out nats a frame | of its levels | accuracy |"
        " training, core s | generation, s a second of sound | distortion, dB |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for layout, row in found.items():
        cells = [
            f"{row['weights'] / 1e6:.2f} M",
            f"{row['steps_a_second']:g}",
            f"{sum(row['nats']):.2f}",
            ", ".join(f"{nats:.2f}" for nats in row["nats"]),
            ", ".join(f"{share:.3f}" for share in row["accuracy"]),
            f"{row['training_seconds']:.0f}",
            f"{row['generation']:.3f} ({row['least']:.3f} to {row['most']:.3f})",
            f"{row['distortion']:.2f} ± {row['distortion_error']:.2f}" if "distortion" in row else "–",
        ]
        lines.append(f"| {layout} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
