"""What masked frames are predicted as: ids of the clean clip, made once and kept in the run folder.

    k-means, first time   MFCCs of the log-mels, 13 and two differences, averaged over the frame
    k-means, later        features of an encoder trained before, standardised over the clip (HuBERT's iterations)
    tokens                what a semantic tokenizer says; its centroids are kept too, and nothing is fitted
    BEST-RQ               normalised filterbanks @ a random matrix, to unit length ──▶ nearest of random unit vectors

    run/targets.safetensors    ids of every clip, the centroids (and the matrix), and what they were made of

Invariant: a run that goes on learns from the ids that it began with, read from that file; to rounding, they are the
same however many ranks make them. Knows neither the model that learns them nor how batches are made.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.compared import standardised
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.pretrain_data import Shelf
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer, to_rate
from triptych.training.distributed import collective_device, dealt_out, of_all_ranks, own_share, rank, sum_over_ranks
from triptych.training.files import atomic_file, fingerprint_of

FILE = "targets.safetensors"
MOST_FRAMES = 400_000
"""that k-means sees"""

Matrix = NDArray[np.float32]
Ids = list[NDArray[np.int64]]
"""[T] ids of each clip of a shelf"""


@dataclass(frozen=True)
class Recipe:
    """How ids are made; two equal recipes over the same clips give the same ids."""

    kind: Literal["kmeans", "best-rq", "tokens"]
    clusters: int
    seed: int
    source: str | None
    """folder or hub id of an earlier encoder, for k-means; none: MFCCs. For tokens: the folder of the tokenizer"""
    layer: int
    """hidden_states[k] of that encoder"""
    projection_dim: int
    """numbers that BEST-RQ compares"""


@dataclass(frozen=True)
class Targets:
    """Ids of all clips, and what made them."""

    ids: list[Ids]
    """of each shelf"""
    centroids: Matrix
    """[K, D]; those of a tokenizer lie among its encoder's standardised features"""
    phonemes: float = 0.0
    """weight of what CTC hears beside those features, of a tokenizer's"""
    classes: tuple[str, ...] = ()
    """what it tells apart there"""
    projection: Matrix | None = None
    """[80 * stride, D], of BEST-RQ alone"""


def make_targets(shelves: Sequence[Shelf], heard: Sequence[tuple[Clips, Sequence[int]]], *, recipe: Recipe) -> Targets:
    """The ids of all shelves; what is fitted is fitted on the first. `heard`: where their clips came from. Every rank
    hears its share of the clips, and gets the ids of all.

    Raises:
        ValueError: no such encoder, layer or tokenizer, or one of another rate.
    """
    rows = [Row(place, row) for place, shelf in enumerate(shelves) for row in range(len(shelf))]

    def of_all(ids_of: Callable[[int], NDArray[np.int64]]) -> list[Ids]:
        """`ids_of` each row, by its number in `rows`, of each shelf."""
        every = iter(dealt_out(len(rows), ids_of))
        return [[next(every) for _ in range(len(shelf))] for shelf in shelves]

    if recipe.kind == "tokens":
        tokenizer = SemanticTokenizer.load(Path(recipe.source or ""))
        _refuse_other_rate(recipe.source, tokenizer.encoder.hop, shelves[0].front.hop)
        said = of_all(lambda i: own_tokens(tokenizer, *rows[i].clip(heard), rows[i].frames(shelves)))
        compared = tokenizer.compared
        names = compared.head.classes if compared.head and compared.phonemes else ()
        return Targets(said, tokenizer.centroids.numpy(), compared.phonemes, names)
    if recipe.kind == "best-rq":
        shelf = shelves[0]
        projection, codebook = random_quantizer(filterbank.MELS * shelf.front.stride, recipe)
        ids = of_all(lambda i: project(stacked_mels(shelves[rows[i].shelf], rows[i].row), projection, codebook))
        return Targets(ids, codebook, projection=projection)
    if recipe.source is None:
        found = own_share(len(rows), lambda i: mfcc_features(shelves[rows[i].shelf], rows[i].row))
    else:
        encoder = Encoder.load(recipe.source, recipe.layer)
        _refuse_other_rate(recipe.source, encoder.hop, shelves[0].front.hop)
        found = own_share(len(rows), lambda i: own_features(encoder, *rows[i].clip(heard), rows[i].frames(shelves)))
    lengths = dealt_out(len(rows), lambda i: len(found[i]))[: len(shelves[0])]
    frames = drawn_frames(found, lengths, recipe.seed)
    centroids = of_all_ranks(fit_clusters(frames, recipe.clusters, recipe.seed) if rank() == 0 else None)[0]
    del frames
    return Targets(of_all(lambda i: nearest(found[i], centroids)), centroids)


@dataclass(frozen=True)
class Row:
    """A row of one of the shelves."""

    shelf: int
    row: int

    def clip(self, heard: Sequence[tuple[Clips, Sequence[int]]]) -> tuple[Clips, int]:
        clips, indices = heard[self.shelf]
        return clips, indices[self.row]

    def frames(self, shelves: Sequence[Shelf]) -> int:
        return int(shelves[self.shelf].frames[self.row])


def _refuse_other_rate(source: str | None, hop: int, own: int) -> None:
    if hop != own:
        raise ValueError(
            f"targets_from: {source} has a frame every {hop} samples, the new encoder every {own}: "
            "choose encoders of one rate"
        )


def mfcc_features(shelf: Shelf, row: int) -> Matrix:
    """[T, 39]"""
    return filterbank.mfcc(shelf.mels[row].astype(np.float32), shelf.front.stride)[: shelf.frames[row]]


def own_features(encoder: Encoder, clips: Clips, index: int, frames: int) -> Matrix:
    """[T, D] of an earlier encoder, standardised over the clip."""
    if frames == 0:  # a clip that cannot be used, perhaps
        return np.zeros((0, encoder.dim), dtype=np.float32)
    waveform = to_rate(clips.waveform(index), clips.sample_rate)
    return standardised(encoder.features([waveform])[0]).numpy()[:frames]


def own_tokens(tokenizer: SemanticTokenizer, clips: Clips, index: int, frames: int) -> NDArray[np.int64]:
    """[T]: what the tokenizer says of the clip."""
    if frames == 0:
        return np.zeros(0, dtype=np.int64)
    return tokenizer.encode([clips.waveform(index)], clips.sample_rate)[0][:frames].astype(np.int64)


def stacked_mels(shelf: Shelf, row: int) -> Matrix:
    """[T, 80 * stride], each mel normalised over the clip."""
    mels = filterbank.normalise(shelf.mels[row].astype(np.float32))
    return filterbank.stack(mels, shelf.front.stride)[: shelf.frames[row]]


def random_quantizer(width: int, recipe: Recipe) -> tuple[Matrix, Matrix]:
    """A matrix [width, D] and unit vectors [K, D], never trained (Chiu et al. 2022, section 3.1): Xavier and normal."""
    generator = np.random.default_rng((recipe.seed, 6))
    bound = np.sqrt(6 / (width + recipe.projection_dim))
    projection = generator.uniform(-bound, bound, (width, recipe.projection_dim)).astype(np.float32)
    codebook = generator.standard_normal((recipe.clusters, recipe.projection_dim)).astype(np.float32)
    return projection, codebook / np.linalg.norm(codebook, axis=1, keepdims=True)


def project(frames: Matrix, projection: Matrix, codebook: Matrix) -> NDArray[np.int64]:
    """[T]: the unit vector nearest to each projected frame (the equation of section 3.1)."""
    seen = frames @ projection
    return nearest(seen / (np.linalg.norm(seen, axis=1, keepdims=True) + np.float32(1e-9)), codebook)


def drawn(frames: int, seed: int) -> NDArray[np.int64]:
    """Numbers of at most MOST_FRAMES of so many frames, in order."""
    if frames <= MOST_FRAMES:
        return np.arange(frames)
    return np.sort(np.random.default_rng((seed, 3)).choice(frames, MOST_FRAMES, replace=False))


def drawn_frames(found: Mapping[int, Matrix], lengths: Sequence[int], seed: int) -> Matrix:
    """[N, D] of those that are `drawn`. `found`: frames of this rank's clips; `lengths`: of the clips of all."""
    ends = np.cumsum(lengths)
    chosen = drawn(int(ends[-1]), seed)
    width = max(of_all_ranks(max((frames.shape[1] for frames in found.values()), default=0)))
    rows = torch.zeros(len(chosen), width)
    for i, frames in found.items():
        if i < len(lengths):
            begin = int(ends[i]) - lengths[i]
            there = slice(*np.searchsorted(chosen, [begin, ends[i]]))
            rows[there] = torch.from_numpy(frames[chosen[there] - begin])
    return sum_over_ranks(rows.to(collective_device())).cpu().numpy()  # each row is of one rank, and 0 elsewhere


def fit_clusters(frames: Matrix, clusters: int, seed: int) -> Matrix:
    """[clusters, D] k-means of frames [N, D]."""
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(min(clusters, len(frames)), batch_size=4096, n_init=1, max_iter=20, random_state=seed)
    return np.asarray(means.fit(frames).cluster_centers_, dtype=np.float32)


def nearest(frames: Matrix, centroids: Matrix) -> NDArray[np.int64]:
    """[T] index of the nearest centroid of each frame."""
    distance = np.square(centroids).sum(axis=1) - 2 * frames @ centroids.T
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)


def keep_targets(run: Path, targets: Targets, recipe: Recipe, names: Sequence[Sequence[str]]) -> None:
    """Writes run/targets.safetensors; `names`: of the clips of each shelf."""
    arrays: dict[str, NDArray[np.generic]] = {"centroids": targets.centroids}
    if targets.projection is not None:
        arrays["projection"] = targets.projection
    for place, ids in enumerate(targets.ids):
        arrays[f"ids.{place}"] = np.concatenate(ids).astype(np.int32)
        arrays[f"frames.{place}"] = np.array([len(x) for x in ids], dtype=np.int64)
    said = {"format": "1", "recipe": json.dumps(asdict(recipe)), "clips": fingerprint_of([list(x) for x in names])}
    if targets.phonemes:
        said |= {"phonemes": json.dumps(targets.phonemes), "classes": json.dumps(targets.classes)}
    with atomic_file(run / FILE) as beside:
        save_file(arrays, beside, metadata=said)


def has_targets(run: Path) -> bool:
    return (run / FILE).exists()


def kept_targets(run: Path, recipe: Recipe, names: Sequence[Sequence[str]], shelves: Sequence[Shelf]) -> Targets:
    """What `keep_targets` wrote.

    Raises:
        ValueError: it cannot be read, or was made of other clips or by another recipe than the run goes on with.
    """
    path = run / FILE
    try:
        with safe_open(path, "np") as file:
            said = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): copy it again, or begin another run") from None
    began = Recipe(**json.loads(said["recipe"]))
    if began != recipe:
        changed = [key for key, value in asdict(began).items() if asdict(recipe)[key] != value]
        raise ValueError(f"{path} was made with other {', '.join(changed)}: resume with what the run began with")
    frames = [arrays[f"frames.{place}"] for place in range(len(shelves))]
    as_long = all(np.array_equal(x, shelf.frames) for x, shelf in zip(frames, shelves, strict=True))
    if said["clips"] != fingerprint_of([list(x) for x in names]) or not as_long:
        raise ValueError(f"{path} was made of other clips: resume with the manifest that the run began with")
    ids = [np.split(arrays[f"ids.{i}"].astype(np.int64), x.cumsum()[:-1]) for i, x in enumerate(frames)]
    phonemes, classes = json.loads(said.get("phonemes", "0.0")), tuple(json.loads(said.get("classes", "[]")))
    return Targets(ids, arrays["centroids"], phonemes, classes, arrays.get("projection"))
