"""What `triptych prepare` and `tokenize` are told; `tokenize` as a process: workers, kills, a time limit, an hour."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.cli.corpus import seconds_of, speeds_of
from triptych.corpus.manifest import Recording, read_manifest, write_manifest

HOUR_LIMIT = 2 << 30
"""bytes of resident memory"""


@pytest.mark.parametrize(
    ("said", "seconds"), [("3h30m", 12600), ("45m", 2700), ("90s", 90), ("1d2h", 93600), (" 10s ", 10), ("0s", 0)]
)
def test_times_are_read(said: str, seconds: int) -> None:
    assert seconds_of(said) == seconds


@pytest.mark.parametrize("said", ["", "3", "3:30", "half an hour", "-5m", "5m3h"])
def test_other_times_are_refused(said: str) -> None:
    with pytest.raises(ValueError, match="say it like 3h30m"):
        seconds_of(said)


@pytest.mark.parametrize(("said", "speeds"), [("", []), ("1.1", [1.1]), ("0.9,1, 1.1", [0.9, 1.0, 1.1])])
def test_speeds_are_read(said: str, speeds: list[float]) -> None:
    assert speeds_of(said) == speeds


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """A folder with one recording."""
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", np.sin(np.arange(16_000) / 20) / 4, 16_000)
    return tmp_path / "wavs"


@pytest.mark.parametrize(
    ("said", "why"),
    [("fast", "give numbers"), ("0.9,", "give numbers"), ("nan", "numbers from"), ("1,1.0", "different")],
)
def test_other_speeds_are_refused_in_one_line(
    tmp_path: Path, tone: Path, run_line: Callable[..., tuple[int, str, str]], said: str, why: str
) -> None:
    code, _, err = run_line("prepare", str(tone), "-o", str(tmp_path / "m.jsonl"), "--speeds", said)
    assert code == 1 and why in err and "Traceback" not in err
    assert not (tmp_path / "m.jsonl").exists()


def test_a_manifest_with_copies_is_made_by_one_line(
    tmp_path: Path, tone: Path, run_line: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "m.jsonl"
    code, _, _ = run_line("prepare", str(tone), "-o", str(out), "--speeds", "0.9,1.1")
    assert code == 0
    assert sorted(recording.speed for recording in read_manifest(out)) == [0.9, 1.0, 1.1]


def test_shares_that_are_half_said_are_refused_before_any_work(
    tmp_path: Path, run_line: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    line = ["tokenize", str(tmp_path / "m"), "--tokenizers", str(tmp_path), "-o", str(tmp_path / "s")]
    code, _, err = run_line(*line)
    assert code == 1 and "WORLD_SIZE is None" in err and "Traceback" not in err
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small real ones with random weights."""
    import torch
    from transformers import EncodecConfig, EncodecModel, Wav2Vec2BertConfig, Wav2Vec2BertModel

    from triptych.tokenizers.acoustic.codec import AcousticTokenizer
    from triptych.tokenizers.semantic.compared import Compared
    from triptych.tokenizers.semantic.encoder import Encoder
    from triptych.tokenizers.semantic.inputs import filterbank_front_end
    from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        feature_projection_input_dim=160, add_adapter=False,
    )  # fmt: skip
    encoder = Encoder(Wav2Vec2BertModel(config), filterbank_front_end(2), 1)
    SemanticTokenizer(encoder, torch.randn(16, 32), Compared(standardise=True)).save(folder / "semantic")
    codec = EncodecModel(EncodecConfig(num_filters=2, hidden_size=8, codebook_size=32, target_bandwidths=[1.5]))
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    AcousticTokenizer(codec, 2).save(folder / "acoustic")
    (folder / "waveform.json").write_text(json.dumps({"sample_rate": 24_000}))
    return folder


def tokenize(*given: Any, **environment: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "triptych", "tokenize", *map(str, given)]
    source = str(Path(__file__).parents[2] / "src")
    return subprocess.Popen(line, env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **environment})


def noise_manifest(folder: Path, clips: int) -> Path:
    recordings = []
    for number in range(clips):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).uniform(-0.3, 0.3, 8000 + 900 * number), 16_000)
        recordings.append(Recording(str(number), path, 0.5 + 900 * number / 16_000))
    write_manifest(folder / "m.jsonl", recordings)
    return folder / "m.jsonl"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_workers_ranks_and_kills_leave_the_same_bytes(tmp_path: Path, tokenizers: Path) -> None:
    manifest = noise_manifest(tmp_path, 24)
    common = (manifest, "--tokenizers", tokenizers, "rows_per_shard=4", "batch_seconds=4")
    assert tokenize(*common, "-o", tmp_path / "one").wait() == 0
    assert tokenize(*common, "-o", tmp_path / "two", "workers=2").wait() == 0
    for rank in "10":
        assert tokenize(*common, "-o", tmp_path / "ranks", RANK=rank, WORLD_SIZE="2").wait() == 0
    for number in range(3):
        process = tokenize(*common, "-o", tmp_path / "killed", "workers=2")
        while not (tmp_path / "killed" / f"shard-{number:05d}.json").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert tokenize(*common, "-o", tmp_path / "killed", "workers=2").wait() == 0
    whole = content(tmp_path / "one")
    assert len(whole) == 3 * 6 + 3
    assert content(tmp_path / "two") == content(tmp_path / "ranks") == content(tmp_path / "killed") == whole


@pytest.mark.slow
def test_a_time_limit_is_kept(tmp_path: Path, tokenizers: Path) -> None:
    manifest = noise_manifest(tmp_path, 8)
    common = (manifest, "--tokenizers", tokenizers, "-o", tmp_path / "t", "rows_per_shard=4")
    assert tokenize(*common, "--stop-after", "0s").wait() == 0
    assert not (tmp_path / "t" / "shards.json").exists()
    assert tokenize(*common, "--stop-after", "1d").wait() == 0
    assert (tmp_path / "t" / "shards.json").exists()


@pytest.mark.slow
def test_an_hour_in_one_file_takes_less_than_two_gibibytes(
    tmp_path: Path, tokenizers: Path, record_property: Callable[[str, object], None]
) -> None:
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 44_100, 2) as file:
        for _ in range(60):
            file.write(generator.uniform(-0.3, 0.3, (60 * 44_100, 2)).astype(np.float32))
        file.write(np.zeros((441, 2)))  # ends within a beat
    write_manifest(tmp_path / "m.jsonl", [Recording("hour", tmp_path / "hour.wav", 3600.01)])
    folder = Path(os.environ.get("TRIPTYCH_TOKENIZERS", tokenizers))  # those that are to be measured
    process = tokenize(tmp_path / "m.jsonl", "--tokenizers", folder, "-o", tmp_path / "t")
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    record_property("peak_bytes", peak)
    print(f"peak resident memory: {peak / 2**20:.0f} MiB")
    assert peak < HOUR_LIMIT
