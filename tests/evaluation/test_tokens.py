"""What is counted of tokens: known by hand, bounded, and indifferent to how ids are named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.evaluation.abx import abx_absence, pooled, segments
from triptych.evaluation.probes import pitch_probe, speaker_probe
from triptych.evaluation.tokens import change, purity, use
from triptych.tokenizers.semantic.ctc import collapse

CHANCE = np.random.default_rng(0)
IDS = st.lists(st.integers(0, 5), min_size=1, max_size=40).map(np.array)


def test_use_by_hand() -> None:
    found = use([np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])], size=4, frame_rate=25.0)
    assert (found.frames, found.usage, found.entropy) == (8, 0.5, 1.0)
    assert found.bits_per_second == 25.0
    assert found.per_second == 4 / 8 * 25
    assert use([], 4, 25.0).frames == 0


@given(IDS)
def test_collapsed_has_no_repeats_and_loses_nothing_else(ids: np.ndarray) -> None:
    short = collapse(ids)
    assert (np.diff(short) != 0).all()
    assert np.array_equal(collapse(short), short)
    assert set(short) == set(ids)


def test_purity_of_ids_that_tell_all_and_nothing() -> None:
    phones = CHANCE.integers(0, 4, 4000)
    told = purity(phones * 2 + CHANCE.integers(0, 2, 4000), phones, CHANCE)
    silent = purity(CHANCE.integers(0, 8, 4000), phones, CHANCE)
    assert told is not None and silent is not None
    assert told.pnmi == pytest.approx(1.0)
    assert told.phone == pytest.approx(1.0)
    assert told.cluster == pytest.approx(0.5, abs=0.03)
    assert silent.pnmi == pytest.approx(silent.by_chance, abs=0.01)
    assert purity(phones, np.full(4000, -1), CHANCE) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_purity_does_not_depend_on_names_of_ids(seed: int) -> None:
    generator = np.random.default_rng(seed)
    phones = generator.integers(-1, 4, 200)
    ids = (phones + generator.integers(0, 3, 200)) % 6
    renamed = generator.permutation(6)[ids]
    one, other = (purity(x, phones, np.random.default_rng(0)) for x in (ids, renamed))
    assert one is not None and other is not None
    assert one.pnmi == pytest.approx(other.pnmi)
    assert 0 <= one.pnmi <= 1
    assert one.frames == (phones >= 0).sum()


@given(IDS)
def test_nothing_changed_is_no_change(ids: np.ndarray) -> None:
    found = change(ids, ids)
    assert found is not None
    assert (found.edits, found.collapsed, found.frames, found.tokens) == (0, 0, 0, len(ids))


@given(IDS, st.sampled_from([0.95, 1.05]))
def test_speed_alone_is_no_change(ids: np.ndarray, speed: float) -> None:
    """Ids that were merely read at other times are the same tokens."""
    slow = np.repeat(ids, 20)
    places = np.minimum(np.floor((np.arange(round(len(slow) / speed)) + 0.5) * speed).astype(int), len(slow) - 1)
    found = change(slow, slow[places], speed)
    assert found is not None
    assert found.edits == found.frames == found.collapsed == 0


def test_change_by_hand() -> None:
    found = change(np.array([1, 1, 2, 3]), np.array([1, 1, 4, 3]))
    assert found is not None
    assert (found.edits, found.collapsed, found.frames) == (0.25, 1 / 3, 0.25)
    assert change(np.zeros(0, int), np.array([1])) is None


def clips_of(pitches: list[float], told: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Voices of one pitch each, which half of the ids tell, or do not."""
    generator = np.random.default_rng(1)
    ids, hertz = [], []
    for place, pitch in enumerate(pitches):
        voice = place % 2 * 10 if told else 0
        ids.append(voice + generator.integers(0, 10, 60))
        melody = np.log2(pitch) + 0.01 * generator.standard_normal(60)
        hertz.append(np.where(generator.random(60) < 0.3, np.nan, melody))
    return ids, hertz


@pytest.mark.parametrize("told", [True, False])
def test_probes_find_what_is_there_and_no_more(told: bool) -> None:
    ids, hertz = clips_of([100.0, 200.0] * 10, told)
    found = speaker_probe(ids, ["low", "high"] * 10, 20, 200, 0)
    pitch = pitch_probe(ids, hertz, 20, 200, 0, within=False)
    melody = pitch_probe(ids, hertz, 20, 200, 0, within=True)
    assert found is not None and pitch is not None and melody is not None
    accuracy, majority, speakers = found
    assert (majority, speakers) == (0.5, 2)
    assert accuracy.mean == 1.0 if told else accuracy.mean < 0.85
    assert pitch.mean > 0.95 if told else pitch.mean < 0.1
    assert melody.mean < 0.1


def test_probes_say_when_they_cannot() -> None:
    ids, _ = clips_of([100.0] * 6, told=True)
    assert speaker_probe(ids, [None] * 6, 20, 10, 0) is None
    assert speaker_probe(ids, ["a"] * 5 + ["b"], 20, 10, 0) is None  # one clip cannot be learned and held out
    assert pitch_probe(ids, [np.full(60, np.nan)] * 6, 20, 10, 0, within=False) is None


def test_segments_are_stretches_of_known_phones() -> None:
    assert segments(np.array([-1, 3, 3, 4, -1, 4])) == [(1, 3), (3, 4), (5, 6)]
    vectors, labels = pooled([np.arange(6, dtype=np.float32)[:, None]], [np.array([-1, 3, 3, 4, -1, 4])], ["ann"])
    assert vectors[:, 0].tolist() == [1.5, 3.0, 5.0]
    assert labels == {"phone": ["3", "4", "4"], "speaker": ["ann"] * 3}


@pytest.mark.skipif(abx_absence() is not None, reason="fastabx needs Python 3.12")
def test_abx_of_phones_apart_and_mingled() -> None:
    from triptych.evaluation.abx import abx_error

    generator = np.random.default_rng(0)
    phones = [generator.permutation(np.repeat(np.arange(4), 5)) for _ in range(12)]
    speakers = ["ann", "bob"] * 6
    directions = generator.standard_normal((4, 16))
    apart = [(directions[p] + 0.1 * generator.standard_normal((20, 16))).astype(np.float32) for p in phones]
    mingled = [generator.standard_normal((20, 16)).astype(np.float32) for _ in phones]
    assert abx_error(apart, phones, speakers, 0) < 0.05
    assert 0.35 < abx_error(mingled, phones, speakers, 0) < 0.65
