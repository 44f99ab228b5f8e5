"""Fitting semantic tokens: k-means over the features of an encoder, in a stream, so that any corpus fits in memory.

    clips --shuffled--> encoder features --compared.py--> buffers of frames, shuffled --> MiniBatchKMeans
          several processes      one consumer, in order      after each: semantic.run/
          last pass: usage; centroids that no frame is nearest to are moved
    start: a tokenizer; the centroids begin as the means of the frames that it gives each id, in place of k-means++

A fit that was killed goes on from there, bit for bit. The folder that comes out is whole: encoder, centroids, record.
Knows no text.
"""

from dataclasses import asdict
from dataclasses import dataclass as record
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from triptych.tokenizers.clips import Clips, Refused
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.inputs import with_floor
from triptych.tokenizers.semantic.means import StreamMeans
from triptych.tokenizers.semantic.means_run import MeansRun, Position
from triptych.tokenizers.semantic.stream import Frames, Heard
from triptych.tokenizers.semantic.survey import Progress, Survey, settle
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer, hearing, weights_digest
from triptych.tokenizers.semantic.windows import Windows
from triptych.training.config import STRICT
from triptych.training.files import fingerprint_of, refuse_existing, write_json
from triptych.training.precision import Dtype

MOST_CLUSTERS = 2**16
"""ids are stored as uint16"""


@dataclass(frozen=True, config=STRICT)
class SemanticFitConfig:
    """How semantic tokens are fitted."""

    encoder: str
    """folder or hub id of a transformers checkpoint (wav2vec2, hubert, wavlm, …), or a checkpoint file of fairseq2"""
    backend: Literal["transformers", "fairseq2"] = "transformers"
    """what reads and hears it; fairseq2 needs an environment of its own (docs/fairseq2.md)"""
    layer: int = 3
    """hidden_states[k]: 0 enters the first block, k leaves block k"""
    clusters: int = 512
    """entries of the alphabet"""
    start: str | None = None
    """a semantic tokenizer (folder) whose ids the new ones take over where they mean the same, so that stages that were
    trained on the one go on from there on the other; it has as many ids, and the same rate"""
    standardise: bool = True
    """features to zero mean and unit variance over each clip: takes most of the speaker out"""
    phonemes: float = 0.0
    """weight of the phonemes that the encoder's CTC hears, beside the features; for encoders of `fit encoder --text`.
    1: two frames of surely different phonemes lie as far apart by them as two unrelated ones do by their features"""
    window_seconds: float = Windows.seconds
    """seconds; longer recordings are heard in windows of this length (Whisper: 30 at most)"""
    overlap_seconds: float = Windows.overlap
    """seconds that neighbouring windows share"""
    dtype: Dtype = "fp32"
    """of the encoder's products: bf16 is faster where the processor has it, and refused where it has not"""
    floor_db: float | None = None
    """dB under the clip's power of the white noise whose mean is added to the filterbanks of a w2v-BERT 2.0, so that
    fainter noise changes fewer tokens; null: as the encoder says"""
    passes: int = 3
    """over the clips"""
    buffer_frames: int = 50_000
    """frames gathered and shuffled before k-means steps over them; the first buffer also starts the centroids, and has
    as many frames as there are clusters at least"""
    batch_frames: int = 10_000
    """frames of one k-means step"""
    max_hours: float = 20.0
    """of clips, drawn at random where there are more"""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    """share of the clips that may be unusable before the fit stops; each is named, and counts as one without frames"""
    seed: int = 0
    """of all draws"""
    memory_gb: float = 2.0
    """features up to this size are kept, so that later passes need no encoder"""
    workers: int = 0
    """processes that make features, one thread each; 0: this one; any number gives the same tokens as 1"""
    device: str = "cpu"
    """where the encoder runs: cpu or cuda"""


PLACES = ("encoder", "start")
"""folders; known by what lies in them"""
FREE_KEYS = (*PLACES, "max_rejected", "memory_gb", "workers", "device")
"""may change when a fit is resumed"""


@record(frozen=True)
class FitReport:
    """How the alphabet is used by the clips that it was fitted on."""

    frames: int
    """of one pass"""
    usage: float
    """share of the ids that occur"""
    entropy: float
    """bits an id; log2 of the alphabet's size at most"""
    inertia: float
    """mean squared distance to the nearest centroid, a feature"""
    variance: float
    """mean squared distance to the mean of all frames, a feature: what one cluster would leave"""
    inertia_by_pass: tuple[float, ...]
    """mean over the buffers of each pass, as the centroids moved"""
    revived: int
    """dead centroids that were moved in the stream"""
    moved: int
    """centroids that no frame was nearest to at the end, moved to a frame that none was near"""


def fit_semantic(
    clips: Clips,
    folder: Path,
    config: SemanticFitConfig,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitReport:
    """Fits centroids on `clips` and writes the tokenizer to `folder`, with report.json beside.

    Args:
        resume: goes on from `folder`.run where there is one.
        progress: called with what is done, clips done and clips in all.
    Raises:
        ValueError: a folder in the way, too few frames, too many clips that cannot be used, no such encoder, or a run
            with other settings.
    """
    refuse_existing(folder)
    if not 2 <= config.clusters <= MOST_CLUSTERS:
        raise ValueError(f"clusters = {config.clusters}: choose 2 to {MOST_CLUSTERS}")
    if config.phonemes < 0:
        raise ValueError(f"phonemes = {config.phonemes}: give 0, or a weight above it")
    encoder = open_encoder(config)
    encoder.round()  # to the precision that is shipped, before anything is fitted to it
    chosen = draw_clips(clips, config.max_hours, config.seed)
    compared = Compared(config.standardise)
    if config.phonemes:
        compared = hearing(config.encoder, config.layer, config.standardise, config.phonemes)
    refused = Refused(len(chosen), config.max_rejected)
    heard = Heard(clips, encoder, compared, workers=config.workers, memory_gb=config.memory_gb, refused=refused)
    run = MeansRun(folder.with_name(folder.name + ".run"), run_fingerprint(config, encoder, clips, chosen))
    means = StreamMeans(config.clusters, config.batch_frames, config.seed)
    position = run.resume(means) if resume else run.begin()
    if config.start and position.clips == 0:
        means.begin_at(*means_by_id(heard, chosen, starting(config, encoder), progress))
    position = stream_means(means, heard, chosen, config, run, position, progress)
    centroids, survey, moved = settle(heard, chosen, means.centroids, progress)
    source = Path(config.encoder).name
    tokenizer = SemanticTokenizer(encoder, torch.from_numpy(centroids), compared, source=source)
    report = report_of(survey, position, moved)
    tokenizer.save(folder)
    named = {key: Path(value).name for key in PLACES if (value := getattr(config, key))}  # a path is nobody's business
    said = {**asdict(config), **named}
    write_json(folder / "report.json", {**asdict(report), "config": said})
    run.remove()
    return report


def open_encoder(config: SemanticFitConfig) -> Encoder:
    """The encoder that a config names.

    Raises:
        ValueError: there is none, or it cannot be used here; one line.
    """
    kind = Encoder
    if config.backend == "fairseq2":
        from triptych.tokenizers.semantic.fairseq2_backend import Fairseq2Encoder

        kind = Fairseq2Encoder
    windows = Windows(config.window_seconds, config.overlap_seconds)
    encoder = kind.load(config.encoder, config.layer, device=config.device, windows=windows, dtype=config.dtype)
    if config.floor_db is not None:
        encoder.front = with_floor(encoder.front, config.floor_db)
    return encoder


def starting(config: SemanticFitConfig, encoder: Encoder) -> SemanticTokenizer:
    """The tokenizer whose ids a fit takes over.

    Raises:
        ValueError: there is none, or it has another rate or number of ids; one line.
    """
    assert config.start is not None
    found = SemanticTokenizer.load(Path(config.start))
    if found.spec.size != config.clusters or found.spec.hop != encoder.hop:
        raise ValueError(
            f"start: {config.start} has {found.spec.size} ids, one every {found.spec.hop} samples; this fit "
            f"{config.clusters}, every {encoder.hop}: choose one of the same rate, and clusters={found.spec.size}"
        )
    return found


FAR = 1e4
"""where centroids begin that no frame speaks for: nowhere near, so that they are dead, and are moved"""


def means_by_id(
    heard: Heard, chosen: list[int], other: SemanticTokenizer, progress: Progress | None
) -> tuple[Frames, NDArray[np.int64]]:
    """[K, D] mean of the features of the frames that `other` gives each id, and how many they are."""
    clips = heard.features.clips
    counts = np.zeros(other.spec.size, dtype=np.int64)
    sums = np.zeros((other.spec.size, heard.features.compared.width(heard.features.encoder.dim)))
    for done, (index, frames) in enumerate(zip(chosen, heard(chosen), strict=True), 1):
        if len(frames):
            ids = other.encode([clips.waveform(index)], clips.sample_rate)[0].astype(np.int64)
            np.add.at(sums, ids, frames)
            counts += np.bincount(ids, minlength=len(counts))
        if progress:
            progress("starting where another tokenizer is", done, len(chosen))
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], FAR)
    return means.astype(np.float32), counts


def stream_means(
    means: StreamMeans,
    heard: Heard,
    chosen: list[int],
    config: SemanticFitConfig,
    run: MeansRun,
    position: Position,
    progress: Progress | None,
) -> Position:
    """Steps over `passes` shuffles of the clips, from `position` on; the run holds the state after each buffer."""
    order = [
        chosen[i]
        for turn in range(config.passes)
        for i in np.random.default_rng((config.seed, 2, turn)).permutation(len(chosen))
    ]
    begins = position.clips == 0 and not config.start
    wanted = max(config.buffer_frames, config.clusters) if begins else config.buffer_frames
    while position.clips < len(order):
        turn = position.clips // len(chosen)
        kept: list[Frames] = []
        for frames in heard(order[position.clips : (turn + 1) * len(chosen)]):
            kept.append(frames)
            clips = position.clips + len(kept)
            if progress:
                progress("k-means", clips, len(order))
            if sum(map(len, kept)) >= wanted or clips == (turn + 1) * len(chosen):
                buffer = np.concatenate(kept)
                step = means.step(buffer) if len(buffer) or position.clips == 0 else None
                position = position.after(len(kept), turn, step)
                run.save(means, position)
                kept, wanted = [], config.buffer_frames
    return position


def report_of(survey: Survey, position: Position, moved: int) -> FitReport:
    """Usage, entropy and inertia of the finished centroids."""
    total = max(1, survey.frames)
    share = survey.counts[survey.counts > 0] / total
    return FitReport(
        frames=survey.frames,
        usage=float((survey.counts > 0).mean()),
        entropy=float(-(share * np.log2(share)).sum()),
        inertia=survey.squared / total / survey.dim,
        variance=float(survey.moments.variance().mean()),
        inertia_by_pass=tuple(total / buffers for total, buffers in position.inertia),
        revived=position.revived,
        moved=moved,
    )


def draw_clips(clips: Clips, max_hours: float, seed: int) -> list[int]:
    """Indices in random order, up to `max_hours`; one at least."""
    order = np.random.default_rng((seed, 0)).permutation(len(clips))
    if len(order) == 0:
        raise ValueError("there are no clips to fit semantic tokens on: check the manifest and its split")
    hours = np.cumsum([clips.seconds(int(i)) for i in order]) / 3600
    return [int(i) for i in order[: max(1, int(np.searchsorted(hours, max_hours, side="right")))]]


def run_fingerprint(config: SemanticFitConfig, encoder: Encoder, clips: Clips, chosen: list[int]) -> str:
    """Over all that decides where a fit leads."""
    kept = {key: value for key, value in asdict(config).items() if key not in FREE_KEYS}
    if config.floor_db is None:  # a fit that began before there was one goes on
        del kept["floor_db"]
    weights = weights_digest(encoder.model.state_dict())
    began = {"start": starting(config, encoder).spec.fingerprint} if config.start else {}
    return fingerprint_of({"config": kept, "weights": weights, "clips": [clips.name(i) for i in chosen], **began})
