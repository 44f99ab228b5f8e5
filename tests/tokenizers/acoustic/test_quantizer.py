"""The learning quantizer: vector-quantize-pytorch is its slow reference; dead entries come back; use is counted."""

import pytest
import torch

from triptych.tokenizers.acoustic.quantizer import DEAD, TrainableQuantizer
from triptych.tokenizers.acoustic.usage import CollapseWatch, UsageWindow, perplexity, usage_metrics

LEVELS, SIZE, WIDTH = 3, 16, 4


def started(seed: int = 0, **options) -> TrainableQuantizer:
    torch.manual_seed(seed)
    quantizer = TrainableQuantizer(LEVELS, SIZE, WIDTH, options.get("decay", 0.9)).train()
    quantizer.start(torch.randn(400, WIDTH))
    return quantizer


def test_it_does_what_the_library_does():
    library = pytest.importorskip("vector_quantize_pytorch")
    ours = started()
    theirs = library.ResidualVQ(
        dim=WIDTH, num_quantizers=LEVELS, codebook_size=SIZE, decay=0.9, kmeans_init=True, rotation_trick=False,
        threshold_ema_dead_code=DEAD * 10 / SIZE,
    ).train()  # fmt: skip
    for layer in theirs.layers:
        layer._codebook.reset_cluster_size = 10 / SIZE
    theirs.load_state_dict(ours.state_dict())
    restarts = 0
    for step in range(12):
        latent = torch.randn(2, 5, WIDTH, requires_grad=True)  # 10 frames for 16 entries: some die
        before = [level.embed.clone() for level in ours.levels]
        torch.manual_seed(step)
        entries, ids, commitment = ours(latent)
        torch.manual_seed(step)
        quantised, their_ids, their_commitments = theirs(latent)
        assert torch.equal(ids, their_ids.permute(2, 0, 1))
        assert torch.allclose(entries.sum(0), quantised, atol=1e-5)
        assert torch.allclose(commitment, their_commitments.sum(), atol=1e-5)
        (mine,), (other,) = (torch.autograd.grad(c, latent) for c in (commitment, their_commitments.sum()))
        assert torch.allclose(mine, other, atol=1e-6)
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.allclose(a.float(), b.float(), atol=1e-5), name
        restarts += sum(int((a != level.embed).any()) for a, level in zip(before, ours.levels, strict=True))
    assert restarts


def test_dead_entries_begin_anew_as_vectors_of_the_batch():
    quantizer = started()
    level = quantizer.levels[0]
    with torch.no_grad():
        level.embed[0, :5], level.embed_avg[0, :5], level.cluster_size[0, :5] = 100.0, 0.0, 0.0  # far from everything
    latent = torch.randn(1, 40, WIDTH)
    quantizer(latent)
    for entry in level.embed[0, :5]:
        assert (latent[0] - entry).abs().sum(1).min() < 1e-6
    assert len(level.embed[0, :5].unique(dim=0)) == 5
    for _ in range(60):
        quantizer(torch.randn(1, 40, WIDTH))
    assert (level.cluster_size[0, :5] > DEAD * 40 / SIZE).all()  # and are used from then on


def test_more_dead_entries_than_frames_wait_for_the_next_step():
    quantizer = started()
    level = quantizer.levels[0]
    with torch.no_grad():
        level.embed[:], level.embed_avg[:], level.cluster_size[:] = 100.0, 0.0, 0.0
    quantizer(torch.randn(1, 3, WIDTH))
    assert int((level.cluster_size >= DEAD * 3 / SIZE).sum()) in (3, 4)  # three begun anew, and perhaps the one that was hit


def test_more_levels_are_nearer_and_evaluation_changes_nothing():
    quantizer = started().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    latent = torch.randn(2, 30, WIDTH)
    entries, ids, _ = quantizer(latent)
    errors = [float((entries[:q].sum(0) - latent).square().mean()) for q in range(1, LEVELS + 1)]
    assert errors == sorted(errors, reverse=True) and ids.shape == (LEVELS, 2, 30)
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


def test_a_window_counts_the_newest_steps():
    window = UsageWindow(3)
    batches = [torch.randint(0, SIZE, (LEVELS, 40)) for _ in range(5)]
    for ids in batches:
        metrics = window.add(torch.stack([torch.bincount(row, minlength=SIZE) for row in ids]))
    newest = torch.cat(batches[-3:], dim=1)
    for q in range(LEVELS):
        assert metrics[f"perplexity_{q}"] == pytest.approx(float(perplexity(newest[q], SIZE)), rel=1e-5)
        assert metrics[f"usage_{q}"] == pytest.approx(len(newest[q].unique()) / SIZE)
    assert metrics["collapsed_levels"] == 0


def test_a_collapsed_level_is_named_once():
    size = 64
    counts = torch.full((2, size), 100)
    counts[1] = 0
    counts[1, 7] = 6400
    watch = CollapseWatch(2, size)
    (line,) = watch(700, usage_metrics(counts))
    assert "level 1" in line and "step 700" in line and "perplexity 1.0 of 64" in line and "learning_rate" in line
    assert watch(701, usage_metrics(counts)) == []
    assert watch(702, usage_metrics(torch.full((2, size), 100))) == []  # it came back
    assert len(watch(703, usage_metrics(counts))) == 1
    assert watch(1, {"loss": 1.0}) == []
    few = torch.zeros(2, size)
    few[:, 0] = 10
    assert watch(704, usage_metrics(few)) == []  # ten frames show nothing
