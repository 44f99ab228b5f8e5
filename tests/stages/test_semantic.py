"""The semantic stage: layout, targets, and that what is learned comes back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.lm.sampling import Sampling
from triptych.lm.transformer import TransformerConfig
from triptych.lm.vocabulary import Block, Vocabulary
from triptych.stages.semantic.generate import generate_semantic, semantic_row
from triptych.stages.semantic.sequence import NOTHING, Layout, SemanticConfig, SemanticStage
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs

BLOCKS = (Block("bos", 1), Block("sep", 1), Block("eos", 1), Block("text", 10), Block("semantic", 20))
tokens = st.lists(st.integers(0, 9), max_size=20).map(lambda ids: np.array(ids, dtype=np.uint16))


@given(text=tokens, prompt_text=tokens, prompt=tokens, target=tokens, ends=st.booleans(), timed=st.booleans())
def test_a_row_holds_what_was_put_in(text, prompt_text, prompt, target, ends, timed):
    layout = Layout(Vocabulary(BLOCKS), 1.7 if timed else None)
    row = layout.row(text, prompt_text, prompt, target, ends=ends)
    v = layout.vocabulary
    assert len(row.ids) == len(row.positions) == 2 + sum(map(len, (text, prompt_text, prompt, target))) + ends
    learned = row.ids[row.first_target :]
    assert (v.tokens("semantic", learned[: len(target)]) == target).all()
    assert (learned[len(target) :] == v.id("eos")).all()
    given_ids, _, start = layout.prefix(text, prompt_text, prompt)
    assert (row.ids[: row.first_target] == given_ids).all()
    assert len(target) == 0 or row.positions[row.first_target] == start


def test_positions_in_time_keep_symbol_and_frame_together():
    layout = Layout(Vocabulary(BLOCKS), 2.0)
    text, target = np.arange(5, dtype=np.uint16), np.arange(10, dtype=np.uint16)
    row = layout.row(text, NOTHING, NOTHING, target, ends=False)
    text, frames = row.positions[1:6], row.positions[7:]
    assert (text == frames[::2]).all()


@pytest.fixture
def stage(speech: Speech, specs: Specs, shape: TransformerConfig) -> SemanticStage:
    return SemanticStage(
        SemanticConfig(transformer=shape, text_drop=0.3, max_seconds=4.0, positions="time"), specs
    ).measured(speech)


def test_targets_follow_tokens_and_the_loss_lies_on_them_alone(speech, stage):
    rows = [stage.row(speech, i, np.random.default_rng(i)) for i in range(12)]
    batch = stage.collate(rows)
    v = stage.layout.vocabulary
    legal = v.legal("semantic", "eos")
    packed = batch.packed["rows"]
    assert legal[batch["targets"]].all()
    assert packed.positions == len(batch["tokens"]) == sum(len(row.ids) - 1 for row in rows)
    assert len(batch["targets"]) == sum(len(row.ids) - row.first_target for row in rows)
    after = {int(at): int(target) for at, target in zip(batch["learned"], batch["targets"], strict=True)}
    ends = set((packed.edges[1:] - 1).tolist())
    assert ends <= after.keys()
    assert all(int(batch["tokens"][at + 1]) == target for at, target in after.items() if at not in ends)


def test_the_end_is_marked_only_where_a_recording_ends(speech, specs, shape):
    short = SemanticStage(SemanticConfig(transformer=shape, max_seconds=0.6, text_drop=0.0), specs).measured(speech)
    eos = short.layout.vocabulary.id("eos")
    for i in range(12):
        ids = short.row(speech, i, np.random.default_rng(0)).ids
        assert eos not in ids
        assert 0 <= short.length(speech, i) - len(ids) <= 3  # planned without the text, which is left out


def test_another_clips_text_leaves_the_target(speech, stage):
    index = next(i for i in range(12) if speech.text_length(i))
    own = stage.row(speech, index, np.random.default_rng(0), "own")
    swapped = stage.row(speech, index, np.random.default_rng(0), "text")
    assert (own.ids[own.first_target :] == swapped.ids[swapped.first_target :]).all()
    assert len(own.ids) != len(swapped.ids) or (own.ids != swapped.ids).any()


def test_two_utterances_are_learned_and_come_back_exactly(speech, specs, shape):
    config = SemanticConfig(transformer=shape, text_drop=0.0, prompt_share=0.0, label_smoothing=0.0, positions="time")
    stage = SemanticStage(config, specs).measured(speech)
    torch.manual_seed(0)
    model = stage.model()
    indices = [1, 2]
    batch = stage.collate([stage.row(speech, i, np.random.default_rng(0), "own") for i in indices])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first, _ = model.loss(batch)
    assert float(first.detach()) == pytest.approx(np.log(stage.layout.vocabulary.size), rel=0.1)
    for _ in range(120):
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    for i in indices:
        clip = speech.clip(i)
        row = semantic_row(
            stage,
            text=clip.text,
            min_frames=1,
            max_frames=500,
            sampling=Sampling(temperature=0.0),
            generator=torch.Generator(),
        )
        made = generate_semantic(stage, model, row)
        assert made.tolist() == clip.semantic.tolist()


@pytest.mark.parametrize("positions", ["plain", "time"])
def test_lengths_hold_and_guidance_runs(speech, specs, shape, positions):
    stage = SemanticStage(SemanticConfig(transformer=shape, positions=positions), specs).measured(speech)
    model = stage.model().eval()
    clip = speech.clip(1)
    sampling = Sampling(temperature=1.0, guidance=2.0)
    for least, most in ((5, 5), (1, 9)):
        row = semantic_row(
            stage,
            text=clip.text,
            prompt_text=clip.text,
            prompt=clip.semantic,
            min_frames=least,
            max_frames=most,
            sampling=sampling,
            generator=torch.Generator().manual_seed(1),
        )
        made = generate_semantic(stage, model, row)
        assert least <= len(made) <= most and made.max() < 20
