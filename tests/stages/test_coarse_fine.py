"""The coarse stage in both layouts, and the fine stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.lm.sampling import Sampling
from triptych.stages.coarse.generate import generate_coarse
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage, Flattening
from triptych.stages.fine.generate import generate_fine
from triptych.stages.fine.sequence import FineConfig, FineStage
from triptych.stages.span import PromptConfig, Span
from triptych.stages.stage import Specs
from triptych.stages.windows import windows
from triptych.tokenizers.spec import TokenizerSpec


def specs_of(levels: int) -> Specs:
    return Specs(
        TokenizerSpec("semantic", "fake", 20, 16_000, 320, fingerprint="s"),
        TokenizerSpec("acoustic", "fake", 16, 24_000, 320, levels=levels + 1, fingerprint="a"),
    )


GREEDY = Sampling(temperature=0.0)
LAYOUTS = ["aligned", "flattened"]


def nobody(levels: int = 4) -> Span:
    return Span(np.zeros(0, np.uint16), np.zeros((levels, 0), np.uint16), 0)


def coarse_stage(layout, specs, shape) -> CoarseStage:
    prompt = PromptConfig(share=0.5, seconds=(0.2, 0.6), max_seconds=4.0)
    return CoarseStage(CoarseConfig(layout=layout, transformer=shape, prompt=prompt, code_noise=0.0), specs)


@pytest.fixture(params=LAYOUTS)
def coarse(request, specs, shape) -> CoarseStage:
    return coarse_stage(request.param, specs, shape)


@pytest.fixture
def fine(specs, shape) -> FineStage:
    prompt = PromptConfig(share=0.5, seconds=(0.2, 0.6), max_seconds=4.0)
    return FineStage(FineConfig(transformer=replace(shape, causal=False), prompt=prompt), specs)


@given(data=st.data(), levels=st.integers(1, 3), frames=st.integers(1, 20))
def test_unflatten_undoes_flatten_and_every_id_is_legal(data, levels, frames):
    flat = Flattening.of(CoarseConfig(layout="flattened", levels=levels), specs_of(levels))
    row = st.lists(st.integers(0, 15), min_size=frames, max_size=frames)
    codes = np.array(data.draw(st.lists(row, min_size=levels, max_size=levels)), dtype=np.uint16)
    ids = flat.flatten(codes)
    assert (flat.unflatten(ids) == codes).all()
    legal = flat.legal()
    assert all(legal[i % levels, id] for i, id in enumerate(ids))
    assert int(legal.sum(0).max()) == 1


def test_flattened_positions_keep_a_code_beside_its_semantic_token(specs, shape, speech):
    coarse = coarse_stage("flattened", specs, shape)
    flat, grid = Flattening.of(coarse.config, coarse.specs), speech.grid
    _, positions = flat.prefix(np.zeros(4 * grid.semantic_per_beat, np.uint16))
    of_semantic = positions[1:-1][:: grid.semantic_per_beat]
    of_codes = [flat.position_of(b * grid.acoustic_per_beat * flat.levels) for b in range(4)]
    assert of_semantic.tolist() == of_codes


def rows_of(stage, speech, count=6, given=None):
    return [stage.row(speech, i, np.random.default_rng(i), given) for i in range(count)]


def test_the_rows_beside_it_leave_a_rows_loss(coarse, fine, speech):
    for stage in (coarse, fine):
        model = stage.model().eval()
        rows = rows_of(stage, speech)
        together, metrics = model.loss(stage.collate(rows))
        alone = [model.loss(stage.collate([row])) for row in rows]
        weights = [m["targets"] for _, m in alone]
        mean = sum(float(loss.detach()) * w for (loss, _), w in zip(alone, weights, strict=True)) / sum(weights)
        assert sum(weights) == metrics["targets"] and metrics["padding_share"] == 0.0
        assert float(together.detach()) == pytest.approx(mean, abs=1e-4)


def test_the_loss_lies_after_the_prompt(coarse, fine, speech):
    for stage in (coarse, fine):
        rows = rows_of(stage, speech, given="own")
        spans = [getattr(row, "span", row) for row in rows]
        assert any(span.prompt for span in spans)
        _, metrics = stage.model().loss(stage.collate(rows))
        frames = sum(span.codes.shape[1] - span.prompt for span in spans)
        per_frame = coarse.config.levels if stage is coarse and coarse.config.layout == "flattened" else 1
        assert metrics["targets"] == frames * per_frame


def test_semantic_and_codes_of_a_row_cover_the_same_time(coarse, fine, speech):
    grid = speech.grid
    for stage in (coarse, fine):
        for row in rows_of(stage, speech, 12):
            span = getattr(row, "span", row)
            assert len(span.semantic) * grid.acoustic_per_beat == span.codes.shape[1] * grid.semantic_per_beat
            assert len(span.semantic) <= grid.beats(stage.config.prompt.max_seconds) * grid.semantic_per_beat


def train(model, batch, steps, lr=1e-2):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        loss, metrics = model.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return metrics


def test_coarse_learns_two_utterances_and_returns_them(coarse, speech):
    torch.manual_seed(0)
    stage = CoarseStage(replace(coarse.config, prompt=PromptConfig(share=0.0)), coarse.specs)
    model = stage.model()
    batch = stage.collate([stage.row(speech, i, np.random.default_rng(0)) for i in (2, 5)])
    train(model, batch, 150)
    for i in (2, 5):
        clip = speech.clip(i)
        made = generate_coarse(stage, model, clip.semantic, nobody(), GREEDY, torch.Generator())
        assert made.tolist() == clip.codes[:2].tolist()


def test_fine_learns_two_utterances_and_returns_them(fine, speech):
    torch.manual_seed(0)
    stage = FineStage(replace(fine.config, prompt=PromptConfig(share=0.0)), fine.specs)
    model = stage.model()
    rows = [replace(stage.row(speech, i, np.random.default_rng(0)), level=level) for i in (2, 5) for level in (2, 3)]
    train(model, stage.collate(rows), 150)
    for i in (2, 5):
        codes = speech.clip(i).codes
        made = generate_fine(stage, model, codes[:2], nobody(), GREEDY, torch.Generator())
        assert made.tolist() == codes.tolist()


def test_cached_aligned_steps_equal_the_training_pass(specs, shape, speech):
    """Greedy codes are the argmax of the teacher-forced logits on those codes; flattened: see tests/lm."""
    coarse = coarse_stage("aligned", specs, shape)
    torch.manual_seed(1)
    model, clip = coarse.model().eval(), speech.clip(2, 0, 20)
    other = speech.clip(5, 0, 8)
    prompt = Span(other.semantic, other.codes, other.codes.shape[1])
    made = generate_coarse(coarse, model, clip.semantic, prompt, GREEDY, torch.Generator())
    codes = torch.from_numpy(np.concatenate([prompt.codes[:2], made], 1).astype(np.int64))[None]
    semantic = torch.from_numpy(np.concatenate([prompt.semantic, clip.semantic]).astype(np.int64))[None]
    with torch.no_grad():
        before = torch.cat([model.start.expand(1, 1, -1), model.embed(codes)[:, :-1]], 1)
        flags = (torch.arange(codes.shape[2]) < prompt.prompt).long()[None]
        hidden = model.step(before, model.encode(semantic), flags)
        for q in range(2):
            assert (
                model.logits(q, hidden, codes.transpose(0, 1))[0, prompt.prompt :].argmax(-1).tolist()
                == made[q].tolist()
            )


def test_long_speech_is_made_in_windows_and_keeps_what_is_made(coarse, fine, speech):
    semantic = np.concatenate([speech.clip(i).semantic for i in range(6)])
    grid = speech.grid
    frames = len(semantic) // grid.semantic_per_beat * grid.acoustic_per_beat
    assert frames > grid.beats(4.0) * grid.acoustic_per_beat
    other = speech.clip(7, 0, 10)
    prompt = Span(other.semantic, other.codes, other.codes.shape[1])
    generator = torch.Generator().manual_seed(0)
    start = speech.clip(0, 0, 8).codes
    made = generate_coarse(coarse, coarse.model().eval(), semantic, prompt, Sampling(), generator, start)
    assert made.shape == (2, frames) and (made[:, : start.shape[1]] == start[:2]).all() and made.max() < 16
    filled = generate_fine(fine, fine.model().eval(), made, prompt, GREEDY, generator)
    assert filled.shape == (4, frames) and (filled[:2] == made).all()
    fewer = generate_fine(fine, fine.model().eval(), made, prompt, GREEDY, generator, levels=2)
    assert (fewer == made).all()


def test_the_first_levels_are_the_same_however_many_are_made(fine, speech):
    torch.manual_seed(3)
    model, coarse = fine.model().eval(), speech.clip(3).codes[:2]
    every = generate_fine(fine, model, coarse, nobody(), GREEDY, torch.Generator())
    for levels in (2, 3, 4):
        some = generate_fine(fine, model, coarse, nobody(), GREEDY, torch.Generator(), levels=levels)
        assert some.shape == (levels, coarse.shape[1]) and (some == every[:levels]).all()


@given(total=st.integers(1, 500), longest=st.integers(2, 80), data=st.data())
def test_windows_cover_every_beat_once(total, longest, data):
    tail = data.draw(st.integers(0, longest - 1))
    made = data.draw(st.integers(0, total))
    found = windows(total, longest, tail, made)
    assert [beat for w in found for beat in range(w.start, w.stop)] == list(range(made, total))
    assert all(w.stop - w.context <= longest and 0 <= w.start - w.context <= tail for w in found)
