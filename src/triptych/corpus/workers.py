"""One command, as one process or as several on this machine, alone or beside others that were started alike.

    triptych tokenize … workers=2                      this process: plan, progress, shards.json
      ├─ worker 0: tokenizers, readers                 half of the sound of this process's share
      └─ worker 1: tokenizers, readers                 the other half, in whole shards
    RANK=1 WORLD_SIZE=4 triptych tokenize …            the share of process 1 of 4

A worker ends when the process that started it does. Knows no shard file.
"""

import os
import signal
import threading
from collections.abc import Sequence
from heapq import heappop, heappush
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

from triptych.corpus.shard_plan import ManifestIndex, Share, begin, plan_of
from triptych.corpus.shard_records import Summary, Work, complete
from triptych.corpus.shards import Progress, ShardConfig, make_shards
from triptych.tokenizers.trio import Tokenizers
from triptych.training.memory import keep_freed_memory


def tokenize(
    manifest: Path,
    tokenizers: Path,
    folder: Path,
    config: ShardConfig,
    share: Share,
    progress: Progress | None = None,
    stop_at: float | None = None,
) -> Summary:
    """Makes this process's share of the shards of a manifest, and completes the folder where no shard is missing.

    Args:
        tokenizers: their folder.
        stop_at: `time.time()` at which to stop.
    Raises:
        ValueError: what is given does not belong together, too much was rejected, or a worker was killed.
    """
    index = ManifestIndex(manifest, config.rows_per_shard)
    shards = share.shards(index.shards)
    loaded = load(tokenizers, config, 0)
    plan = begin(folder, plan_of(index, loaded, config.batch_seconds), config.codes_from)
    if config.workers == 1:
        work = make_shards(index, shards, loaded, folder, plan, config, progress, stop_at)
    else:
        del loaded  # each worker has its own
        work = run_workers(
            deal(index, shards, config.workers), (index, tokenizers, folder, plan, config, stop_at), progress
        )
    return complete(folder, config.max_rejected, work)


def deal(index: ManifestIndex, shards: Sequence[int], workers: int) -> list[list[int]]:
    """The shards of each worker, in order, with about as much sound for one as for another: follows from the manifest.

    The longest shard goes first, each to whoever has least (Graham 1969).
    """
    seconds = {k: sum(entry.recording.seconds for entry in index.entries(k) if entry.recording) for k in shards}
    dealt = [(0.0, number, list[int]()) for number in range(workers)]
    for k in sorted(shards, key=lambda k: (-seconds[k], k)):
        least, number, mine = heappop(dealt)
        heappush(dealt, (least + seconds[k], number, [*mine, k]))
    return [sorted(mine) for _, _, mine in sorted(dealt, key=lambda one: one[1])]


def load(tokenizers: Path, config: ShardConfig, worker: int) -> Tokenizers:
    """The tokenizers of one worker, on its device and with its share of the cores."""
    import torch

    from triptych.training.device import pick_device

    local_rank, local_ranks = (
        int(os.environ.get(key, default)) for key, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    if config.threads or "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(config.threads or max(1, cores // (local_ranks * config.workers)))
    device = str(pick_device(config.device, "device"))
    if device != "cpu" and config.device in ("auto", "cuda"):
        device = f"cuda:{(local_rank * config.workers + worker) % torch.cuda.device_count()}"
        torch.backends.cudnn.allow_tf32 = False  # its 10 bits would give other tokens
    on_cpu = device == "cpu"  # which is no faster with several clips at once
    if on_cpu:
        keep_freed_memory()
    loaded = Tokenizers.load(tokenizers, device=device, batch_seconds=0.0 if on_cpu else config.batch_seconds)
    loaded.wake()
    return loaded


def run_workers(dealt: Sequence[Sequence[int]], given: tuple[Any, ...], progress: Progress | None) -> Work:
    """Starts a worker for each part of `dealt`, and follows them to their end; the first that fails ends all.

    Raises:
        ValueError: what the worker said, or that it was killed.
    """
    spawn = get_context("spawn")
    processes, ends = [], []
    for number, mine in enumerate(dealt):
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=worker_main, args=(number, theirs, mine, *given), daemon=True)
        process.start()
        theirs.close()  # so that its death is seen here as the end of what it says
        processes.append(process)
        ends.append(ours)
    try:
        return follow(ends, processes, progress)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def follow(ends: Sequence[connection.Connection], processes: Sequence[Any], progress: Progress | None) -> Work:
    """Adds up what the workers say until each has said what it did."""
    counts, done = {}, Work()
    open_ends = dict(zip(ends, processes, strict=True))
    while open_ends:
        for end in connection.wait(list(open_ends)):
            assert isinstance(end, connection.Connection)
            try:
                said = end.recv()
            except EOFError:
                process = open_ends[end]
                process.join()
                code = process.exitcode
                raise ValueError(
                    f"a worker ended ({f'signal {-code}' if code < 0 else f'exit code {code}'}) before its work did: "
                    "run the same command again, and it goes on; where memory was short, with fewer workers"
                ) from None
            if isinstance(said, Work):
                done += said
                del open_ends[end]
            elif isinstance(said, str):
                raise ValueError(said)
            else:
                counts[end] = said
                if progress is not None:
                    progress(sum(rows for rows, _ in counts.values()), sum(total for _, total in counts.values()))
    return done


def worker_main(
    number: int,
    end: connection.Connection,
    shards: Sequence[int],
    index: ManifestIndex,
    tokenizers: Path,
    folder: Path,
    plan: str,
    config: ShardConfig,
    stop_at: float | None,
) -> None:
    """One worker: makes `shards`; says (rows, total) as it goes, at last its `Work`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, and ends its workers
    end_with_parent()
    try:
        loaded = load(tokenizers, config, number)
        work = make_shards(
            index, shards, loaded, folder, plan, config, lambda rows, total: end.send((rows, total)), stop_at
        )
        end.send(work)
    except (ValueError, OSError) as error:
        end.send(str(error))


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, killed or not."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
