"""Takes: of what is said the one in which the text is read best, of the coarse stage the one that is heard best, window
by window; alone, together and in a stream."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from triptych.lm import native
from triptych.stages import takes
from triptych.stages.cascade import Cascade, Settings
from triptych.stages.coarse.generate import CoarseWork
from triptych.stages.request import Request
from triptych.tokenizers.semantic.ctc import collapse
from triptych.tokenizers.waveform import write_wav

torch.set_num_threads(1)
LONG = "The old bridge was closed. Nobody knew why."


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    if native.library() is None:
        pytest.skip("no C++ compiler here; in the other tier a row rounds otherwise beside other rows")
    return Cascade.load()


def asking(cascade: Cascade, **changes: object) -> Settings:
    return replace(cascade.settings, **changes)  # type: ignore[arg-type]


def test_a_text_is_read_in_its_own_tokens(cascade: Cascade) -> None:
    """Worse where a word is missing, or comes twice, and not at all in what is too short for it."""
    texts = ["The old bridge was closed.", "The bridge was closed.", "The old old bridge was closed."]
    tokens = cascade.tokenizers.text.encode  # type: ignore[union-attr]
    said = cascade.speak(texts[0], settings=asking(cascade, semantic_takes=8)).semantic
    right, missing, twice = (cascade.proofreader(tokens(text), said) for text in texts)
    assert 0 <= right < 0.5 * min(missing, twice)
    assert cascade.proofreader(tokens(LONG), said[:4]) == np.inf


@pytest.mark.parametrize(("costs", "kept"), [((3.0, 1.0, 2.0), 1), ((3.0, 0.05, 0.0), 2), ((0.05, 0.0, 0.0), 0)])
def test_the_first_take_is_kept_where_the_text_is_surely_read_or_the_surest(
    costs: tuple[float, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade, seen = Cascade.load(), list[np.ndarray]()

    def fake(text: np.ndarray, tokens: np.ndarray) -> float:
        seen.append(tokens)
        return costs[len(seen) - 1]

    monkeypatch.setattr(cascade, "proofreader", fake)
    said = cascade.speak("Rain.", settings=asking(cascade, semantic_takes=3)).semantic
    assert len(seen) == (3 if kept else 1)
    assert np.array_equal(said[: len(seen[kept])], seen[kept][: len(said)])
    one = cascade.speak("Rain.", settings=asking(cascade, semantic_takes=1)).semantic
    assert np.array_equal(one[: len(seen[0])], seen[0][: len(one)])


def test_tokens_in_which_nothing_can_be_read_have_no_takes(cascade: Cascade) -> None:
    kinds: Any = cascade.tokenizers
    mute = SimpleNamespace(compared=replace(kinds.semantic.compared, phonemes=0.0))
    strange = SimpleNamespace(spec=SimpleNamespace(size=3), decode=lambda ids: "ts▁"[int(ids[0])])
    for text, semantic in ((kinds.text, mute), (strange, kinds.semantic), (None, kinds.semantic)):
        with pytest.raises(ValueError, match=r"semantic_takes needs .* semantic_takes=1"):
            takes.Proofreader(SimpleNamespace(text=text, semantic=semantic))  # type: ignore[arg-type]


def test_the_take_with_fewest_edits_is_kept(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is; and take 0 is what is made without takes."""
    one = cascade.speak("Rain.", settings=asking(cascade, takes=1))
    seen: list[np.ndarray] = []

    def listed(order: tuple[int, ...]) -> None:
        seen.clear()
        places = iter(order)

        def fake(job: Request, before: CoarseWork, take: CoarseWork) -> float:
            seen.append(take.made)
            return float(next(places))

        monkeypatch.setattr(takes, "edits", fake)

    for order, kept in (((0, 1, 2), 0), ((2, 1, 3), 1), ((2, 2, 1), 2), ((1, 1, 1), 0)):
        listed(order)
        made = cascade.speak("Rain.", settings=asking(cascade, takes=3))
        levels = len(seen[0])
        assert np.array_equal(made.codes[:levels], seen[kept]) and np.array_equal(made.semantic, one.semantic)
        assert np.array_equal(seen[0], one.codes[:levels])
        assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])


def test_edits_count_what_is_heard(cascade: Cascade, tmp_path: Path) -> None:
    """Nothing for the tokens that are heard; everything for others; only the new window counts, without its repeats."""
    said = cascade.speak(LONG)
    job, levels = Request(cascade, None), cascade.stages["coarse"][0].config.levels
    codes = said.codes[:levels]
    sound = cascade.tokenizers.acoustic.decode(codes)
    (heard,) = cascade.tokenizers.semantic.encode([sound], cascade.sample_rate)
    empty = job.coarse_work(cascade.voice(None, None, job))
    whole = replace(empty, semantic=heard, made=codes)
    assert takes.edits(job, empty, whole) == 0.0
    other = (heard + 1) % cascade.tokenizers.semantic.spec.size
    assert takes.edits(job, empty, replace(whole, semantic=other)) > 0.8
    grid = cascade.grid
    half = codes.shape[1] // 2 // grid.acoustic_per_beat * grid.acoustic_per_beat
    new = half // grid.acoustic_per_beat * grid.semantic_per_beat
    (later,) = cascade.tokenizers.semantic.encode(
        [cascade.tokenizers.acoustic.decode(codes[:, half:])], cascade.sample_rate
    )
    mixed = np.concatenate([other[:new], later])
    assert takes.edits(job, replace(empty, made=codes[:, :half]), replace(whole, semantic=mixed)) == 0.0
    assert collapse(np.array([5, 5, 7, 7, 5], dtype=np.uint16)).tolist() == [5, 7, 5] and len(collapse(heard[:0])) == 0


def test_more_takes_are_heard_at_least_as_well(cascade: Cascade, tmp_path: Path) -> None:
    source = tmp_path / "source.wav"
    write_wav(source, cascade.speak(LONG).waveform, cascade.sample_rate)
    heard = {}
    for count in (1, 3):
        made = cascade.convert(source, voice=None, settings=asking(cascade, takes=count))
        job, levels = Request(cascade, None), cascade.stages["coarse"][0].config.levels
        empty = job.coarse_work(cascade.voice(None, None, job))
        heard[count] = takes.edits(job, empty, replace(empty, semantic=made.semantic, made=made.codes[:levels]))
    assert heard[3] <= heard[1]


def test_together_alone_and_in_a_stream(cascade: Cascade) -> None:
    settings = asking(cascade, semantic_takes=2, takes=2, first_seconds=1.0, seed=3)
    texts = ["Rain.", LONG]
    alone = [cascade.speak(text, settings=settings) for text in texts]
    spoken = list(cascade.speak_all(texts, settings=settings, slots=3))
    for one, other in zip(alone, spoken, strict=True):
        assert np.array_equal(one.codes, other.codes)
    pieces = list(cascade.stream(LONG, settings=settings))
    assert len(pieces) > 1
    sound, whole = np.concatenate(pieces), alone[1].waveform
    assert sound.shape == whole.shape
    assert 10 * np.log10(np.square(sound - whole).mean() / np.square(whole).mean() + 1e-12) < -60


def test_expected_levels_change_the_sound_alone(cascade: Cascade, tmp_path: Path) -> None:
    """In what is spoken, streamed, chosen of takes and continued; a recording stays as the codec has it."""
    plain, mean = (asking(cascade, expected_levels=n, first_seconds=1.0, seed=3) for n in (0, 2))
    one, other = (cascade.speak(LONG, settings=settings) for settings in (plain, mean))
    assert np.array_equal(one.codes, other.codes)
    assert np.abs(one.waveform - other.waveform).max() > 0.01 and len(one.waveform) == len(other.waveform)
    sound = np.concatenate(list(cascade.stream(LONG, settings=mean)))
    assert 10 * np.log10(np.square(sound - other.waveform).mean() / np.square(sound).mean() + 1e-12) < -60
    assert one.shift is None
    assert np.array_equal(cascade.tokenizers.acoustic.decode(other.codes, other.shift), other.waveform)
    more = cascade.speak(LONG, settings=replace(mean, takes=2))
    assert more.waveform.shape == other.waveform.shape
    prompt = tmp_path / "prompt.wav"
    write_wav(prompt, one.waveform, one.sample_rate)
    went, on = (cascade.continue_(prompt, seconds=1.0, settings=settings) for settings in (plain, mean))
    reach = 24_000 // 4  # of what comes, through decoder and post-filter
    given = len(went.waveform) - 24_000 - reach
    assert np.array_equal(went.codes, on.codes)
    assert np.array_equal(went.waveform[:given], on.waveform[:given])
    assert not np.array_equal(went.waveform[-24_000:], on.waveform[-24_000:])
    whole, as_it_is = (
        cascade.speak("Rain.", settings=asking(cascade, levels=8, expected_levels=n)).waveform for n in (2, 0)
    )
    assert np.array_equal(whole, as_it_is)  # levels of the fine stage follow what was drawn
    with pytest.raises(ValueError, match="expected_levels=4: the coarse stage makes 3"):
        cascade.speak("Rain.", settings=asking(cascade, expected_levels=4))


def test_none_is_too_few(cascade: Cascade) -> None:
    for what in ("takes", "semantic_takes"):
        with pytest.raises(ValidationError, match=what):
            asking(cascade, **{what: 0})
