"""Recordings that the starter spoke, with its tokens: held-out clips without a corpus, a download or a judge."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.corpus.manifest import Recording, write_manifest
from triptych.evaluation.judges import Judges
from triptych.evaluation.subject import EvaluateConfig, Evaluation
from triptych.stages.cascade import Cascade
from triptych.tokenizers.waveform import write_wav

SPOKEN = (
    ("af_heart", "Good morning.", "test"),
    ("am_fenrir", "Close the door.", "test"),
    ("af_heart", "Seven trees.", "train"),
    ("am_fenrir", "Nine boats.", "train"),
)
NOBODY = Judges(absent={kind: f"{kind}=none" for kind in ("recogniser", "speaker", "naturalness")})


@pytest.fixture(scope="session")
def starter() -> Cascade:
    return Cascade.load()


@pytest.fixture(scope="session")
def manifest(starter: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of two voices to judge, and another of each."""
    folder, clips = tmp_path_factory.mktemp("spoken"), []
    for number, (voice, text, split) in enumerate(SPOKEN):
        said = starter.speak(text, voice=voice)
        wav = folder / f"{number}.wav"
        write_wav(wav, said.waveform, said.sample_rate)
        clips.append(Recording(f"clip{number}", wav, said.seconds, text, voice, split))  # type: ignore[arg-type]
    write_manifest(folder / "manifest.jsonl", clips)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="session")
def evaluation(starter: Cascade, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Of the starter, without judges."""
    settings = EvaluateConfig(resamples=50, samples=0)
    return Evaluation(starter, manifest, settings, NOBODY, tmp_path_factory.mktemp("report"), lambda *said: None)


@pytest.fixture
def evaluation_of(evaluation: Evaluation, tmp_path: Path) -> Callable[..., Evaluation]:
    """The same clips with another cascade, other settings or other judges."""

    def changed(cascade: Cascade | None = None, judges: Judges = NOBODY, **settings: Any) -> Evaluation:
        return replace(
            evaluation,
            cascade=cascade or evaluation.cascade,
            judges=judges,
            folder=tmp_path / "report",
            settings=replace(evaluation.settings, **settings),
        )

    return changed


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
