"""`bench`: how fast a bundle speaks on this machine, as a table. Knows no model: `triptych.stages.bench` measures."""

from dataclasses import asdict
from typing import Annotated

import typer

from triptych.cli.options import Bundle, Json, Precision
from triptych.cli.progress import result, result_json


def bench(
    bundle: Bundle = None,
    precision: Precision = None,
    batch: Annotated[int, typer.Option("--batch", help="Requests at once, beside one alone.")] = 8,
    as_json: Json = False,
) -> None:
    """Measure how fast a bundle speaks on this machine.

    Each stage for one request and for several at once; then two streams: time to the first sound, and gaps.
    """
    if batch < 1:
        raise ValueError(f"--batch {batch}: give at least 1")
    import torch

    from triptych.stages.bench import measure_stages, measure_stream
    from triptych.stages.cascade import Cascade

    cascade = Cascade.load(bundle, precision=precision or "fp32")  # type: ignore[arg-type]
    stages = [speed for requests in (1, batch) for speed in measure_stages(cascade, requests)]
    streams = {first: measure_stream(cascade, 15.0, first) for first in (0.0, 2.0)}
    tier = cascade.rules.of("semantic").engine.tier
    if as_json:
        rows = [asdict(speed) | {"tokens_per_second": speed.tokens_per_second} for speed in stages]
        shown = {f"first_seconds={first:g}": asdict(speed) for first, speed in streams.items()}
        result_json({"precision": cascade.rules.precision, "tier": tier, "stages": rows, "streams": shown})
        return
    result(f"{cascade.rules.precision} weights, {tier} tier, {torch.get_num_threads()} threads")
    result("stage      requests   tokens/s   work a second of sound")
    for speed in stages:
        work = f"{speed.work_per_sound:8.3f} s"
        result(f"{speed.stage:<10} {speed.requests:>8} {speed.tokens_per_second:>10,.0f}   {work}")
    for first, stream in streams.items():
        result(f"stream, first_seconds={first:g}: {stream.line()}")
