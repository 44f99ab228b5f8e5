"""The tasks of the semantic stage beside speaking: laid out as drawn, mixed as stated, and learnt on a small set."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.corpus.shards import ShardSet
from triptych.lm.sampling import Sampling
from triptych.lm.vocabulary import Block, Vocabulary
from triptych.stages.semantic.generate import generate_semantic, semantic_row, transcribe
from triptych.stages.semantic.sequence import Layout, SemanticConfig, SemanticStage
from triptych.stages.semantic.tasks import TaskConfig, interleaved, mixed, recognition
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.stages.three import load_stage
from triptych.stages.training import train_stage
from triptych.tokenizers.spec import TokenizerSpec

SPECIALS = (Block(name, 1) for name in ("bos", "sep", "eos", "turn"))
BLOCKS = (*SPECIALS, Block("text", 10), Block("semantic", 20))
GREEDY = Sampling(temperature=0.0)
some = st.lists(st.integers(0, 9), min_size=1, max_size=20).map(lambda ids: np.array(ids, dtype=np.uint16))


@given(text=some, semantic=some, pace=st.sampled_from([None, 1.7]))
def test_recognition_holds_the_speech_and_then_the_text(text, semantic, pace):
    v = Vocabulary(BLOCKS)
    ids, positions, first = recognition(Layout(v, pace), text, semantic)
    assert len(ids) == len(positions) == len(text) + len(semantic) + 3
    assert ids[0] == v.id("bos") and ids[first - 1] == v.id("sep") and ids[-1] == v.id("eos")
    assert (v.tokens("semantic", ids[1 : first - 1]) == semantic).all()
    assert (v.tokens("text", ids[first:-1]) == text).all()
    given_ids, given_positions, again = recognition(Layout(v, pace), text[:0], semantic)
    assert (given_ids == ids[:first]).all() and (given_positions == positions[:first]).all() and again == first


@given(text=some, seed=st.integers(0, 1000), pace=st.sampled_from([None, 3.0]))
def test_interleaved_spans_hold_everything_once_and_in_order(text, seed, pace):
    """Each symbol takes three frames: what is written and what is heard together are the whole clip."""
    v, semantic = Vocabulary(BLOCKS), np.repeat(text, 3)
    ids, positions, first = interleaved(Layout(v, pace), text, semantic, np.random.default_rng(seed))
    assert len(ids) == len(positions) and ids[0] == v.id("bos") and ids[-1] == v.id("eos")
    spans = np.split(ids[1:-1], np.flatnonzero(ids[1:-1] == v.id("turn")))
    spans = [span[span != v.id("turn")] for span in spans]
    assert first == 1 + len(spans[0]) and len(spans) == min(len(text), len(spans))
    is_text = [bool(span[0] < v.start("semantic")) for span in spans]
    assert all(a != b for a, b in pairwise(is_text))
    whole = [
        v.tokens("text", s).repeat(3) if t else v.tokens("semantic", s) for s, t in zip(spans, is_text, strict=True)
    ]
    assert (np.concatenate(whole) == semantic).all()
    if pace:
        assert positions[-1] == len(semantic)


@given(paired=st.integers(1, 20), alone=st.integers(1, 20), share=st.floats(0.1, 0.9), length=st.integers(1, 5))
def test_kinds_are_mixed_as_stated_and_none_is_lost(paired, alone, share, length):
    first, second = list(range(paired)), list(range(100, 100 + alone))
    frames = {i: 1 for i in first} | {i: length for i in second}
    found = mixed(first, second, frames, share)
    assert set(found) == {*first, *second}
    total = sum(frames[i] for i in found)
    coarse = max(frames.values()) / total  # one clip more or less
    assert sum(frames[i] for i in found if i >= 100) / total == pytest.approx(share, abs=coarse + 1e-9)
    assert min(found.count(i) for i in first) == 1 or min(found.count(i) for i in second) == 1


def test_at_the_ends_of_the_scale_one_kind_is_left_out():
    assert mixed([1], [2], {1: 5, 2: 5}, 0.0) == [1] and mixed([1], [2], {1: 5, 2: 5}, 1.0) == [2]
    assert mixed([1], [], {1: 5}, 0.5) == [1]


def test_an_epoch_has_the_stated_share_of_speech_without_text(speech, specs, shape):
    """Of the twelve clips three have no text."""
    stage = SemanticStage(SemanticConfig(transformer=shape), specs).measured(speech)
    assert stage.usable(speech) == list(range(12))
    half = replace(stage, config=replace(stage.config, speech_only_share=0.5)).usable(speech)
    beats = {True: 0, False: 0}
    for index in half:
        beats[not speech.text_length(index)] += stage._beats(speech, index)
    assert set(half) == set(range(12)) and beats[True] / sum(beats.values()) == pytest.approx(0.5, abs=0.06)


def test_tasks_are_drawn_by_weight_and_only_their_targets_are_legal(speech, specs, shape):
    config = SemanticConfig(
        transformer=shape, text_drop=0.0, tasks=TaskConfig(speak=1, recognise=2, interleave=1), label_smoothing=0.0
    )
    stage = SemanticStage(config, specs).measured(speech)
    index = next(i for i in range(12) if speech.text_length(i))
    v, seen = stage.layout.vocabulary, {"speak": 0, "recognise": 0, "interleave": 0}
    for seed in range(200):
        ids = stage.row(speech, index, np.random.default_rng(seed)).ids
        speaks = ids[1] < v.start("semantic")
        seen["interleave" if v.id("turn") in ids else "speak" if speaks else "recognise"] += 1
    assert 70 < seen["recognise"] < 130 and 30 < seen["speak"] < 70 and 30 < seen["interleave"] < 70
    model: Any = stage.model().eval()
    for task in (None, "own", *stage.also):
        rows = [stage.row(speech, index, np.random.default_rng(s), task) for s in range(8)]
        mass = model.loss(stage.collate(rows))[1]["illegal_mass"]
        assert 0.2 < float(mass) < 0.8  # of a new model: the share of ids that are of the other kind


def test_without_other_tasks_nothing_changes(speech, specs, shape):
    plain = SemanticStage(SemanticConfig(transformer=shape), specs).measured(speech)
    assert "turn" not in [block.name for block in plain.layout.vocabulary.blocks] and plain.also == ()
    with pytest.raises(ValueError, match=r"stage\.tasks\.recognise=1"):
        transcribe(plain, plain.model().eval(), speech.clip(0).semantic, sampling=GREEDY, generator=torch.Generator())
    with pytest.raises(ValueError, match="weights are 0 or more"):
        TaskConfig(speak=0)


def counting(clip: np.ndarray) -> np.ndarray:
    """Text of a clip of speech: it counts upwards from anywhere, so that what comes next is known."""
    return (int(clip[0]) + np.arange(8)) % 10


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, random_shards: Any) -> Path:
    """Text symbol k sounds as the semantic tokens 2k, 2k + 1; each recording counts eight steps from anywhere."""
    semantic = TokenizerSpec("semantic", "fake", 20, 16_000, 640, fingerprint="s")
    acoustic = TokenizerSpec("acoustic", "fake", 16, 24_000, 960, levels=2, fingerprint="a")
    specs = Specs(semantic, acoustic, TokenizerSpec("text", "digits", 10, fingerprint="t"))

    def spoken(text: np.ndarray) -> np.ndarray:
        return np.stack([2 * text, 2 * text + 1], axis=1).reshape(-1)

    return random_shards(tmp_path_factory.mktemp("counted") / "shards", specs, 40, text_of=counting, speech_of=spoken)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["plain", "time"])
def test_each_task_is_learnt_on_a_small_set(counted: Path, tmp_path: Path, positions: str) -> None:
    """On held-out recordings: what is heard is written down, what is written is said, and spans go on across kinds."""
    tree = {
        "shards": str(counted), "run": str(tmp_path / "run"), "budget": 600,
        "stage": {
            "transformer": {"dim": 64, "layers": 2, "heads": 2}, "positions": positions, "prompt_share": 0.0,
            "text_drop": 0.0, "label_smoothing": 0.0, "tasks": {"recognise": 1.0, "interleave": 1.0},
        },
        "training": {
            "max_steps": 250, "warmup_steps": 20, "learning_rate": 3e-3, "weight_decay": 0.0, "threads": 1,
            "validate_every": 250, "log_every": 50,
        },
    }  # fmt: skip
    stage, model = load_stage(train_stage("semantic", tree))
    speech = Speech(ShardSet.open(counted), "dev")
    assert len(speech.indices) == 2
    for index in speech.indices:
        clip = speech.clip(index)
        heard = transcribe(stage, model, clip.semantic, sampling=GREEDY, generator=torch.Generator())
        assert heard.tolist() == clip.text.tolist()
        limits = {"min_frames": 1, "max_frames": 40}
        row = semantic_row(stage, text=clip.text, sampling=GREEDY, generator=torch.Generator(), **limits)
        said = generate_semantic(stage, model, row)
        assert said.tolist() == clip.semantic.tolist()
    (last,) = [row for row in map(json.loads, open(tmp_path / "run" / "metrics.jsonl")) if row["kind"] == "validation"]
    assert last["recognise_accuracy"] > 0.98 and last["accuracy"] > 0.98 and last["illegal_mass"] < 0.01
    # Where a span ends cannot be known, which costs log 2 and more at each place where it might; its content can.
    assert last["interleave_accuracy"] > 0.7


def test_speech_without_text_is_planned_as_long_as_it_is_made(fake_shards, shape):
    """Of sixteen clips four have no text, and three of those a speaker with further clips."""
    speech = Speech(fake_shards(640, 480, clips=16), "train")
    specs = Specs(*(speech.shards.specs[kind] for kind in ("semantic", "acoustic", "text")))
    config = SemanticConfig(transformer=shape, max_seconds=30.0)
    stage = SemanticStage(config, specs).measured(speech)
    assert speech.grid.beats(config.max_seconds) // 2 > max(map(speech.beats, speech.indices))
    for index in [i for i in speech.indices if not speech.text_length(i)]:
        made = [len(stage.row(speech, index, np.random.default_rng(seed)).ids) for seed in range(5)]
        assert made == [pytest.approx(stage.length(speech, index), abs=4)] * 5
