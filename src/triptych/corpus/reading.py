"""Reads and prepares recordings beside the encoder, batch after batch, across the borders of shards.

    manifest ──▶ batches of similar lengths ──▶ threads: decode, resample, loudness, text ──▶ the encoder
                 longest first                  up to `ahead_seconds` of sound, or one batch

Which rows lie in which batch follows from the manifest's lengths alone. Decoding, resampling and filtering leave the
interpreter to the encoder's thread. Knows no shard file.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from triptych.corpus.clips import part_of
from triptych.corpus.shard_plan import Entry
from triptych.tokenizers.trio import Prepared, Tokenizers


@dataclass(frozen=True)
class Job:
    """Rows that are encoded together."""

    shard: int
    rows: tuple[int, ...]
    """within the shard"""
    entries: tuple[Entry, ...]
    """of these rows"""
    seconds: float
    """of sound, as the manifest has it"""
    last: bool
    """of its shard"""


@dataclass(frozen=True)
class Heard:
    """One recording, ready for the tokenizers."""

    text: NDArray[np.uint16]
    """[L]"""
    prepared: Prepared


def jobs_of(shard: int, entries: Sequence[Entry], batch_seconds: float) -> list[Job]:
    """Batches whose padded length is at most `batch_seconds`, where one recording is not longer alone."""
    seconds = [entry.recording.seconds if entry.recording else 0.0 for entry in entries]
    batches: list[list[int]] = []
    for row in sorted(range(len(entries)), key=lambda row: (-seconds[row], row)):
        longest = seconds[batches[-1][0]] if batches else 0.0
        if not batches or longest * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
        batches[-1].append(row)
    return [
        Job(
            shard,
            tuple(rows),
            tuple(entries[row] for row in rows),
            sum(seconds[row] for row in rows),
            last=number == len(batches),
        )
        for number, rows in enumerate(batches, start=1)
    ]


class Reader:
    """Threads that read ahead; a context."""

    def __init__(self, tokenizers: Tokenizers, threads: int, ahead_seconds: float) -> None:
        self.tokenizers, self.ahead_seconds = tokenizers, ahead_seconds
        self.waited = 0.0
        """seconds in which nothing was ready for the encoder"""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[Heard | str]]]:
        """Jobs in order, with what was heard of each row, or the reason why nothing was."""
        waiting: deque[tuple[Job, list[Future[Heard | str]]]] = deque()
        ahead, coming = 0.0, iter(jobs)
        job = next(coming, None)
        while job is not None or waiting:
            while job is not None and (not waiting or ahead + job.seconds <= self.ahead_seconds):
                waiting.append((job, [self._pool.submit(self.hear, entry) for entry in job.entries]))
                ahead += job.seconds
                job = next(coming, None)
            ready, futures = waiting.popleft()
            began = time.perf_counter()
            heard = [future.result() for future in futures]
            self.waited += time.perf_counter() - began
            ahead -= ready.seconds
            del futures
            yield ready, heard
            del heard

    def hear(self, entry: Entry) -> "Heard | str":
        """One recording, or why it cannot be used."""
        recording, text = entry.recording, np.zeros(0, dtype=np.uint16)
        if recording is None:
            return entry.reason
        try:
            if self.tokenizers.text is not None and recording.text is not None:
                text = self.tokenizers.text.encode(recording.text)
            return Heard(
                text,
                self.tokenizers.prepare_file(recording.path, part_of(recording)),
            )
        except (ValueError, OSError) as error:
            return " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
