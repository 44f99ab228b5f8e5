"""The cascade in the box: whole, small, without pickles, and it does its jobs."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from triptych.stages.bundle import verify_bundle
from triptych.stages.cascade import Cascade

STARTER = Path(str(files("triptych"))) / "starter"


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade.load()


def test_it_is_whole_and_small_and_holds_no_pickle() -> None:
    verify_bundle(STARTER)
    sizes = {file: file.stat().st_size for file in STARTER.rglob("*") if file.is_file()}
    assert sum(sizes.values()) <= 31e6 and max(sizes.values()) <= 15e6
    assert sum(size for file, size in sizes.items() if STARTER / "tokenizers" in file.parents) <= 15e6
    assert {file.suffix for file in sizes} <= {".json", ".safetensors"}


def test_it_speaks_in_each_of_its_voices(cascade: Cascade) -> None:
    said = {voice: cascade.speak("Good morning.", voice=voice) for voice in cascade.voices()}
    assert len(said) >= 5
    assert len({one.codes.tobytes() for one in said.values()}) == len(said)
    for one in said.values():
        assert 0.4 < one.seconds < 4 and np.isfinite(one.waveform).all()
        assert float(np.sqrt(np.square(one.waveform).mean())) > 0.01  # no silence


def test_more_text_takes_more_time(cascade: Cascade) -> None:
    short, long = cascade.speak("Yes."), cascade.speak("The old bridge was closed because of the heavy rain.")
    assert long.seconds > 1.5 * short.seconds


def test_a_text_longer_than_a_window_is_spoken_whole(cascade: Cascade) -> None:
    text = "The old bridge was closed because of the heavy rain. " * 8
    assert cascade.speak(text).seconds > 15


def test_levels_that_are_not_asked_for_are_not_made(cascade: Cascade) -> None:
    few, every = (cascade.speak("Yes.", settings=replace(cascade.settings, levels=n)) for n in (3, 0))
    assert every.codes.shape == (cascade.tokenizers.acoustic.num_levels, few.codes.shape[1])
    assert np.array_equal(few.codes, every.codes[:3])


def test_levels_that_the_codec_has_not_are_refused_before_any_work(cascade: Cascade) -> None:
    with pytest.raises(ValueError, match=r"levels=9: this cascade makes 3 to 8"):
        cascade.speak("Yes.", settings=replace(cascade.settings, levels=9))
