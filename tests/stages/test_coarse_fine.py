"""The coarse stage in its layouts, and the fine stage."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.lm.decode import run
from triptych.lm.engine import StaticEngine
from triptych.lm.rows import one
from triptych.lm.sampling import Sampling
from triptych.stages.coarse.generate import AlignedRule, CoarseWork, coarse_rule, expected_entries, generate_coarse
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage, Flattening, delay, undelay
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


ROOT = Path(__file__).parents[2]
GREEDY = Sampling(temperature=0.0)
LAYOUTS = ["aligned", "flattened", "delayed"]


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


@given(data=st.data(), levels=st.integers(1, 4), frames=st.integers(1, 20), steps=st.integers(0, 2))
def test_undelay_undoes_delay_and_a_level_comes_its_steps_late(data, levels, frames, steps):
    row = st.lists(st.integers(0, 15), min_size=frames, max_size=frames)
    codes = np.array(data.draw(st.lists(row, min_size=levels, max_size=levels)), dtype=np.uint16)
    late = delay(codes, steps, 16)
    assert late.shape == (levels, frames + steps * (levels - 1)) and (undelay(late, steps) == codes).all()
    assert all(late[q, f + q * steps] == codes[q, f] for q in range(levels) for f in range(frames))
    assert int((late == 16).sum()) == levels * steps * (levels - 1)


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


@pytest.mark.parametrize("layout", ["aligned", "delayed"])
@pytest.mark.parametrize("levels", [2, 3])
def test_cached_steps_equal_the_training_pass(layout, levels, specs, shape, speech):
    """Greedy codes are the argmax of the training pass over those codes; flattened: see tests/lm."""
    stage = coarse_stage(layout, specs, shape)
    stage = replace(stage, config=replace(stage.config, levels=levels))
    torch.manual_seed(1)
    model, clip, other = stage.model().eval(), speech.clip(2, 0, 20), speech.clip(5, 0, 8)
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    prompt = Span(other.semantic, other.codes, other.codes.shape[1])
    made = generate_coarse(stage, model, clip.semantic, prompt, GREEDY, torch.Generator())
    codes = np.concatenate([prompt.codes[:levels], made], 1)
    row = Span(np.concatenate([prompt.semantic, clip.semantic]), codes, prompt.prompt)
    with torch.no_grad():
        found = model.predictions(stage.collate([row]))
    assert len(np.unique(made)) > 4
    for q, level in enumerate(found):
        assert level.targets.tolist() == made[q].tolist()
        assert level.logits.argmax(-1).tolist() == made[q].tolist()


def test_a_delayed_level_hears_the_level_under_it_and_not_what_comes_after(specs, shape, speech):
    stage = coarse_stage("delayed", specs, shape)
    torch.manual_seed(1)
    model, clip = stage.model().eval(), speech.clip(2, 0, 20)
    row, at = Span(clip.semantic, clip.codes[:2], 0), 10

    def logits(codes):
        with torch.no_grad():
            return [level.logits for level in model.predictions(stage.collate([replace(row, codes=codes)]))]

    def changed(q):
        codes = row.codes.copy()
        codes[q, at] = (codes[q, at] + 1) % 16
        differ = [(new - old).abs().amax(-1) > 0 for new, old in zip(logits(codes), logits(row.codes), strict=True)]
        return [int(where.nonzero()[0, 0]) for where in differ]

    assert changed(0) == [at + 1, at]
    assert changed(1) == [at + 2, at + 1]


@pytest.mark.parametrize("layout", ["aligned", "delayed"])
def test_the_step_of_a_gpu_makes_the_same_codes(layout, specs, shape, speech):
    stage = coarse_stage(layout, specs, shape)
    torch.manual_seed(1)
    model, clips = stage.model().eval(), [speech.clip(2, 0, 20), speech.clip(3, 0, 12), speech.clip(4, 0, 16)]
    rule = AlignedRule(model, StaticEngine(model.transformer))
    nothing = np.zeros((2, 0), np.uint16)
    works = [
        CoarseWork(stage, nobody(2), GREEDY, torch.Generator(), nothing, semantic=clip.semantic, ended=True)
        for clip in clips
    ]
    for _ in run(rule, [work.job(rule) for work in works], slots=2):
        pass
    for work, clip in zip(works, clips, strict=True):
        alone = generate_coarse(stage, model, clip.semantic, nobody(2), GREEDY, torch.Generator())
        assert work.made.tolist() == alone.tolist()


@pytest.mark.parametrize("layout", ["aligned", "delayed"])
def test_expected_levels_are_the_mean_of_their_entries(layout, specs, shape, speech):
    """Against a training pass over what was drawn; what is drawn stays as it is, in windows, and after what is made."""
    stage = coarse_stage(layout, specs, shape)
    torch.manual_seed(1)
    model, clip, sampling = stage.model().eval(), speech.clip(2, 0, 20), Sampling(temperature=1.0)
    entries = {1: torch.randn(specs.acoustic.size, 5)}
    rule, nothing = coarse_rule(model), np.zeros((2, 0), np.uint16)

    def work(made: np.ndarray, **more: object) -> CoarseWork:
        stream = torch.Generator().manual_seed(3)
        made = CoarseWork(stage, nobody(2), sampling, stream, made, semantic=clip.semantic, ended=True, **more)
        for _ in run(rule, [made.job(rule)]):
            pass
        return made

    plain, found = work(nothing), work(nothing, expected=entries)
    assert plain.shift is None and np.array_equal(plain.made, found.made)
    level = model.predictions(stage.collate([Span(clip.semantic, found.made, 0)]))[1]
    mean = level.logits.softmax(-1) @ entries[1] - entries[1][level.targets]
    np.testing.assert_allclose(found.shift, mean.detach().T, atol=1e-5)
    given = clip.codes[:2, : 4 * specs.grid.acoustic_per_beat]
    after = work(given, expected=entries)
    assert after.shift.shape == (5, after.made.shape[1]) and not after.shift[:, : given.shape[1]].any()
    assert after.shift[:, given.shape[1] :].any(axis=0).all()
    windows = work(nothing, expected=entries, first_seconds=0.4)
    assert windows.number > 1 and windows.shift.shape == (5, windows.made.shape[1])


def test_a_flattened_stage_draws_all_levels(specs, shape, speech):
    stage = coarse_stage("flattened", specs, shape)
    codec: Any = SimpleNamespace(entries=lambda level: torch.zeros(16, 5))
    with pytest.raises(ValueError, match="expected_levels: a coarse stage of the flattened layout"):
        expected_entries(stage, codec, 1, 2)
    assert list(expected_entries(coarse_stage("aligned", specs, shape), codec, 1, 2)) == [1]


def test_without_the_voice_a_delayed_row_begins_with_no_code_of_it(specs, shape, speech):
    """Guidance: the second place of a row is what a row without a prompt would be."""
    stage = coarse_stage("delayed", specs, shape)
    torch.manual_seed(1)
    model, clip, other = stage.model().eval(), speech.clip(2, 0, 20), speech.clip(5, 0, 8)
    frames, levels = clip.codes.shape[1], 2
    span = Span(np.concatenate([other.semantic, clip.semantic]), other.codes[:levels], other.codes.shape[1])
    rule = coarse_rule(model)
    row = rule.row(span, frames, Sampling(temperature=0.0, guidance=0.0), torch.Generator())
    for _ in run(rule, [one(row)]):
        pass
    made = generate_coarse(stage, model, clip.semantic, nobody(), GREEDY, torch.Generator())
    assert rule.codes(row).tolist() == made.tolist()


@pytest.mark.parametrize("layout", ["aligned", "delayed"])
def test_a_stage_learns_what_codes_are_without_their_semantic_tokens(layout, specs, shape, speech):
    stage = coarse_stage(layout, specs, shape)
    stage = replace(stage, config=replace(stage.config, semantic_drop=0.4))
    rng = np.random.default_rng(0)
    deaf = [stage.row(speech, i % 8, rng).deaf for i in range(200)]
    assert 0.25 < np.mean(deaf) < 0.55
    assert not any(stage.row(speech, i % 8, rng, how).deaf for i in range(20) for how in ("own", "semantic", "prompt"))
    torch.manual_seed(0)
    model, clip = stage.model().eval(), speech.clip(2)
    other = (clip.semantic + 1) % 20
    for is_deaf in (False, True):
        losses = [
            float(model.loss(stage.collate([Span(semantic, clip.codes[:2], 0, is_deaf)]))[0])
            for semantic in (clip.semantic, other)
        ]
        assert (losses[0] == losses[1]) is is_deaf
    # a weight of 0 for the condition leaves what the codes would be without it, with or without a voice
    free = Sampling(temperature=0.0, guidance=0.0)
    made = [
        generate_coarse(stage, model, tokens, nobody(), free, torch.Generator()) for tokens in (clip.semantic, other)
    ]
    assert (made[0] == made[1]).all()
    told = [
        generate_coarse(stage, model, tokens, nobody(), GREEDY, torch.Generator()) for tokens in (clip.semantic, other)
    ]
    assert (told[0] != told[1]).any()


def test_a_flattened_stage_drops_no_semantic_tokens_and_refuses_guidance(specs, shape, speech):
    with pytest.raises(ValueError, match="semantic_drop is not for layout=flattened"):
        CoarseConfig(layout="flattened", transformer=shape, semantic_drop=0.1)
    stage = coarse_stage("flattened", specs, shape)
    with pytest.raises(ValueError, match=r"coarse\.guidance: .* has none; leave it at 1"):
        guided = replace(GREEDY, guidance=1.5)
        generate_coarse(stage, stage.model().eval(), speech.clip(2).semantic, nobody(), guided, torch.Generator())


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


@pytest.mark.slow
def test_the_layouts_are_compared_on_the_same_rows(random_shards, tmp_path):
    """benchmarks/coarse_layouts.py runs to its end; at this size its figures mean nothing."""
    rng = np.random.default_rng(1)
    specs = replace(specs_of(3), text=TokenizerSpec("text", "letters", 10, fingerprint="t"))
    folder = random_shards(tmp_path / "shards", specs, speech_of=lambda text: rng.integers(0, 20, 260))
    line = [sys.executable, ROOT / "benchmarks" / "coarse_layouts.py", folder, "-o", tmp_path / "out"]
    sizes = {"steps": 2, "seconds": 12, "dim": 32, "layers": 1, "heads": 2, "clips": 2, "made": 2}
    line += [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # the second time nothing is trained
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "layouts.json").read_text())
    assert {found[layout]["utterances"] for layout in LAYOUTS} == {4}
    assert len({found[layout]["frames"] for layout in LAYOUTS}) == 1
    assert all(sum(found[layout]["nats"]) == pytest.approx(3 * np.log(16), rel=0.1) for layout in LAYOUTS)
    assert all(done.stdout.count(f"| {layout} |") == 1 for layout in LAYOUTS)
