"""Targets of a random projection are fitted to nothing; those that were kept are those that were made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.tokenizers.semantic.architecture import Architecture, front_end
from triptych.tokenizers.semantic.pretrain_data import Shelf, fill_shelf
from triptych.tokenizers.semantic.targets import (
    Recipe,
    keep_targets,
    kept_targets,
    make_targets,
    project,
    random_quantizer,
)

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
