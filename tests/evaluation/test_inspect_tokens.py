"""Letters that are said as tones of their own: a tokenizer that hears them tells all, and the recipes say so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel
from typer.testing import CliRunner

from triptych.cli.main import app
from triptych.evaluation.phone_probe import Said, fit_probe, probe_error
from triptych.evaluation.phones import CtcAligner, phones_of_frames
from triptych.evaluation.token_clips import draw
from triptych.evaluation.token_report import TokenInspectConfig, inspect_tokens
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.ctc import align, greedy, spread
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.spec import TokenizerSpec
from triptych.training.files import write_json

RATE, HOP, LETTERS = 16_000, 640, "abcdef"
NOTES = 300.0 * 2 ** (np.arange(6) / 2)
"""Hz of each letter"""


class Speller:
    """Satisfies TextTokenizer."""

    spec = TokenizerSpec("text", "letters", 6)

    def encode(self, text: str) -> NDArray[np.uint16]:
        if "x" in text:
            raise ValueError("cannot say x")
        return np.array([LETTERS.index(letter) for letter in text], dtype=np.uint16)

    def decode(self, tokens: NDArray[np.uint16]) -> str:
        return "".join(LETTERS[int(i)] for i in tokens)


class Listener:
    """Satisfies SemanticTokenizer as far as the recipe asks: two ids a letter, by the loudest note of a frame."""

    spec = TokenizerSpec("semantic", "listener", 12, RATE, HOP)

    def encode(self, waveforms: list[NDArray[np.float32]], sample_rate: int) -> list[NDArray[np.uint16]]:
        assert sample_rate == RATE
        return [self.ids(waveform) for waveform in waveforms]

    def ids(self, waveform: NDArray[np.float32]) -> NDArray[np.uint16]:
        frames = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
        spectrum = np.abs(np.fft.rfft(frames, axis=1))
        loudest = np.fft.rfftfreq(HOP, 1 / RATE)[spectrum.argmax(axis=1)]
        letter = np.abs(np.log(np.maximum(loudest, 1)[:, None] / NOTES)).argmin(axis=1)
        return (2 * letter + np.arange(len(frames)) % 2).astype(np.uint16)


def say(text: str, seed: int) -> NDArray[np.float32]:
    """Four frames a letter."""
    time = np.arange(4 * HOP) / RATE
    tones = [0.3 * np.sin(2 * np.pi * NOTES[LETTERS.index(letter)] * time) for letter in text]
    noise = 0.001 * np.random.default_rng(seed).standard_normal(len(tones) * len(time))
    return (np.concatenate(tones) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, generator = tmp_path_factory.mktemp("letters"), np.random.default_rng(0)
    rows = []
    for number in range(30):
        text = "".join(LETTERS[i] for i in generator.integers(0, 6, 7))
        soundfile.write(home / f"{number}.wav", say(text, number), RATE)
        split = "train" if number < 24 else "dev"
        rows.append(
            {"id": str(number), "audio": f"{number}.wav", "text": text, "speaker": "ab"[number % 2], "split": split}
        )
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["prepare", str(home / "corpus.jsonl"), "-o", str(home / "m.jsonl")])
    assert result.exit_code == 0, result.output
    return home / "m.jsonl"


def quiet(done: int, total: int, what: str) -> None:
    assert 0 < done <= total


CONFIG = TokenInspectConfig(clips=24, held_out=3, probe_steps=150, probe_width=32, resamples=50)


def test_tokens_that_tell_all(manifest: Path) -> None:
    tokenizer: Any = Listener()
    report = inspect_tokens(tokenizer, manifest, CONFIG, text=Speller(), aligner=None, progress=quiet)
    assert (report.learned, report.held_out) == (24, 3)
    assert report.use.usage == 1.0
    assert report.phones is not None and report.phones.error is not None and report.phones.purity is not None
    assert report.phones.error.mean < 0.4
    assert report.phones.purity.pnmi > 0.7 > report.phones.purity.by_chance
    assert "probe" in report.phones.aligned_by
    assert report.speaker is not None and report.speaker.accuracy.mean < 0.85  # both speakers say the same letters
    rows = {row.name: row for row in report.disturbed}
    assert rows["gain -12 dB"].edits.mean == rows["gain -12 dB"].frames.mean == 0
    assert rows["noise 20 dB"].edits.mean < 0.05


def test_clips_that_cannot_be_heard_are_left_out_with_their_reasons(manifest: Path, tmp_path: Path) -> None:
    tokenizer: Any = Listener()
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    for row in rows:
        source = tmp_path / "silent.wav" if row["id"] in ("0", "29") else manifest.parent / f"{row['id']}.wav"
        row["recording"]["sources"][0]["source"] = str(source)
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(CONFIG, disturb=False)
    report = inspect_tokens(tokenizer, tmp_path / "m.jsonl", config, text=None, aligner=None, progress=quiet)
    assert (report.learned, report.held_out) == (23, 2)
    assert report.missing["clip 0"] == report.missing["clip 29"] == "silence throughout"


def test_without_text_nothing_is_said_of_phones(manifest: Path) -> None:
    tokenizer: Any = Listener()
    config = replace(CONFIG, clips=8, held_out=2, disturb=False)
    one, again = (
        inspect_tokens(tokenizer, manifest, config, text=None, aligner=None, progress=quiet) for _ in range(2)
    )
    assert one == again
    assert one.phones is None
    assert "--text" in one.missing["phones"]
    assert one.disturbed == []


def test_the_probe_reads_what_is_there() -> None:
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 5, 6) for _ in range(40)]
    rows = [Said(np.repeat(text, 3) * 2 + generator.integers(0, 2, 18), text) for text in texts]
    made: dict[str, Any] = {"steps": 200, "width": 48, "seed": 0}
    before = torch.random.get_rng_state()
    probe = fit_probe(rows, 10, 5, 25.0, **made)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.mean([probe_error(probe, row) for row in rows]) < 0.25
    blind = [Said(generator.integers(0, 10, 18), row.text) for row in rows]
    assert np.mean([probe_error(probe, row) for row in blind]) > 0.5
    short = made | {"steps": 5}
    one, again = fit_probe(rows, 10, 5, 25.0, **short), fit_probe(rows, 10, 5, 25.0, **short)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="--text"):
        fit_probe([Said(np.zeros(1, int), np.arange(5))], 10, 5, 25.0, **made)


def test_alignment_is_the_likeliest_that_says_the_text() -> None:
    """Against all ways, by brute force."""
    from itertools import product

    generator = np.random.default_rng(0)
    for text in ([0], [0, 1], [1, 1], [0, 1, 0]):
        scores = np.log(generator.dirichlet(np.ones(3), 5)).astype(np.float32)
        ways = [way for way in product(range(3), repeat=5) if greedy(np.array(way), 2) == text]
        best = max(ways, key=lambda way: sum(scores[step, item] for step, item in enumerate(way)))
        said = align(scores, np.array(text), blank=2)
        assert [text[place] if place >= 0 else 2 for place in said] == list(best)
        assert (np.diff(said[said >= 0]) >= 0).all()
    with pytest.raises(ValueError, match="cannot be aligned"):
        align(scores[:2], np.array([1, 1]), blank=2)


def test_blanks_go_to_the_nearest_phone_within_reach() -> None:
    said = np.array([-1, -1, 0, -1, -1, -1, -1, 1, -1])
    assert spread(said, 1).tolist() == [-1, 0, 0, 0, -1, -1, 1, 1, 1]
    scores = np.full((6, 3), -9.0, dtype=np.float32)
    scores[[0, 1, 2, 3, 4, 5], [0, 2, 2, 2, 2, 1]] = 0.0
    assert phones_of_frames(scores, np.array([0, 1]), 2, 3, 2.0, 100.0).tolist() == [0, 1, 1]
    assert phones_of_frames(scores, np.zeros(0, int), 2, 3, 2.0, 100.0).tolist() == [-1, -1, -1]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with a CTC head as `fit encoder` writes it."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Wav2Vec2BertConfig(**sizes, intermediate_size=48, feature_projection_input_dim=320)
    Wav2Vec2BertModel(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor(stride=4).save_pretrained(folder)
    head = torch.nn.Linear(32, 2 * 7)
    save_file(dict(head.state_dict()), folder / "ctc.safetensors")
    write_json(folder / "ctc.json", {"layer": 2, "steps": 2, "blank": 6, "classes": list(LETTERS)})
    return folder


def test_an_aligner_gives_every_frame_a_phone_of_the_text(encoder: Path) -> None:
    text: Any = Speller()
    phones = CtcAligner(encoder, text).phones(say("fade", 0), "fade", 16, 25.0)
    assert len(phones) == 16
    known = phones[phones >= 0]
    order = [LETTERS.index(letter) for letter in "fade"]
    assert len(known) and (np.diff([order.index(phone) for phone in known]) >= 0).all()
    assert (CtcAligner(encoder, text).phones(say("fade", 0), "xxx", 16, 25.0) == -1).all()
    (encoder / "ctc.json").rename(encoder / "other.json")
    with pytest.raises(ValueError, match="fit encoder --text"):
        CtcAligner(encoder, text)
    (encoder / "other.json").rename(encoder / "ctc.json")


def test_both_verbs_write_their_folders(
    manifest: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triptych.tokenizers.text import frontend

    monkeypatch.setattr(frontend, "load_text", lambda folder: Speller())
    centroids = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    SemanticTokenizer(Encoder.load(encoder, 1), centroids, Compared(standardise=True)).save(tmp_path / "tokens")
    little = ["clips=12", "held_out=2", "resamples=20"]
    more = ["probe_steps=5", "--text", "x", "--aligner", str(encoder)]
    sweep = ["clusters=4,8", "layers=1,2", "--text", "x"]
    said = CliRunner().invoke(
        app,
        ["inspect", "tokens", str(tmp_path / "tokens"), str(manifest), "-o", str(tmp_path / "t"), *more, *little],
        catch_exceptions=False,
    )
    assert said.exit_code == 0, said.output
    assert "noise 20 dB" in said.output
    record = json.loads((tmp_path / "t" / "report.json").read_text())
    assert record["phones"]["aligned_by"] == "the aligner's CTC"
    assert record["config"]["clips"] == 12
    said = CliRunner().invoke(
        app,
        ["inspect", "layers", str(encoder), str(manifest), "-o", str(tmp_path / "l"), *sweep, *little],
        catch_exceptions=False,
    )
    assert said.exit_code == 0, said.output
    rows = json.loads((tmp_path / "l" / "report.json").read_text())["rows"]
    assert [(row["layer"], row["clusters"]) for row in rows] == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert all(row["purity"]["frames"] > 0 for row in rows)  # the encoder aligns itself
    for picture in (tmp_path / "t" / "tokens.png", tmp_path / "l" / "layers.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_clips_are_drawn_apart(manifest: Path, write_split: Callable[[str], Path]) -> None:
    from triptych.corpus.clips import ManifestClips
    from triptych.tokenizers.spec import WaveformSpec

    for path, held in ((manifest, 3), (write_split("train"), 3)):
        clips = ManifestClips(path, WaveformSpec(RATE), split=None)
        learned, others = draw(clips, 10, 3, 20.0, 0)
        assert len(learned) == 10
        assert len(others) == held
        assert not set(learned) & set(others)
    with pytest.raises(ValueError, match="too few"):
        draw(clips, 10, 3, 0.01, 0)


@pytest.fixture
def write_split(manifest: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The manifest with every clip in one split."""

    def write(split: str) -> Path:
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        for row in rows:
            row["custom"]["split"] = split
            row["recording"]["sources"][0]["source"] = str(manifest.parent / row["recording"]["sources"][0]["source"])
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "m.jsonl"

    return write
