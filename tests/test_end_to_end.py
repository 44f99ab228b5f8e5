"""From wavs to a spoken sentence by the command line: two utterances are overfitted, greedy decoding returns them."""

import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from triptych.cli.main import app, main
from triptych.corpus.shards import ShardSet
from triptych.lm.sampling import Sampling
from triptych.stages.cascade import Cascade, Settings
from triptych.stages.training import train_stage

GREEDY = Settings(
    semantic=Sampling(temperature=0.0), coarse=Sampling(temperature=0.0), fine=Sampling(temperature=0.0), longest=3.0
)
TEXTS = {"one": "Good morning.", "two": "A quiet evening by the sea."}


def babble(seed: int, seconds: float) -> np.ndarray:
    """Syllables of gliding harmonics with pauses: enough for tokens that differ."""
    rng, rate = np.random.default_rng(seed), 24_000
    parts = []
    while sum(map(len, parts)) < seconds * rate:
        n = int(rng.uniform(0.1, 0.3) * rate)
        pitch = np.linspace(rng.uniform(90, 220), rng.uniform(90, 220), n)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        tone = sum(np.sin(k * phase) * rng.uniform(0, 1) / k for k in range(1, 12))
        parts += [tone * np.hanning(n) * 0.1, rng.standard_normal(int(0.05 * rate)) * 0.002]
    return np.concatenate(parts)[: int(seconds * rate)].astype(np.float32)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every command of the chain, in order."""
    home = tmp_path_factory.mktemp("chain")
    with open(home / "corpus.jsonl", "w") as stream:
        for number, (name, text) in enumerate(TEXTS.items()):
            (home / "audio" / f"{name}[").mkdir(parents=True)
            soundfile.write(home / "audio" / f"{name}[/b].wav", babble(number, 1.6 + number * 0.5), 24_000)
            for split in ("train", "dev"):
                row = {
                    "id": f"{name}-{split}",
                    "audio": f"audio/{name}[/b].wav",
                    "text": text,
                    "speaker": "ann",
                    "split": split,
                }
                stream.write(json.dumps(row) + "\n")
    tokenizers = home / "tokenizers"
    fit_semantic = ["fit", "semantic", home / "manifest.jsonl", "-o", tokenizers / "semantic"]
    runs = [word for stage in ("semantic", "coarse", "fine") for word in (f"--{stage}", home / stage)]
    for line in (
        ["prepare", home / "corpus.jsonl", "-o", home / "manifest.jsonl"],
        ["fit", "text", home / "manifest.jsonl", "-o", tokenizers / "text"],
        ["fit", "encoder", home / "manifest.jsonl", "-o", home / "encoder", "--config", "encoder/tiny"],
        [*fit_semantic, f"encoder={home / 'encoder'}", "layer=1", "clusters=12"],
        ["fit", "acoustic", home / "manifest.jsonl", "-o", tokenizers / "acoustic", "--config", "acoustic/tiny"],
        ["tokenize", home / "manifest.jsonl", "--tokenizers", tokenizers, "-o", home / "shards"],
        *(
            ["train", stage, "--config", f"{stage}/tiny", f"shards={home / 'shards'}", f"run={home / stage}"]
            for stage in ("semantic", "coarse", "fine")
        ),
        ["bundle", *runs, "--tokenizers", tokenizers, "-o", home / "bundle"],
        ["verify", home / "bundle"],
        ["verify", home / "shards"],
        ["speak", TEXTS["one"], "--bundle", home / "bundle", "-o", home / "said.wav"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, [str(word) for word in line], catch_exceptions=False)
        assert result.exit_code == 0, f"{line}: {result.output}"
    return home


@pytest.fixture(scope="module")
def cascade(work: Path) -> Cascade:
    torch.set_num_threads(1)
    return Cascade.load(work / "bundle")


@pytest.mark.parametrize("place", range(len(TEXTS)))
def test_greedy_decoding_returns_the_exact_tokens_of_each_stage(work: Path, cascade: Cascade, place: int) -> None:
    shards = ShardSet.open(work / "shards")
    index = int(shards.indices("train")[place])
    text = shards.row(index).text
    assert text is not None
    said = cascade.speak(text, settings=GREEDY)
    assert said.semantic.tolist() == shards.semantic(index).tolist()
    assert said.codes[:2].tolist() == shards.codes(index)[:2].tolist()
    assert said.codes.tolist() == shards.codes(index).tolist()
    assert len(said.waveform) == said.codes.shape[1] * cascade.tokenizers.acoustic.spec.hop


def test_the_three_other_jobs_run(work: Path, cascade: Cascade) -> None:
    one, two = (work / "audio" / f"{name}[/b].wav" for name in TEXTS)
    went_on = cascade.continue_(one, seconds=2.0)
    before = len(cascade.tokenizers.tokens(cascade.tokenizers.prepare_file(one)).semantic)
    assert len(went_on.semantic) - before == 2 * cascade.grid.semantic_rate
    converted = cascade.convert(one, voice=two)
    assert len(converted.semantic) == before
    for level in ("codes", "coarse", "semantic"):
        again = cascade.resynthesise(one, level=level)
        assert len(again.waveform) == len(converted.waveform) and np.isfinite(again.waveform).all()


def test_the_same_seed_gives_the_same_sound_and_another_one_another(cascade: Cascade) -> None:
    warm = Settings(semantic=Sampling(temperature=2.0), coarse=Sampling(temperature=2.0))
    text = "Something new."
    first, again = cascade.speak(text, settings=warm), cascade.speak(text, settings=warm)
    assert (first.waveform == again.waveform).all()
    other = cascade.speak(text, settings=replace(warm, seed=1))
    assert first.codes.shape != other.codes.shape or (first.codes != other.codes).any()


def test_a_damaged_bundle_is_found(work: Path, tmp_path: Path) -> None:
    copytree(work / "bundle", tmp_path / "bundle")
    weights = tmp_path / "bundle" / "stages" / "fine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "bundle")])
    assert result.exit_code == 1 and "fine/model.safetensors is damaged" in str(result.exception)


def other_tokenizers(work: Path, folder: Path) -> Path:
    """The same text and codec, but k-means of another size."""
    copytree(work / "tokenizers", folder / "tokenizers")
    rmtree(folder / "tokenizers" / "semantic")
    line = ["fit", "semantic", work / "manifest.jsonl", "-o", folder / "tokenizers" / "semantic"]
    line += [f"encoder={work / 'encoder'}", "layer=1", "clusters=9"]
    assert CliRunner().invoke(app, [str(word) for word in line]).exit_code == 0
    return folder / "tokenizers"


def test_tokens_of_other_tokenizers_are_refused(work: Path, tmp_path: Path) -> None:
    other = other_tokenizers(work, tmp_path)
    runs = [word for stage in ("semantic", "coarse", "fine") for word in (f"--{stage}", str(work / stage))]
    result = CliRunner().invoke(app, ["bundle", *runs, "--tokenizers", str(other), "-o", str(tmp_path / "b")])
    assert result.exit_code == 1 and "tokenize again" in str(result.exception) and not (tmp_path / "b").exists()


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_a_stage_that_was_stopped_and_resumed_has_the_losses_of_one_left_alone(
    work: Path, tmp_path: Path, stage: str
) -> None:
    """With accumulation, dropout, random prompts and in the middle of an epoch; the rate is constant after warm-up."""
    options = ["training.final_ratio=1.0", "training.accumulation=2", "training.log_every=1", "budget=128"]
    options += ["stage.transformer.dropout=0.1", "training.validate_every=2", "training.warmup_steps=2"]
    for run, steps, more in (("whole", 6, []), ("broken", 3, []), ("broken", 6, ["resume=true"])):
        line = ["train", stage, "--config", f"{stage}/tiny", f"shards={work / 'shards'}", f"run={tmp_path / run}"]
        line += [*options, f"training.max_steps={steps}", *more]
        assert CliRunner().invoke(app, line, catch_exceptions=False).exit_code == 0
    losses = {}
    for run in ("whole", "broken"):
        rows = [json.loads(row) for row in open(tmp_path / run / "metrics.jsonl")]
        losses[run] = {(row["step"], row["kind"]): row["loss"] for row in rows}
    shared = {
        key: loss
        for key, loss in losses["whole"].items()
        if key[1] != "start" and (key[1] == "train" or key[0] % 2 == 0)
    }
    assert len(shared) == 9
    assert {key: losses["broken"][key] for key in shared} == shared


@pytest.mark.parametrize(("stage", "through"), [("coarse", "tokenizers"), ("fine", "bundle"), ("semantic", "bundle")])
def test_a_stage_is_heard_at_each_validation(work: Path, tmp_path: Path, stage: str, through: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    line = ["train", stage, "--config", f"{stage}/tiny", f"shards={work / 'shards'}", f"run={tmp_path / 'run'}"]
    line += ["training.max_steps=2", "training.validate_every=1", "training.dtype=bf16", f"listen={work / through}"]
    assert CliRunner().invoke(app, line, catch_exceptions=False).exit_code == 0
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {f"{stage}_0", f"{stage}_1"} <= set(events.Tags()["audio"])
    assert [event.step for event in events.Audio(f"{stage}_0")] == [1, 2]
    rows = [json.loads(row) for row in open(tmp_path / "run" / "metrics.jsonl")]
    heard = [row for row in rows if row["kind"] == "validation" and "edits" in row]
    assert len(heard) == (0 if stage == "semantic" else 2)
    assert all(row["edits"] > 0 and row["edits_true"] == heard[0]["edits_true"] for row in heard)


def test_the_best_checkpoint_may_be_the_one_that_is_heard_best(work: Path, tmp_path: Path) -> None:
    line = ["train", "coarse", "--config", "coarse/tiny", f"shards={work / 'shards'}", f"init={work / 'coarse'}"]
    line += ["training.max_steps=6", "training.validate_every=1", "training.checkpoint_every=100"]
    line += ["training.learning_rate=0.05", "training.warmup_steps=1", "best=edits"]
    for deaf in ([], [f"listen={work / 'tokenizers'}", "validation_rows=0"]):
        result = CliRunner().invoke(app, [*line, *deaf, f"run={tmp_path / 'deaf'}"])
        assert result.exit_code == 1 and "listen=TOKENIZERS" in str(result.exception)
    run = tmp_path / "run"
    assert CliRunner().invoke(app, [*line, f"run={run}", f"listen={work / 'tokenizers'}"]).exit_code == 0
    rows = [json.loads(row) for row in open(run / "metrics.jsonl")]
    edits = [row["edits"] for row in rows if row["kind"] == "validation"]
    assert len(set(edits)) > 1
    assert (run / "best").read_text() == f"step-{1 + edits.index(min(edits)):08d}"


def test_two_ranks_hear_what_one_hears(work: Path, tmp_path: Path) -> None:
    """A clip each, of a stage that does not change: all ranks agree on what was heard, so on what is best."""
    spec = importlib.util.spec_from_file_location("processes", Path(__file__).parent / "training" / "processes.py")
    assert spec is not None and spec.loader is not None
    processes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(processes)
    training = processes.TRAINING | {"max_steps": 1, "learning_rate": 1e-12, "validate_every": 1}
    tree = {"shards": str(work / "shards"), "init": str(work / "coarse"), "listen": str(work / "tokenizers")}
    tree |= {"best": "edits", "training": training}
    processes.together([{"name": "coarse", "tree": tree | {"run": str(tmp_path / "two")}}], tmp_path)
    train_stage("coarse", tree | {"run": str(tmp_path / "one")})
    heard = {}
    for run in ("one", "two"):
        rows = [json.loads(row) for row in open(tmp_path / run / "metrics.jsonl")]
        (heard[run],) = [(row["edits"], row["edits_true"]) for row in rows if row["kind"] == "validation"]
    assert heard["one"] == pytest.approx(heard["two"])


def test_a_tokenizer_that_the_fine_stage_never_read_does_not_listen_for_it(work: Path, tmp_path: Path) -> None:
    other = other_tokenizers(work, tmp_path)
    for stage, code in (("fine", 0), ("coarse", 1)):
        line = ["train", stage, "--config", f"{stage}/tiny", f"shards={work / 'shards'}", "training.max_steps=1"]
        result = CliRunner().invoke(app, [*line, f"run={tmp_path / stage}", f"listen={other}"])
        assert result.exit_code == code, result.output
    assert "tokenize again" in str(result.exception)
    assert "edits" not in (tmp_path / "fine" / "metrics.jsonl").read_text()


def test_a_text_that_takes_too_long_is_noticed(work: Path, cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = type(cascade.stages["semantic"][0])
    said = cascade.speak(TEXTS["two"], settings=GREEDY)
    assert not [note for note in said.notes if "times as long" in note]
    monkeypatch.setattr(stage, "expected_frames", lambda *_: len(said.semantic) // 2)
    again = cascade.speak(TEXTS["two"], settings=GREEDY)
    assert again.semantic.tolist() == said.semantic.tolist()
    assert [note for note in again.notes if note.startswith("it takes 2.0 times as long as such a text does")]
    monkeypatch.undo()
    monkeypatch.setattr("triptych.stages.request.overlong", lambda *_: ["too long"])
    text = " ".join([TEXTS["two"]] * 20)
    pieces = len(cascade.text_pieces(text))
    told = [note for note in cascade.speak(text, settings=GREEDY).notes if note.startswith("in piece")]
    assert pieces > 1
    assert [note.split(":")[0] for note in told] == [f"in piece {n} of {pieces}" for n in range(1, pieces + 1)]


def test_a_run_begins_with_the_weights_of_another(work: Path, tmp_path: Path) -> None:
    line = ["train", "coarse", "--config", "coarse/tiny", f"shards={work / 'shards'}", f"init={work / 'coarse'}"]
    line += ["training.max_steps=1", "training.log_every=1", f"run={tmp_path / 'run'}"]
    assert CliRunner().invoke(app, line, catch_exceptions=False).exit_code == 0
    lines = map(json.loads, open(tmp_path / "run" / "metrics.jsonl"))
    first = next(line for line in lines if line["kind"] == "train")
    assert first["loss"] < 0.5  # a new one begins at log 64 = 4.2
    other = [*line[:-1], f"run={tmp_path / 'other'}", "stage.transformer.dim=32"]
    result = CliRunner().invoke(app, other)
    assert result.exit_code == 1 and "do not fit" in str(result.exception)


def test_a_coarse_stage_grows_by_a_level(work: Path, tmp_path: Path) -> None:
    line = ["train", "coarse", "--config", "coarse/tiny", f"shards={work / 'shards'}", f"init={work / 'coarse'}"]
    line += ["training.max_steps=1", "training.log_every=1"]
    more = [*line, "stage.levels=3", f"run={tmp_path / 'more'}"]
    assert CliRunner().invoke(app, more, catch_exceptions=False).exit_code == 0
    warning, _, first, *_ = (json.loads(row) for row in open(tmp_path / "more" / "metrics.jsonl"))
    assert first["kind"] == "train"
    assert "4 tensors, which begin anew" in warning["line"] and "heads.2.weight" in warning["line"]
    assert first["loss_0"] < 0.5 and first["loss_2"] > 3.5
    fewer = CliRunner().invoke(app, [*line, "stage.levels=1", f"run={tmp_path / 'fewer'}"])
    assert fewer.exit_code == 1 and "no place for" in str(fewer.exception)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(work: Path, tmp_path: Path, stage: str) -> None:
    """kill -9, in a process of its own; the lock of the dead process is taken over."""
    line = [sys.executable, "-m", "triptych", "train", stage, "--config", f"{stage}/tiny", f"shards={work / 'shards'}"]
    line += [
        "training.log_every=1",
        "training.checkpoint_every=3",
        "training.max_steps=40",
        "training.validate_every=40",
    ]
    line += ["stage.transformer.dropout=0.1"]
    losses = {}
    for run in ("whole", "broken"):
        folder = tmp_path / run
        command = [*line, f"run={folder}"]
        if run == "broken":
            killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not (folder / "latest").exists() or len(open(folder / "metrics.jsonl").readlines()) < 8:
                assert killed.poll() is None, "it ended before it could be killed"
                time.sleep(0.02)
            killed.kill()
            killed.wait()
            command.append("resume=true")
        subprocess.run(command, check=True, capture_output=True)
        rows = [json.loads(row) for row in open(folder / "metrics.jsonl")]
        losses[run] = {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}
    assert len(losses["whole"]) == 40 and losses["broken"] == losses["whole"]


def wrong(tmp_path: Path) -> dict[str, Path]:
    """Recordings that cannot serve as a voice."""
    rate, rng = 24_000, np.random.default_rng(0)
    noise = rng.standard_normal(rate).astype(np.float32) * 0.1
    made = {
        "nan": np.where(np.arange(rate) == 9, np.nan, noise),
        "silent": np.zeros(rate),
        "short": noise[: rate // 10],
        "long": np.tile(noise, 120),
        "nothing": np.zeros(0),
    }
    paths = {name: tmp_path / f"{name}.wav" for name in (*made, "text", "cut", "absent")}
    for name, samples in made.items():
        soundfile.write(paths[name], samples, rate, subtype="FLOAT")
    paths["text"].write_text("this is no sound")
    paths["cut"].write_bytes(paths["long"].read_bytes()[:5000])
    return paths


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["speak", "Hi.", "--voice", "{nan}"], "not numbers"),
        (["speak", "Hi.", "--voice", "{silent}"], "silence"),
        (["speak", "Hi.", "--voice", "{short}"], "0.1 s"),
        (["speak", "Hi.", "--voice", "{long}"], "120.0 s"),
        (["speak", "Hi.", "--voice", "{nothing}"], "no samples"),
        (["speak", "Hi.", "--voice", "{text}"], "not an audio file"),
        (["speak", "Hi.", "--voice", "{absent}"], "absent.wav"),
        (["speak", "Hi.", "--voice", "nobody"], "nobody"),
        (["speak", ""], "empty"),
        (["speak", "word " * 12_000], "60000 characters"),
        (["speak", "これは"], "'こ'"),
        (["speak", "Hi.", "semantic.temprature=1"], "temperature"),
        (["convert", "{short}", "--voice", "{cut}"], "cut"),
        (["continue", "{silent}"], "silence"),
        (["continue", "{text}"], "not an audio file"),
        (["resynthesise", "{absent}", "--from", "codes"], "no such file"),
    ],
)
def test_a_users_mistake_gets_one_line_and_leaves_nothing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[str], told: str
) -> None:
    paths = wrong(tmp_path)
    line = [word.format(**paths) if word.startswith("{") else word for word in said]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--bundle", str(work / "bundle"), "-o", str(tmp_path / "out.wav")])
    shown = capsys.readouterr().err
    assert ended.value.code == 1 and told in shown, shown
    assert shown.count("\n") == 1 and not (tmp_path / "out.wav").exists()
