"""Targets of a random projection are fitted to nothing; those that were kept are those that were made."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers.clips import Clips
from triptych.tokenizers.semantic import targets
from triptych.tokenizers.semantic.architecture import Architecture, build_encoder, front_end
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.pretrain_data import Shelf, fill_shelf
from triptych.tokenizers.semantic.targets import (
    Recipe,
    keep_targets,
    kept_targets,
    make_targets,
    project,
    random_quantizer,
)
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.training.distributed import ranks

MFCC = Recipe(kind="kmeans", clusters=6, seed=0, source=None, layer=1, projection_dim=16)
RANDOM = replace(MFCC, kind="best-rq", clusters=40)
NAMES = [["a", "b", "c"]]


@pytest.fixture
def shelf(clips: Callable) -> Shelf:
    return fill_shelf(clips(3), front_end(Architecture()), None, [0, 1, 2], 20.0)


@pytest.mark.parametrize("recipe", [MFCC, RANDOM])
def test_kept_targets_are_those_that_were_made(recipe: Recipe, shelf: Shelf, tmp_path: Path) -> None:
    made = make_targets([shelf], [], recipe=recipe)
    again = make_targets([shelf], [], recipe=recipe)
    keep_targets(tmp_path, made, recipe, NAMES)
    kept = kept_targets(tmp_path, recipe, NAMES, [shelf])
    for ids, same, stored, frames in zip(made.ids[0], again.ids[0], kept.ids[0], shelf.frames, strict=True):
        assert len(ids) == frames
        assert np.array_equal(ids, same)
        assert np.array_equal(ids, stored)
        assert ids.min() >= 0
        assert ids.max() < recipe.clusters
    assert np.array_equal(kept.centroids, made.centroids)
    assert (kept.projection is None) == (recipe.kind == "kmeans")
    with pytest.raises(ValueError, match="cannot be read"):
        kept_targets(tmp_path / "nothing", recipe, NAMES, [shelf])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10.0))
def test_random_projection_is_the_papers_equation(seed: int, scale: float) -> None:
    """argmin over i of || norm(c_i) - norm(A x) ||, whatever the length of A x."""
    projection, codebook = random_quantizer(12, replace(RANDOM, seed=seed, projection_dim=5))
    frames = np.random.default_rng(seed).standard_normal((7, 12)).astype(np.float32)
    seen = frames @ projection
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    slow = np.linalg.norm(codebook[None] - seen[:, None], axis=2).argmin(axis=1)
    assert np.array_equal(project(frames, projection, codebook), slow)
    assert np.array_equal(project(frames * np.float32(scale), projection, codebook), slow)
    assert np.allclose(np.linalg.norm(codebook, axis=1), 1, atol=1e-5)


def test_random_projection_uses_many_ids(shelf: Shelf) -> None:
    ids = np.concatenate(make_targets([shelf], [], recipe=RANDOM).ids[0])
    assert len(np.unique(ids)) > 10
    other = np.concatenate(make_targets([shelf], [], recipe=replace(RANDOM, seed=1)).ids[0])
    assert not np.array_equal(ids, other)


def targets_in_rank(me: int, port: int, clips: Clips, recipe: Recipe, folder: Path) -> None:
    os.environ |= {"RANK": str(me), "LOCAL_RANK": str(me), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with ranks("cpu"):
        found = two_shelves(clips)
        keep_targets(folder / str(me), make_targets(*found, recipe=recipe), recipe, NAMES)


def two_shelves(clips: Clips) -> tuple[list[Shelf], list[tuple[Clips, list[int]]]]:
    heard = [(clips, [0, 1, 2]), (clips, [3, 4])]
    return [fill_shelf(of, front_end(Architecture()), None, indices, 20.0) for of, indices in heard], heard


@pytest.mark.parametrize("source", ["MFCCs", "features", "tokens", "random"])
def test_two_ranks_share_the_work(
    source: str, clips: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hears some of the clips; both have what one alone would have, of fewer frames than there are."""
    recipe = RANDOM if source == "random" else MFCC
    if source in ("features", "tokens"):
        encoder = Encoder(build_encoder(Architecture(dim=16, layers=1, heads=2, ffn=32)), front_end(Architecture()), 1)
        encoder.save(tmp_path / "encoder")
        recipe = replace(MFCC, source=str(tmp_path / "encoder"))
    if source == "tokens":
        centroids = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
        SemanticTokenizer(encoder, centroids, Compared(True)).save(tmp_path / "tokens")
        recipe = replace(MFCC, kind="tokens", source=str(tmp_path / "tokens"))
    monkeypatch.setattr(targets, "MOST_FRAMES", 50)
    shelves, heard = two_shelves(clips(5))
    assert sum(shelves[0].frames) > targets.MOST_FRAMES
    alone = make_targets(shelves, heard, recipe=recipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for me in "01":
        (tmp_path / me).mkdir()
    torch.multiprocessing.start_processes(
        targets_in_rank, (port, clips(5), recipe, tmp_path), nprocs=2, start_method="fork"
    )
    for me in "01":
        kept = kept_targets(tmp_path / me, recipe, NAMES, two_shelves(clips(5))[0])
        np.testing.assert_allclose(kept.centroids, alone.centroids, atol=1e-6)
        assert [list(map(list, ids)) for ids in kept.ids] == [list(map(list, ids)) for ids in alone.ids]
