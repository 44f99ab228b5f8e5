"""Section 'cost': the work and the memory of each stage. Knows no judge.

real-time factor      seconds of work a second of sound; below 1 is faster than speech
weights               what a stage holds, as it is loaded
working memory        what the process grew by while a stage worked (CPU), or the accelerator's peak
"""

import ctypes
import gc
import resource
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from triptych.evaluation.report import INK, Column, Section, Sheet, Table, plot
from triptych.evaluation.sections.speaking import sentences, unspeakable
from triptych.evaluation.subject import Evaluation
from triptych.stages.bundle import Voice, hear_voice
from triptych.stages.cascade import Cascade, Settings, Utterance
from triptych.stages.request import Request

PARTS = ("semantic", "coarse", "fine", "codec")
EAR = "ear"
"""of a cascade with several takes"""
ALL = "all together"
UTTERANCES = 8
"""spoken one after another; one more comes first and is not counted, since what is slow only once belongs to none"""
TICK_SECONDS = 0.002
ABOUT = (
    "What speaking costs on the machine of this report, an utterance at a time. A real-time factor of 0.2 means 0.2 s "
    "of work for a second of sound; below 1 is faster than speech. Reports of two machines, or of a busy one, "
    "cannot be compared here."
)
COLUMNS = {
    "rtf": Column("real-time factor", "s/s", 3, False),
    "parameters": Column("parameters", "M", 2),
    "weights": Column("weights in memory", "MB", 1, False),
    "working": Column("working memory", "MB", 0, False),
}
STATM = Path("/proc/self/statm")
"""where Linux says how many pages a process holds"""


def cost_section(subject: Evaluation) -> Section:
    """Speaks some sentences, one after another, and weighs each stage."""
    cascade, sheet = subject.cascade, Sheet("work", "Work and memory", COLUMNS)
    texts = sentences(subject)[:UTTERANCES]
    if cascade.tokenizers.text is None or not texts:
        return Section("cost", "Cost", f"{ABOUT} Not measured: there is no text to speak, or no text front end.")
    voice = some_voice(subject)
    peaks = Weighed(cascade, cascade.settings)  # and what is slow only once is done now
    say(peaks, texts[0], voice)
    for number, text in enumerate(texts):
        job = Request(cascade, replace(cascade.settings, seed=subject.settings.seed + number))
        made = say(job, text, voice)
        parts = [*PARTS, *(part for part in (EAR,) if part in job.seconds)]
        for part in parts:
            sheet.put(part, "rtf", text, job.seconds[part] / made.seconds, made.seconds)
        sheet.put(ALL, "rtf", text, sum(job.seconds[part] for part in parts) / made.seconds, made.seconds)
        subject.progress(number + 1, len(texts), "timed")
    for stage in PARTS:
        if stage == "codec":
            weights = cascade.tokenizers.acoustic.weights()
        else:
            model = cascade.stages[stage][1]
            weights = [*model.parameters(), *model.buffers()]
        weigh(sheet, stage, weights, peaks.peaks.get(stage))
    table = sheet.table(subject.settings.resamples, subject.settings.seed, note(subject))
    return Section("cost", "Cost", ABOUT, (table,), (plot("rtf", "Seconds of work a second of sound", bars(table)),))


def some_voice(subject: Evaluation) -> Voice:
    """The cascade's first named voice, or else a clip's."""
    name = next(iter(subject.cascade.voices()), None)
    if name is not None:
        return subject.cascade.named_voice(name)
    clip = subject.heard[0]
    text = clip.text if clip.text and not unspeakable(subject, clip.text) else None
    return hear_voice(subject.cascade.tokenizers, subject.file(clip), text)


def say(job: Request, text: str, voice: Voice) -> Utterance:
    """One text, through all stages."""
    front_end = job.cascade.tokenizers.text
    assert front_end is not None
    return job.utter(job.semantic([front_end.encode(text)], voice), voice, text=text)


def weigh(sheet: Sheet, stage: str, tensors: list[torch.Tensor], peak: float | None) -> None:
    sheet.put(stage, "weights", stage, sum(t.numel() * t.element_size() for t in tensors) / 1e6)
    sheet.put(stage, "parameters", stage, sum(t.numel() for t in tensors) / 1e6)
    if peak is None:
        sheet.lack(stage, "working", f"no {STATM} on this machine, and no accelerator")
    else:
        sheet.put(stage, "working", stage, peak / 1e6)


def note(subject: Evaluation) -> str:
    device = next(subject.cascade.stages["coarse"][1].parameters()).device.type
    levels = subject.cascade.settings.levels or "all"
    return (
        f"On {device}, {torch.get_num_threads()} threads, one utterance at a time, {levels} codec levels. Working "
        "memory: by how much the process (or the accelerator) grew, at the most, while the stage made one sentence; "
        "memory that it held already and used again is seen only in part."
    )


class Weighed(Request):
    """A request whose clock also weighs."""

    def __init__(self, cascade: Cascade, settings: Settings | None) -> None:
        super().__init__(cascade, settings)
        self.peaks: dict[str, float] = {}

    def clock(self, name: str) -> Any:
        on_cuda = next(self.cascade.stages["coarse"][1].parameters()).is_cuda
        return Scale(self.peaks, name, on_cuda)


class Scale:
    """Notes by how many bytes the process grew, at the most, in a `with` block; on an accelerator, its own count."""

    def __init__(self, peaks: dict[str, float], name: str, on_cuda: bool = False) -> None:
        self.peaks, self.name, self.on_cuda, self.most = peaks, name, on_cuda, 0
        self.over = threading.Event()

    def __enter__(self) -> None:
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif STATM.exists():
            give_back()
            self.before = held()
            self.watch = threading.Thread(target=self._watch, daemon=True)
            self.watch.start()

    def _watch(self) -> None:
        while not self.over.wait(TICK_SECONDS):
            self.most = max(self.most, held())

    def __exit__(self, *_: object) -> None:
        if self.on_cuda:
            self.peaks[self.name] = max(0, torch.cuda.max_memory_allocated() - self.before)
        elif STATM.exists():
            self.over.set()
            self.watch.join()
            self.peaks[self.name] = max(0, max(self.most, held()) - self.before)


def give_back() -> None:
    """Has the C library return what was freed, so that what is used again is seen to grow."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)


def held() -> int:
    """Bytes that this process holds in memory."""
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def bars(table: Table) -> Any:
    """A bar a stage."""

    def draw(axes: Any) -> None:
        found = [(stage, cells["rtf"].estimate) for stage, cells in table.rows.items() if "rtf" in cells]
        known = [(stage, e.mean) for stage, e in found if e is not None]
        axes.barh([stage for stage, _ in known], [mean for _, mean in known], color=INK, height=0.6)
        axes.invert_yaxis()
        axes.set_xlabel("s/s")

    return draw
