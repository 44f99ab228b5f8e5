"""A text model becomes the semantic stage and keeps its ids; a stage goes out as a plain checkpoint with its logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from typer.testing import CliRunner

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from triptych.cli.main import app
from triptych.corpus.shard_set import map_safetensors
from triptych.corpus.shards import ShardSet
from triptych.stages.cascade import find_bundle
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.export import export_stage
from triptych.stages.initial import laid_over
from triptych.stages.speech import Speech
from triptych.stages.stage import Specs
from triptych.stages.three import load_stage, record_of
from triptych.stages.training import train_stage
from triptych.tokenizers.spec import TokenizerSpec
from triptych.tokenizers.text.model_text import ModelText
from triptych.training.checkpoint import find_checkpoint

TEXTS = ["good morning", "how are you today", "the sea is calm this evening", "she sells shells by the sea"]
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": True, "head_dim": 12}),
}
STEPS = {"max_steps": 1, "warmup_steps": 1, "threads": 1, "log_every": 1}


def byte_pairs() -> Tokenizer:
    """What Llama 3 and Qwen3 have: byte-level pairs, with special ids at the end."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=[], initial_alphabet=letters, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens(["<|end|>"])
    return made


@pytest.fixture(scope="module", params=list(FAMILIES))
def text_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people download it: config, weights with padding rows, tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    config_class, model_class, extra = FAMILIES[request.param]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_pairs(), eos_token="<|end|>")
    torch.manual_seed(0)
    rows = len(tokenizer) + 7
    model_class(config_class(vocab_size=rows, **SHAPE, **extra)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shards(text_model: Path, random_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    semantic = TokenizerSpec("semantic", "fake", 20, 16_000, 640, fingerprint="s")
    acoustic = TokenizerSpec("acoustic", "fake", 16, 24_000, 480, levels=4, fingerprint="a")
    specs = Specs(semantic, acoustic, ModelText.of_model(text_model).spec)
    return random_shards(tmp_path_factory.mktemp("shards") / "shards", specs)


def train(shards: Path, run: Path, **keys: Any) -> Path:
    tree = {"shards": str(shards), "run": str(run), "budget": 400, "validation_rows": 0, "training": STEPS}
    return train_stage("semantic", laid_over(tree, keys))


@pytest.mark.parametrize("text", TEXTS)
def test_the_front_end_gives_the_models_own_ids(text_model: Path, tmp_path: Path, text: str) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(text_model)
    front = ModelText.of_model(text_model)
    front.save(tmp_path / "text")
    again = ModelText.load(tmp_path / "text")
    assert again.spec == front.spec and again.spec.size == len(theirs)
    assert again.encode(text).tolist() == theirs.encode(text, add_special_tokens=False)
    assert again.decode(again.encode(text)) == text


def test_an_alphabet_of_more_than_65535_ids_has_wider_ones() -> None:
    table = Tokenizer(models.WordLevel({f"w{i}": i for i in range(70_000)} | {"[UNK]": 70_000}, unk_token="[UNK]"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    front = ModelText(table.to_str())
    assert front.encode("w69999 w1").tolist() == [69_999, 1] and front.encode("w1").dtype == np.uint32
    with pytest.raises(ValueError, match=r"cannot speak 'x'"):
        front.encode("x")


def test_wide_ids_survive_the_shards(tmp_path: Path) -> None:
    wide = np.concatenate([np.zeros(0, np.uint16), np.array([151_000, 2], np.uint32)])
    save_file({"text": wide}, tmp_path / "a.safetensors")
    assert map_safetensors(tmp_path / "a.safetensors")["text"].tolist() == [151_000, 2]


@torch.no_grad()
def test_the_text_model_is_still_in_the_stage(text_model: Path, shards: Path, tmp_path: Path) -> None:
    """On text alone, the logits of the text ids are those of the text model: nothing moved but the vocabulary's end."""
    with torch.enable_grad():
        made = train(shards, tmp_path / "run", init=str(text_model), training={**STEPS, "learning_rate": 0.0})
    stage, model = load_stage(made)
    front, theirs = ModelText.of_model(text_model), AutoModelForCausalLM.from_pretrained(text_model).eval()
    ids = torch.from_numpy(front.encode(TEXTS[3]).astype(np.int64))[None]
    v = stage.layout.vocabulary
    assert v.start("text") == 0 and [block.name for block in v.blocks] == ["text", "bos", "sep", "eos", "semantic"]
    ours = model.language_model(ids)[..., : front.spec.size]
    torch.testing.assert_close(ours, theirs(ids).logits[..., : front.spec.size], rtol=0, atol=1e-5)
    new = model.language_model.embedding.weight[front.spec.size :]
    old = theirs.get_input_embeddings().weight
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.2)


def test_it_learns_and_comes_out_as_it_went_in(text_model: Path, shards: Path, tmp_path: Path) -> None:
    """Some steps, then out: transformers' own class has the stage's logits, on a real row."""
    steps = {**STEPS, "max_steps": 12, "learning_rate": 3e-3}
    made = train(shards, tmp_path / "run", init=str(text_model), training=steps, stage={"label_smoothing": 0.0})
    losses = [json.loads(line)["loss"] for line in open(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.3
    result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    note = json.loads((tmp_path / "out" / "triptych.json").read_text())
    assert note["positions"] == "counted" and note["blocks"]["text"]["first_id"] == 0
    stage, model = load_stage(made)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.model_type == AutoConfig.from_pretrained(text_model).model_type
    speech = Speech(ShardSet.open(shards), "train")
    batch = stage.collate([stage.row(speech, speech.indices[0], np.random.default_rng(0), "own")])
    with torch.no_grad():
        tokens = batch["tokens"][None]
        own, other = model.language_model(tokens), theirs(tokens).logits
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


def test_a_bundles_front_end_goes_along(text_model: Path, shards: Path, tmp_path: Path) -> None:
    made = train(shards, tmp_path / "run", init=str(text_model))
    ModelText.of_model(text_model).save(tmp_path / "text")
    export_stage(made, tmp_path / "out", tmp_path / "text")
    theirs = PreTrainedTokenizerFast.from_pretrained(text_model)
    again = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert again.encode(TEXTS[0]).ids == theirs.encode(TEXTS[0])


def test_what_does_not_belong_together_is_refused(text_model: Path, shards: Path, starter_shards: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"gruut .*frontend=model"):
        train(starter_shards, tmp_path / "run", init=str(text_model))
    with pytest.raises(ValueError, match="only the semantic stage"):
        train_stage("coarse", {"shards": str(shards), "init": str(text_model)})
    with pytest.raises(ValueError, match="do not fit this config"):
        train(shards, tmp_path / "run", init=str(text_model), stage={"transformer": {"layers": 3}})


def test_the_starters_semantic_stage_goes_out_with_positions_in_time(starter_shards: Path, tmp_path: Path) -> None:
    line = ["export", str(find_bundle(None)), "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, line, catch_exceptions=False).exit_code == 0
    stage, model = load_stage(find_bundle(None) / "stages" / "semantic")
    speech = Speech(ShardSet.open(starter_shards), "train")
    batch = stage.collate([stage.row(speech, speech.indices[0], np.random.default_rng(0), "own")])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        tokens, positions = batch["tokens"][None], batch["positions"][None]
        own = model.language_model(tokens, positions=positions)
        other = theirs(tokens, position_ids=positions).logits
    torch.testing.assert_close(own, other, rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match="aligned coarse stage"):
        export_stage(find_bundle(None) / "stages" / "coarse", tmp_path / "coarse")


def test_a_flattened_coarse_stage_goes_out_too(speech: Any, specs: Specs, shape: Any, tmp_path: Path) -> None:
    stage = CoarseStage(CoarseConfig(layout="flattened", transformer=replace(shape, qk_norm=True)), specs)
    model: Any = stage.model().eval()
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "stage.json").write_text(json.dumps(record_of(stage)))
    save_tensors(model.state_dict(), tmp_path / "stage" / "model.safetensors")
    export_stage(find_checkpoint(tmp_path / "stage"), tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(0, model.language_model.vocabulary_size, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.language_model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
