"""k-means in a stream: the same for any number of processes, and after any interruption; dead centroids come back."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from triptych.tokenizers.clips import Refused
from triptych.tokenizers.semantic.compared import Compared
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic, stream_means
from triptych.tokenizers.semantic.means import StreamMeans, nearest
from triptych.tokenizers.semantic.means_run import MeansRun, Position
from triptych.tokenizers.semantic.stream import Heard
from triptych.tokenizers.semantic.tokenizer import SemanticTokenizer


def blobs(centres: int, frames: int, seed: int, dim: int = 6) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Frames around `centres` points that lie far apart; the points are always the same."""
    points = 20 * np.random.default_rng(0).standard_normal((50, dim))[:centres]
    generator = np.random.default_rng((1, seed))
    drawn = points[generator.integers(0, centres, frames)] + generator.standard_normal((frames, dim))
    return drawn.astype(np.float32)


def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    buffers = [blobs(5 + i, 900, i) for i in range(6)]
    through = StreamMeans(8, 200, seed=3)
    steps = [through.step(frames) for frames in buffers]
    for stop in range(1, 6):
        first, second = StreamMeans(8, 200, seed=3), StreamMeans(8, 200, seed=3)
        for frames in buffers[:stop]:
            first.step(frames)
        run = MeansRun(tmp_path / str(stop), "same")
        run.save(first, Position(stop))
        assert run.resume(second) == Position(stop)
        assert [second.step(frames) for frames in buffers[stop:]] == steps[stop:]
        assert np.array_equal(second.centroids, through.centroids)


def test_dead_centroids_are_revived_where_frames_lie() -> None:
    means = StreamMeans(8, 200, seed=0)
    means.step(blobs(8, 900, 0))
    elsewhere = np.float32(500)  # from now on all frames lie so far away that one centroid is nearest to them all
    revived = sum(means.step(blobs(8, 900, i) + elsewhere).revived for i in range(1, 8))
    assert revived > 0
    frames = blobs(8, 900, 99) + elsewhere
    ids, squared = nearest(frames, means.centroids)
    assert len(np.unique(ids)) == 8
    assert squared.mean() < 0.25 * np.square(frames - frames.mean(axis=0)).sum(axis=1).mean()


def test_nearest_is_nearest() -> None:
    frames, centroids = blobs(7, 300, 1), blobs(7, 20, 2)
    slow = np.square(frames[:, None].astype(np.float64) - centroids[None]).sum(axis=2)
    ids, squared = nearest(frames, centroids)
    assert np.array_equal(ids, slow.argmin(axis=1))
    assert np.allclose(squared, slow.min(axis=1), rtol=1e-3, atol=1e-2)


@pytest.fixture
def config(checkpoints: dict[str, Path]) -> SemanticFitConfig:
    return SemanticFitConfig(
        encoder=str(checkpoints["wavlm-layer"]),
        layer=2,
        clusters=12,
        passes=2,
        buffer_frames=100,
        batch_frames=50,
        memory_gb=0.0,
        workers=1,
    )


def test_features_come_in_order_whoever_makes_them(config: SemanticFitConfig, clips: Callable[[int], Any]) -> None:
    encoder = Encoder.load(config.encoder, 2)
    order = [4, 0, 5, 2, 1, 3]
    alone, three = (list(Heard(clips(6), encoder, Compared(standardise=True), workers=n)(order)) for n in (1, 3))
    assert all(np.array_equal(one, other) for one, other in zip(alone, three, strict=True))
    for index, frames in zip(order, alone, strict=True):
        assert len(frames) == int(clips(6).seconds(index) * 24000) * 16000 // 24000 // 320
    kept = Heard(clips(6), encoder, Compared(standardise=True), workers=2, memory_gb=1e-5)  # room for some
    for again in (kept(order), kept(order[::-1])):
        assert {frames.tobytes() for frames in again} == {frames.tobytes() for frames in alone}
    assert 0 < len(kept._kept) < 6


def test_a_clip_that_cannot_be_read_is_one_line(config: SemanticFitConfig, clips: Callable[[int], Any]) -> None:
    class Broken(type(clips(1))):  # type: ignore[misc]
        def waveform(self, i: int) -> Any:
            if i == 3:
                raise ValueError("clip-3 is cut short")
            return super().waveform(i)

    heard = Heard(Broken(6), Encoder.load(config.encoder, 2), Compared(standardise=True), workers=2)
    with pytest.raises(ValueError) as caught:
        list(heard(range(6)))
    assert str(caught.value) == "clip-3 is cut short"


def with_broken(clips: Any, *broken: int) -> Any:
    """The clips, of which these cannot be read."""
    read = clips.waveform

    def waveform(i: int) -> Any:
        if i in broken:
            raise ValueError(f"{i}.wav: silence throughout")
        return read(i)

    clips.waveform = waveform
    return clips


def test_a_clip_that_cannot_be_used_is_named_and_left_out(
    config: SemanticFitConfig, clips: Callable[[int], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after a stop; and too many of them end the fit."""
    config = replace(config, max_rejected=0.2)
    whole = fit_semantic(with_broken(clips(6), 3), tmp_path / "whole", config)
    assert capsys.readouterr().err == "clip-3 is left out: 3.wav: silence throughout\n"
    assert 0 < whole.frames == sum(int(clips(6).seconds(i) * 24000) * 16000 // 24000 // 320 for i in (0, 1, 2, 4, 5))
    with pytest.raises(ValueError, match=r"2 of 6 clips cannot be used.*max_rejected=0\.2 .*say max_rejected=0\.34$"):
        fit_semantic(with_broken(clips(6), 3, 4), tmp_path / "few", config)
    with pytest.raises(ValueError, match=r"1 of 6 clips cannot be used.*clip-3: 3\.wav.*say max_rejected=0\.17$"):
        fit_semantic(with_broken(clips(6), 3), tmp_path / "stopped", replace(config, max_rejected=0.01))
    assert fit_semantic(with_broken(clips(6), 3), tmp_path / "stopped", config, resume=True) == whole
    capsys.readouterr()
    fit_semantic(with_broken(clips(6), 3), tmp_path / "on", replace(config, start=str(tmp_path / "whole")))
    assert capsys.readouterr().err.startswith("clip-3 is left out")


def test_a_pass_may_end_in_clips_without_frames(config: SemanticFitConfig, clips: Callable[[int], Any]) -> None:
    encoder = Encoder.load(config.encoder, 2)
    config = replace(config, buffer_frames=12, passes=1)
    heard = Heard(with_broken(clips(3), 2), encoder, Compared(standardise=True), refused=Refused(3, 0.5))
    run: Any = SimpleNamespace(save=lambda *_: None)
    position = stream_means(StreamMeans(12, 50, 0), heard, [2, 0, 1], config, run, Position(), None)
    assert position.clips == 3 and position.inertia[0][1] in (1, 2)
    assert all(np.isfinite(total) for total, _ in position.inertia)


def test_the_first_buffer_holds_a_frame_a_cluster(
    config: SemanticFitConfig, clips: Callable[[int], Any], tmp_path: Path
) -> None:
    config = replace(config, buffer_frames=10, clusters=80, passes=1)
    assert fit_semantic(clips(6), tmp_path / "fitted", config).usage > 0
    with pytest.raises(ValueError, match="give more clips"):
        fit_semantic(clips(1), tmp_path / "few", config)


class Stopped(Exception):
    pass


def test_a_fit_that_was_stopped_ends_as_one_that_was_not(
    config: SemanticFitConfig, clips: Callable[[int], Any], tmp_path: Path
) -> None:
    whole = fit_semantic(clips(6), tmp_path / "whole", config)

    def stop(what: str, done: int, total: int) -> None:
        if what == "k-means" and done == 8:
            raise Stopped

    with pytest.raises(Stopped):
        fit_semantic(clips(6), tmp_path / "stopped", config, progress=stop)
    assert sorted(path.suffix for path in (tmp_path / "stopped.run").iterdir()) == [".json", ".safetensors"]
    with pytest.raises(ValueError, match="resume=true"):
        fit_semantic(clips(6), tmp_path / "stopped", config)
    with pytest.raises(ValueError, match="other settings"):
        fit_semantic(clips(6), tmp_path / "stopped", replace(config, seed=1), resume=True)
    heard: list[int] = []
    rest = fit_semantic(
        clips(6),
        tmp_path / "stopped",
        replace(config, workers=0, memory_gb=1.0),
        resume=True,
        progress=lambda what, done, total: heard.append(done) if what == "k-means" else None,
    )
    assert 0 < len(heard) < 12
    assert rest == whole
    one, two = SemanticTokenizer.load(tmp_path / "whole"), SemanticTokenizer.load(tmp_path / "stopped")
    assert one.spec == two.spec
    assert not (tmp_path / "stopped.run").exists()
    assert whole.inertia < whole.variance and len(whole.inertia_by_pass) == 2


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from triptych.corpus.clips import ManifestClips
    from triptych.tokenizers.semantic.fit import SemanticFitConfig, fit_semantic
    from triptych.tokenizers.spec import WaveformSpec

    def kill(what, done, total):
        if what == "k-means" and done == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    config = SemanticFitConfig(encoder=sys.argv[1], layer=2, clusters=12, passes=2, buffer_frames=100, batch_frames=50)
    clips = ManifestClips(Path(sys.argv[2]), WaveformSpec(16000))
    fit_semantic(clips, Path(sys.argv[3]), config, progress=kill)
"""


@pytest.mark.slow
def test_a_fit_that_was_killed_ends_as_one_that_was_not(
    config: SemanticFitConfig, clips: Callable[[int], Any], tmp_path: Path
) -> None:
    from triptych.cli.main import main
    from triptych.tokenizers.waveform import write_wav

    for i in range(6):
        write_wav(tmp_path / "clips" / f"{i}.wav", clips(6).waveform(i), 24000)
    manifest = tmp_path / "manifest.jsonl"

    def run(*line: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(list(line))
        assert not ended.value.code

    run("prepare", str(tmp_path / "clips"), "-o", str(manifest))
    keys = [f"encoder={config.encoder}", "layer=2", "clusters=12", "passes=2", "buffer_frames=100", "batch_frames=50"]
    fit = ["fit", "semantic", str(manifest), *keys]
    run(*fit, "-o", str(tmp_path / "whole"))
    script = [sys.executable, "-c", textwrap.dedent(KILLED), config.encoder, str(manifest), str(tmp_path / "killed")]
    assert subprocess.run(script).returncode == -9
    run(*fit, "-o", str(tmp_path / "killed"), "resume=true", "workers=3")
    one, two = SemanticTokenizer.load(tmp_path / "whole"), SemanticTokenizer.load(tmp_path / "killed")
    assert one.spec == two.spec


def test_ids_are_taken_over(config: SemanticFitConfig, clips: Callable[[int], Any], tmp_path: Path) -> None:
    """Beginning where the same encoder's tokens are, ids keep their meaning; k-means++ deals them anew."""
    fit_semantic(clips(6), tmp_path / "one", config)
    one = SemanticTokenizer.load(tmp_path / "one")

    def kept(folder: Path) -> float:
        two = SemanticTokenizer.load(folder)
        heard = [clips(6).waveform(i) for i in range(6)]
        pairs = zip(one.encode(heard, 16000), two.encode(heard, 16000), strict=True)
        return float(np.mean(np.concatenate([a == b for a, b in pairs])))

    begun = replace(config, start=str(tmp_path / "one"), seed=5)
    fit_semantic(clips(6), tmp_path / "two", begun)
    fit_semantic(clips(6), tmp_path / "three", replace(config, seed=5))
    assert kept(tmp_path / "two") > 0.8 > kept(tmp_path / "three")
    assert '"start": "one"' in (tmp_path / "two" / "report.json").read_text()
    with pytest.raises(ValueError, match=r"has 12 ids.*clusters=12"):
        fit_semantic(clips(6), tmp_path / "four", replace(begun, clusters=10))
    assert not (tmp_path / "four").exists()


def test_a_centroid_that_nobody_speaks_for_is_revived() -> None:
    frames = blobs(8, 4000, 0)
    first = np.concatenate([blobs(8, 8, 3)[:7], np.full((1, 6), 1e4, dtype=np.float32)])
    means = StreamMeans(8, 200, seed=0)
    means.begin_at(first, np.full(8, 10))
    assert means.step(frames).revived == 1
    assert np.abs(means.centroids).max() < 1e3
