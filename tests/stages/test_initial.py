"""A run that begins with weights that exist: of a bundle, of a run; with all of them learning, or adapters alone."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from triptych.cli.main import app
from triptych.corpus.shards import ShardSet
from triptych.stages.adapters import AdapterConfig, add_adapters, note_of, plain
from triptych.stages.bundle import check_levels
from triptych.stages.cascade import Cascade, find_bundle
from triptych.stages.initial import folder_of, laid_over
from triptych.stages.speech import Speech
from triptych.stages.three import load_stage, read_stage, read_state
from triptych.stages.training import train_stage
from triptych.training.checkpoint import find_checkpoint
from triptych.training.files import read_json

STARTER = Path(str(files("triptych"))) / "starter"
SIZE = int(read_json(STARTER / "stages" / "coarse" / "stage.json")["specs"]["semantic"]["size"])
TINY = {"transformer": {"dim": 32, "layers": 1, "heads": 2}}
STEPS = {"max_steps": 2, "warmup_steps": 1, "threads": 1, "log_every": 1}


def run(name: str, shards: Path, folder: Path, **keys: Any) -> Path:
    tree = {"shards": str(shards), "run": str(folder), "budget": 400, "validation_rows": 0, "training": STEPS}
    return train_stage(name, laid_over(tree, keys))


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in open(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def tiny(starter_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny coarse stage."""
    folder = tmp_path_factory.mktemp("tiny") / "coarse"
    run("coarse", starter_shards, folder, stage={**TINY, "encoder_layers": 1, "levels": 3})
    return folder


def test_a_run_on_a_bundle_has_its_config_and_its_weights(starter_shards: Path, tmp_path: Path) -> None:
    """Without a step that moves them: at rate 0 the checkpoint holds the starter's own weights."""
    still = {**STEPS, "max_steps": 1, "learning_rate": 0.0}
    stage = {"transformer": {"dropout": 0.3}, "prompt": {"share": 0.1}}
    made = run("semantic", starter_shards, tmp_path / "run", init=str(STARTER), training=still, budget=150)
    told = run("coarse", starter_shards, tmp_path / "told", init=str(STARTER), training=still, stage=stage)
    for name, checkpoint in (("semantic", made), ("coarse", told)):
        theirs, ours = read_state(STARTER / "stages" / name), read_state(checkpoint)
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert read_stage(made).config == read_stage(STARTER / "stages" / "semantic").config
    config = read_stage(told).config
    assert config.transformer.dropout == 0.3 and config.prompt.share == 0.1 and config.prompt.seconds == (1.5, 3.0)


@pytest.mark.parametrize(
    ("name", "kind", "refused"),
    [
        ("coarse", "acoustic", True),
        ("coarse", "semantic", True),
        ("semantic", "text", True),
        ("semantic", "acoustic", False),
        ("fine", "acoustic", True),
        ("fine", "semantic", False),
    ],
)
def test_shards_of_other_tokenizers_are_refused(
    starter_shards: Path, tmp_path: Path, name: str, kind: str, refused: bool
) -> None:
    """The semantic stage knows no codec, and the fine one no semantic token: only the beat."""
    copytree(starter_shards, tmp_path / "shards")
    record = read_json(tmp_path / "shards" / "shards.json")
    record["specs"][kind]["fingerprint"] = "another"
    (tmp_path / "shards" / "shards.json").write_text(json.dumps(record))
    still = {"training": {**STEPS, "max_steps": 1}, "budget": 1200}
    if not refused:
        run(name, tmp_path / "shards", tmp_path / "run", init=str(STARTER), **still)
        return
    with pytest.raises(ValueError, match=rf"{kind} tokenizer .*not with .*another: tokenize again"):
        run(name, tmp_path / "shards", tmp_path / "run", init=str(STARTER), **still)
    assert not (tmp_path / "run").exists()
    known = {**still, "init": str(STARTER), "init_retokenized": True}
    run(name, tmp_path / "shards", tmp_path / "run", **known)


def retold(shards: Path, folder: Path, ids: np.ndarray, size: int) -> Path:
    """The same shards, as another tokenizer says them: `ids` of the old ids."""
    copytree(shards, folder)
    arrays = load_file(folder / "shard-00000.safetensors")
    save_file({**arrays, "semantic": ids[arrays["semantic"]].astype(np.uint16)}, folder / "shard-00000.safetensors")
    record = read_json(folder / "shards.json")
    record["specs"]["semantic"].update(size=size, fingerprint="another")
    (folder / "shards.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("semantic", {}),
        ("semantic", {"tie_embeddings": False, "text_first": True}),
        ("coarse", {"encoder_layers": 1}),
        ("coarse", {"layout": "flattened"}),
        ("fine", {}),
    ],
)
@pytest.mark.parametrize("size", [SIZE, SIZE // 2, 2 * SIZE])
def test_new_semantic_tokens_begin_as_the_old_ones_of_their_frames(
    starter_shards: Path, tmp_path: Path, name: str, stage: dict[str, Any], size: int
) -> None:
    ids = np.random.default_rng(1).permutation(np.arange(2 * SIZE) % size)[:SIZE]
    shards = retold(starter_shards, tmp_path / "shards", ids, size)
    still = {"training": {**STEPS, "max_steps": 1, "learning_rate": 0.0}, "budget": 800}
    before = run(name, starter_shards, tmp_path / "old", stage={**TINY, **stage}, **still)
    after = run(name, shards, tmp_path / "new", init=str(before), init_shards=str(starter_shards), **still)
    old, new, first = read_state(before), read_state(after), read_stage(before).semantic_rows()
    assert first == read_stage(after).semantic_rows() and bool(first) == (name != "fine")
    assert read_stage(after).specs.semantic.size == size
    said = load_file(starter_shards / "shard-00000.safetensors")["semantic"]
    for key, tensor in old.items():
        if key not in first:
            assert torch.equal(new[key], tensor), key
            continue
        begin = first[key]
        assert torch.equal(new[key][:begin], tensor[:begin])
        assert torch.equal(new[key][begin + size :], tensor[begin + SIZE :])
        for i in np.unique(ids[said])[:40]:
            mean = torch.stack([tensor[begin + int(o)] for o in said if ids[o] == i]).mean(0)
            torch.testing.assert_close(new[key][begin + int(i)], mean)
        torch.manual_seed(0)
        unsaid = [begin + i for i in sorted({*range(size)} - {*ids[said].tolist()})]
        assert torch.equal(new[key][unsaid], read_stage(after).model().state_dict()[key][unsaid])


def test_old_shards_that_do_not_help_are_refused(tiny: Path, starter_shards: Path, tmp_path: Path) -> None:
    shards = retold(starter_shards, tmp_path / "shards", np.arange(SIZE) // 2, SIZE // 2)
    known = {"init": str(tiny), "init_shards": str(starter_shards)}
    with pytest.raises(ValueError, match="add init="):
        run("coarse", shards, tmp_path / "run", init_shards=str(starter_shards))
    with pytest.raises(ValueError, match=r"semantic tokenizer .* not with .*another: tokenize again"):
        run("coarse", starter_shards, tmp_path / "run", init=str(tiny), init_shards=str(shards))
    lines = [json.loads(line) for line in (shards / "shard-00000.jsonl").read_text().splitlines()]
    renamed = "".join(json.dumps({**row, "id": f"{row['id']} of another"}) + "\n" for row in lines)
    (shards / "shard-00000.jsonl").write_text(renamed)
    record = read_json(shards / "shards.json")
    record["files"]["shard-00000.jsonl"]["bytes"] = (shards / "shard-00000.jsonl").stat().st_size
    (shards / "shards.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"init_shards=.* has no recording that .* has: tokenize some"):
        run("coarse", shards, tmp_path / "run", **known)
    with pytest.raises(ValueError, match="has the same semantic tokens as"):
        run("coarse", starter_shards, tmp_path / "run", **known)
    record["specs"]["acoustic"]["fingerprint"] = "trained on"
    (shards / "shards.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"acoustic tokenizer .* not with .*trained on: tokenize again"):
        run("coarse", shards, tmp_path / "run", **known)
    assert not (tmp_path / "run").exists()


def test_old_shards_may_hold_some_of_the_recordings_and_are_not_needed_to_go_on(
    tiny: Path, starter_shards: Path, tmp_path: Path
) -> None:
    shards, old = retold(starter_shards, tmp_path / "shards", np.arange(SIZE) // 2, SIZE // 2), tmp_path / "old"
    copytree(starter_shards, old)
    lines = (old / "shard-00000.jsonl").read_text().splitlines()
    renamed = [json.dumps({**json.loads(line), "id": f"~{i}"}) if i % 2 else line for i, line in enumerate(lines)]
    (old / "shard-00000.jsonl").write_text("".join(line + "\n" for line in renamed))
    record = read_json(old / "shards.json")
    record["files"]["shard-00000.jsonl"]["bytes"] = (old / "shard-00000.jsonl").stat().st_size
    (old / "shards.json").write_text(json.dumps(record))
    known = {"init": str(tiny), "init_shards": str(old)}
    still = {"training": {**STEPS, "max_steps": 1, "learning_rate": 0.0}}
    made = read_state(run("coarse", shards, tmp_path / "run", **known, **still))["semantic_embedding.weight"]
    table, theirs = ShardSet.open(starter_shards), read_state(find_checkpoint(tiny))["semantic_embedding.weight"]
    heard = np.concatenate([table.semantic(i) for i in range(0, len(table), 2)])
    for i in np.unique(heard // 2)[:20]:
        mean = torch.stack([theirs[int(o)] for o in heard if o // 2 == i]).mean(0)
        torch.testing.assert_close(made[int(i)], mean)
    rmtree(old)
    run("coarse", shards, tmp_path / "run", **known, resume=True)  # to step 2


def test_another_layout_of_rows_is_loadings_business(starter_shards: Path, tmp_path: Path) -> None:
    shards = retold(starter_shards, tmp_path / "shards", np.arange(SIZE), SIZE)
    tied = run("semantic", starter_shards, tmp_path / "tied", stage=TINY, budget=800)
    known = {"init": str(tied), "init_shards": str(starter_shards), "budget": 800}
    run("semantic", shards, tmp_path / "untied", stage={"tie_embeddings": False}, **known)
    with pytest.raises(ValueError, match="its weights do not fit this config"):
        run("semantic", shards, tmp_path / "wide", stage={"transformer": {"dim": 64}}, **known)


def test_a_run_is_not_taken_up_on_tokens_of_another_tokenizer(starter_shards: Path, tmp_path: Path) -> None:
    run("coarse", starter_shards, tmp_path / "run", stage={**TINY, "encoder_layers": 1})
    copytree(starter_shards, tmp_path / "shards")
    record = read_json(tmp_path / "shards" / "shards.json")
    record["specs"]["acoustic"]["fingerprint"] = "another"
    (tmp_path / "shards" / "shards.json").write_text(json.dumps(record))
    more = {"stage": {**TINY, "encoder_layers": 1}, "resume": True, "training": {**STEPS, "max_steps": 3}}
    with pytest.raises(ValueError, match=r"acoustic tokenizer .*not with .*another: tokenize again"):
        run("coarse", tmp_path / "shards", tmp_path / "run", **more)
    run("coarse", starter_shards, tmp_path / "run", **more)


def test_a_stage_of_another_name_and_a_folder_of_nothing_are_refused(tiny: Path, starter_shards: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="holds a coarse stage, not a fine stage"):
        run("fine", starter_shards, tmp_path / "run", init=str(tiny))
    with pytest.raises(ValueError, match="holds no checkpoint"):
        run("fine", starter_shards, tmp_path / "run", init=str(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        run("fine", starter_shards, tmp_path / "run", init=str(tmp_path / "absent"))


def test_only_adapters_learn_and_readers_see_plain_weights(tiny: Path, starter_shards: Path, tmp_path: Path) -> None:
    before, names = read_state(find_checkpoint(tiny)), ("qkv", "out", "gate_up", "down")
    made = run("coarse", starter_shards, tmp_path / "run", init=str(tiny), lora={"rank": 2})
    after = read_state(made)
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        adapted = name.removesuffix(".weight").rsplit(".", 1)[-1] in names
        assert torch.equal(tensor, before[name]) != adapted, name
    load_stage(made)  # needs no peft
    plainly = run("coarse", starter_shards, tmp_path / "all", init=str(tiny))
    moved = read_state(plainly)
    assert not torch.equal(moved["heads.0.weight"], before["heads.0.weight"])


def test_merging_equals_the_adapted_model_and_pefts_own_merge(tiny: Path, starter_shards: Path) -> None:
    from peft.tuners.lora import LoraLayer

    stage, model = load_stage(find_checkpoint(tiny))
    speech = Speech(ShardSet.open(starter_shards), "train")
    batch = stage.collate([stage.row(speech, i, np.random.default_rng(0), "own") for i in speech.indices[:3]])
    config = AdapterConfig(rank=3, alpha=5.0)
    count = add_adapters(model, config)
    torch.manual_seed(1)
    learning = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) == count < sum(p.numel() for p in model.parameters()) / 3
    for parameter in learning:
        torch.nn.init.normal_(parameter, std=0.3)
    adapted = float(model.eval().loss(batch)[0].detach())
    merged = plain(model.state_dict(), note_of(config))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    fresh = stage.model().eval()
    fresh.load_state_dict(merged)
    assert float(fresh.loss(batch)[0].detach()) == pytest.approx(adapted, abs=1e-5)
    theirs = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in merged.items())


def test_a_run_with_adapters_resumes_exactly(tiny: Path, starter_shards: Path, tmp_path: Path) -> None:
    for folder, steps, more in (("whole", 4, {}), ("broken", 2, {}), ("broken", 4, {"resume": True})):
        training = {**STEPS, "max_steps": steps, "final_ratio": 1.0}
        keys = {"init": str(tiny), "lora": {"rank": 2, "dropout": 0.1}, "training": training, **more}
        run("coarse", starter_shards, tmp_path / folder, **keys)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 4


def test_adapters_need_weights_and_maps_that_exist(tiny: Path, starter_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name them with init="):
        run("coarse", starter_shards, tmp_path / "run", stage=TINY, lora={"rank": 2})
    with pytest.raises(ValueError, match=r"qvk.*qkv"):
        run("coarse", starter_shards, tmp_path / "run", init=str(tiny), lora={"rank": 2, "targets": ["qvk"]})


def test_a_bundle_over_another_takes_what_is_not_named(tiny: Path, starter_shards: Path, tmp_path: Path) -> None:
    run("coarse", starter_shards, tmp_path / "mine", init=str(tiny), lora={"rank": 2})
    line = ["bundle", "--from", STARTER, "--coarse", tmp_path / "mine"]
    said = [*map(str, line), "-o", str(tmp_path / "bundle"), "coarse.temperature=0.1"]
    assert CliRunner().invoke(app, said, catch_exceptions=False).exit_code == 0
    cascade, starter = Cascade.load(tmp_path / "bundle"), Cascade.load()
    assert cascade.voices() == starter.voices()
    assert cascade.settings.coarse.temperature == 0.1 and cascade.settings.semantic == starter.settings.semantic
    assert (starter.settings.coarse.guidance, cascade.settings.coarse.guidance) == (1.5, 1.0)  # it learned no guidance
    assert cascade.stages["coarse"][0].config.transformer.dim == 32
    assert "lora" not in read_json(tmp_path / "bundle" / "stages" / "coarse" / "stage.json")
    assert cascade.speak("Yes.").seconds > 0.3
    result = CliRunner().invoke(app, [*map(str, line[:1] + line[3:5]), "-o", str(tmp_path / "other")])
    assert result.exit_code == 1 and "--semantic, --fine, --tokenizers is not named" in str(result.exception)


def test_the_starter_has_a_name_unless_a_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_of("starter", "fine") == find_bundle(None) / "stages" / "fine"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    assert find_bundle("starter") == Path("starter")


def test_a_refused_run_leaves_the_one_that_is_there_as_it_is(tiny: Path, starter_shards: Path) -> None:
    before = {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run already"):
        run("coarse", starter_shards, tiny, stage=TINY, training={**STEPS, "max_steps": 99})
    assert before == {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}


def test_the_cascade_speaks_with_the_weights_that_a_model_has_by_now() -> None:
    cascade = Cascade.load()
    stage, model = cascade.stages["coarse"]
    before = cascade.rules.of("coarse")
    assert cascade.rules.of("coarse") is before
    cascade.replace("coarse", stage, model)
    assert cascade.rules.of("coarse") is not before


def test_a_fine_stage_asks_for_the_levels_that_it_reads() -> None:
    stages = {name: read_stage(STARTER / "stages" / name) for name in ("coarse", "fine")}
    check_levels(stages["coarse"], stages["fine"])
    fewer = replace(stages["coarse"], config=replace(stages["coarse"].config, levels=2))
    with pytest.raises(ValueError, match="makes 2 levels, and the fine stage reads 3"):
        check_levels(fewer, stages["fine"])


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"levels": 99}, "levels=99"),
        ({"levels": 0}, "levels=0"),
        ({"transformer": {**TINY["transformer"], "causal": False}}, "causal=true"),
        ({"prompt": {"seconds": [1.0, 4.0], "max_seconds": 4.0}}, "leave room"),
    ],
)
def test_a_stage_that_cannot_learn_is_refused(
    keys: dict[str, Any], why: str, starter_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        run("coarse", starter_shards, tmp_path / "run", stage={**TINY, **keys})
    assert not (tmp_path / "run").exists()
