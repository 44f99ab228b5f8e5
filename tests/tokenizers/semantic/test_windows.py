"""Long recordings: each frame once, nearly those of the whole, and no more memory than a window takes."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.tokenizers.semantic import filterbank
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.inputs import normalised, whole_of, with_floor
from triptych.tokenizers.semantic.moments import Moments
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer
from triptych.tokenizers.semantic.windows import Windows, spans
from triptych.tokenizers.waveform import Waveform

Sound = Callable[[int, int], Waveform]
WHOLE = Windows(100, 0)
MOST_DIFFERENT = 0.01
"""share of ids that may differ between windows and the whole"""


@given(st.integers(0, 500), st.integers(2, 60), st.data())
def test_spans_keep_each_frame_once_in_order(frames: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window // 2))
    found = spans(frames, window, overlap)
    assert [i for span in found for i in range(span.first, span.last)] == list(range(frames))
    for span in found:
        assert 0 <= span.begin <= span.first <= span.last <= span.end <= frames
        assert span.end - span.begin == min(window, frames)
        if span.begin > 0:
            assert span.first - span.begin >= overlap // 2
        if span.end < frames:
            assert span.end - span.last >= overlap // 2


@pytest.mark.parametrize(("seconds", "overlap"), [(0.5, 0.0), (10.0, 6.0), (10.0, -1.0)])
def test_windows_that_cannot_be_are_refused(seconds: float, overlap: float) -> None:
    with pytest.raises(ValueError, match="_seconds = "):
        Windows(seconds, overlap)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32) * 4 + 50
    moments = Moments(3)
    for part in np.split(rows, [1, 400, 410]):
        moments.add(part)
    assert np.allclose(moments.mean, rows.mean(axis=0, dtype=np.float64))
    assert np.allclose(moments.variance(1), rows.var(axis=0, ddof=1, dtype=np.float64))


def tokenizer(folder: Path, sound: Sound, windows: Windows, floor_db: float = 0.0) -> SemanticTokenizer:
    """Centroids are frames of another recording."""
    encoder = Encoder.load(folder, 3, windows=windows)
    encoder.front = with_floor(encoder.front, floor_db)
    (frames,) = encoder.features([sound(40 * 16000, 9)])
    drawn = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))[:50]
    return SemanticTokenizer(encoder, frames[drawn], Compared(standardise=False))


def differing(folder: Path, sound: Sound, seconds: int, windows: Windows, floor_db: float = 0.0) -> float:
    """Share of the ids of a recording that windows change."""
    waveform = sound(seconds * 16000 + 123, 1) * np.linspace(0.3, 1.5, seconds * 16000 + 123, dtype=np.float32)
    made = tokenizer(folder, sound, WHOLE, floor_db)
    (whole,) = made.encode([waveform], 16000)
    made.encoder.windows = windows
    assert made.encoder.window_samples < len(waveform)
    (parts,) = made.encode([waveform], 16000)
    assert len(whole) == len(parts) == len(waveform) // made.encoder.hop
    return float((whole != parts).mean())


@pytest.mark.parametrize("kind", ["wavlm-group", "wav2vec2-layer", "data2vec-audio-", "wav2vec2-bert-"])
def test_windows_give_the_tokens_of_the_whole(checkpoints: dict[str, Path], sound: Sound, kind: str) -> None:
    assert differing(checkpoints[kind], sound, 20, Windows(8, 4)) < MOST_DIFFERENT


def test_windows_have_the_floor_of_the_whole(checkpoints: dict[str, Path], sound: Sound) -> None:
    """A recording of which the first half is a thousand times fainter: its windows alone would have another floor."""
    front = with_floor(Encoder.load(checkpoints["wav2vec2-bert-"], 3).front, 20.0)
    waveform = sound(20 * 16000, 1) * np.where(np.arange(20 * 16000) < 16000 * 10, 1e-3, 1.0).astype(np.float32)
    parts = whole_of(waveform, front)
    assert parts is not None and parts.floor is not None
    every = filterbank.log_mels(waveform)
    wanted = filterbank.white_noise(filterbank.loudness(every) / 100)
    assert np.abs(parts.floor - wanted).max() < 0.01
    assert np.abs(normalised(every[:500], front, parts) - normalised(every, front)[:500]).max() < 0.05
    assert np.abs(normalised(every[:500], front) - normalised(every, front)[:500]).max() > 1.0
    assert differing(checkpoints["wav2vec2-bert-"], sound, 20, Windows(8, 4), 20.0) < MOST_DIFFERENT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wavlm-group", "hubert-layer", "data2vec-audio-", "wav2vec2-bert-"])
def test_a_minute_in_windows(checkpoints: dict[str, Path], sound: Sound, kind: str) -> None:
    share = differing(checkpoints[kind], sound, 60, Windows(20, 4))
    print(f"{kind}: {share:.2%} of the ids of 60 s differ between windows of 20 s and the whole")
    assert share < MOST_DIFFERENT


def test_windows_in_batches_and_standardised(checkpoints: dict[str, Path], sound: Sound) -> None:
    waveform = sound(15 * 16000, 0)
    encoder = Encoder.load(checkpoints["hubert-group"], 2, windows=Windows(4, 2))
    made = SemanticTokenizer(encoder, torch.randn(20, 32), Compared(standardise=True))
    (one,), (short, again) = made.encode([waveform], 16000), made.encode([sound(9000, 1), waveform], 16000)
    assert np.array_equal(one, again) and len(short) == 28
    assert np.array_equal(one, made.assign(made.features([waveform], 16000)[0]))
    encoder.batch_samples = 10 * 16000
    assert (made.encode([waveform], 16000)[0] == one).mean() >= 0.999


def test_whisper_hears_a_long_recording_in_its_own_windows(checkpoints: dict[str, Path], sound: Sound) -> None:
    encoder = Encoder.load(checkpoints["whisper-"], 2)
    for samples in (31_999, 32_000, 32_319, 32_320, 100_003):
        (found,) = encoder.features([sound(samples, 0)])
        assert len(found) == samples // 320 and found.isfinite().all() and found.abs().sum(dim=1).min() > 0


def test_windows_join_the_fingerprint_where_they_are_not_the_default(
    checkpoints: dict[str, Path], sound: Sound, tmp_path: Path
) -> None:
    encoder = Encoder.load(checkpoints["wavlm-layer"], 2)
    usual = SemanticTokenizer(encoder, torch.zeros(4, 32), Compared(standardise=True))
    other = SemanticTokenizer(
        Encoder.load(checkpoints["wavlm-layer"], 2, windows=Windows(30, 2)),
        torch.zeros(4, 32),
        Compared(standardise=True),
    )
    assert usual.spec.fingerprint != other.spec.fingerprint
    other.save(tmp_path / "semantic")
    assert SemanticTokenizer.load(tmp_path / "semantic").encoder.windows == Windows(30, 2)


HOUR = """
    import resource, sys
    import numpy as np, torch
    from triptych.tokenizers.semantic.compared import Compared
    from triptych.tokenizers.semantic.encoder import Encoder
    from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer

    encoder = Encoder.load(sys.argv[1], 2)
    made = SemanticTokenizer(encoder, torch.randn(100, encoder.dim), Compared(standardise=True))
    generator = np.random.default_rng(0)
    waveform = generator.standard_normal(3600 * 24000, dtype=np.float32)
    (tokens,) = made.encode([waveform], 24000)
    print(len(tokens), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wavlm-layer", "wav2vec2-bert-"])
def test_an_hour_takes_less_than_2_gib(checkpoints: dict[str, Path], kind: str) -> None:
    """Peak memory of the whole process, libraries and the hour's own samples at 24 kHz (330 MiB) among it."""
    script = [sys.executable, "-c", textwrap.dedent(HOUR), str(checkpoints[kind])]
    frames, peak = map(int, subprocess.run(script, check=True, capture_output=True, text=True).stdout.split())
    print(f"{kind}: an hour is {frames} tokens, peak {peak / 2**20:.0f} MiB")
    assert frames == 3600 * 50
    assert peak < 2 * 2**30
