"""The starter, one request alone and many together, whole and as a stream: the same tokens."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.lm import native
from triptych.lm.decode import run
from triptych.lm.sampling import Sampling, guide
from triptych.stages import bench, together
from triptych.stages.best import speak_best
from triptych.stages.cascade import Cascade, Settings, Utterance
from triptych.stages.coarse.generate import CoarseWork, coarse_rule
from triptych.stages.request import Request
from triptych.stages.stream import stream
from triptych.stages.together import Draft, utter_all
from triptych.tokenizers.acoustic import codec
from triptych.tokenizers.waveform import write_wav

torch.set_num_threads(1)
TEXTS = ["Yes.", "No, thank you.", "Rain."]
LONG = "The old bridge was closed. Nobody knew why."


def loaded(tier: str) -> Cascade:
    with pytest.MonkeyPatch.context() as patch:
        if tier == "prepacked":
            patch.setenv("TRIPTYCH_NATIVE", "0")
        elif native.library() is None:
            pytest.skip("no C++ compiler here")
        made = Cascade.load()
        assert {made.rules.of(name).engine.tier for name in ("semantic", "coarse")} == {tier}
        return made


@pytest.fixture(scope="module", params=["native", "prepacked"])
def either(request: pytest.FixtureRequest) -> Cascade:
    return loaded(request.param)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return loaded("native" if native.library() else "prepacked")


def warm(cascade: Cascade, **changes: object) -> Settings:
    return replace(cascade.settings, **changes)  # type: ignore[arg-type]


def same(one: Utterance, other: Utterance) -> bool:
    return np.array_equal(one.semantic, other.semantic) and np.array_equal(one.codes, other.codes)


def test_lines_spoken_together_are_those_spoken_alone(either: Cascade) -> None:
    cascade, settings, near = either, warm(either, seed=4), 0.0
    if cascade.rules.of("semantic").engine.tier != "native":  # seeds may part at near ties there
        greedy, near = Sampling(temperature=0.0), 1e-4
        settings = replace(settings, semantic=greedy, coarse=greedy)
    alone = [cascade.speak(text, settings=settings) for text in TEXTS]
    spoken = list(cascade.speak_all(TEXTS, settings=settings, slots=2))
    assert [one.text for one in spoken] == TEXTS
    assert all(same(one, other) for one, other in zip(alone, spoken, strict=True))
    assert all(np.allclose(a.waveform, b.waveform, 0, near) for a, b in zip(alone, spoken, strict=True))
    stages = {"semantic", "coarse", "fine", "codec"}
    assert all(set(one.seconds_by_stage) - {"ear"} == stages for one in spoken)


def test_texts_with_seeds_of_their_own_are_spoken_as_alone(cascade: Cascade) -> None:
    alone = [cascade.speak("Yes.", settings=warm(cascade, seed=seed)) for seed in (5, 6)]
    spoken = list(cascade.speak_all(["Yes.", "Yes."], settings=warm(cascade), seeds=[5, 6]))
    assert all(same(one, other) for one, other in zip(alone, spoken, strict=True))
    assert not same(*spoken)
    assert list(cascade.speak_all([])) == []


@pytest.fixture(scope="module")
def recordings(cascade: Cascade, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of different lengths, in two voices."""
    folder, found = tmp_path_factory.mktemp("recordings"), []
    for text, voice in zip(TEXTS, ["af_heart", "am_fenrir", "af_heart"], strict=True):
        said = cascade.speak(text, voice=voice)
        found.append(folder / f"{len(found)}.wav")
        write_wav(found[-1], said.waveform, said.sample_rate)
    return found


def test_threads_may_share_a_cascade(cascade: Cascade) -> None:
    def say(seed: int) -> Utterance:
        return cascade.speak(LONG, settings=warm(cascade, seed=seed))

    alone = [say(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert all(map(same, alone, pool.map(say, range(3))))


def test_a_seed_is_given_for_each_request_or_for_none(cascade: Cascade) -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 requests"):
        next(cascade.speak_all(["Yes.", "No."], seeds=[1]))


def test_texts_with_voices_of_their_own_are_spoken_as_alone(cascade: Cascade, recordings: list[Path]) -> None:
    voices = [recordings[0], "am_fenrir", recordings[0]]
    alone = [cascade.speak("Rain.", voice=voice) for voice in voices]
    spoken = list(cascade.speak_all(["Rain."] * 3, voices=voices))
    assert all(same(one, other) for one, other in zip(alone, spoken, strict=True))
    assert not same(*spoken[:2])
    assert "tokenizers" in spoken[0].seconds_by_stage and "tokenizers" not in spoken[2].seconds_by_stage


def test_recordings_are_converted_as_alone(
    cascade: Cascade, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a lot of two, and one of one."""
    monkeypatch.setattr(together, "LOT", 1)
    voices = ["bf_emma", recordings[0], "af_heart"]
    alone = [
        cascade.convert(source, voice=voice, settings=warm(cascade, seed=seed))
        for seed, (source, voice) in enumerate(zip(recordings, voices, strict=True))
    ]
    made = list(cascade.convert_all(recordings, voices=voices, seeds=[0, 1, 2], slots=2))
    assert all(same(one, other) for one, other in zip(alone, made, strict=True))
    assert all({"tokenizers", "coarse", "codec"} <= set(one.seconds_by_stage) for one in made)


def test_recordings_are_continued_as_alone(cascade: Cascade, recordings: list[Path]) -> None:
    alone = [
        cascade.continue_(prompt, seconds=1.0, settings=warm(cascade, seed=seed))
        for seed, prompt in enumerate(recordings, start=5)
    ]
    made = list(cascade.continue_all(recordings, seconds=1.0, seeds=[5, 6, 7], slots=2))
    assert all(same(one, other) for one, other in zip(alone, made, strict=True))
    assert len({one.semantic[-10:].tobytes() for one in made}) == 3
    with pytest.raises(ValueError, match="seconds=0"):
        next(cascade.continue_all(recordings, seconds=0.0))


def test_true_codes_and_made_ones_go_through_together(cascade: Cascade) -> None:
    """A draft with coarse codes of its own beside one without; the fine stage in use."""
    settings = warm(cascade, levels=0, seed=3)
    said = cascade.speak("Rain.", settings=settings)
    voice = cascade.voice(None, None, Request(cascade, settings))

    def draft(coarse: bool) -> Draft:
        return Draft(Request(cascade, settings), said.semantic, voice, coarse=said.codes if coarse else None)

    true, made = utter_all([draft(True), draft(False)], 2)
    assert same(true, said) and same(made, said)
    assert "coarse" not in true.seconds_by_stage and made.seconds_by_stage["coarse"] > 0


@pytest.mark.parametrize(("first", "rate"), [(0.0, 1.0), (1.0, 0.7), (1.0, 1.0), (1.0, 1.3)])
def test_a_stream_is_the_whole_in_pieces(cascade: Cascade, first: float, rate: float) -> None:
    text = "The old bridge was closed because of the rain, and nobody knew why. It was late."
    settings = warm(cascade, first_seconds=first, rate=rate)
    whole = cascade.speak(text, settings=settings)
    pieces = list(cascade.stream(text, settings=settings))
    assert len(pieces) > 1 or first == 0.0
    sound = np.concatenate(pieces)
    assert sound.shape == whole.waveform.shape
    error, power = np.square(sound - whole.waveform).mean(), np.square(whole.waveform).mean()
    assert 10 * np.log10(error / power + 1e-12) < -60


def test_what_is_decoded_in_spans_is_the_whole(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = cascade.speak(LONG).codes
    whole = cascade.tokenizers.acoustic.decode(codes)
    monkeypatch.setattr(codec, "WHOLE_SECONDS", 2.5)
    spans = cascade.tokenizers.acoustic.decode(codes)
    assert spans.shape == whole.shape and not np.array_equal(spans, whole)
    assert 10 * np.log10(np.square(spans - whole).mean() / np.square(whole).mean() + 1e-12) < -60


def test_the_tokens_of_a_stream_are_those_of_the_whole(cascade: Cascade) -> None:
    settings = warm(cascade, first_seconds=1.0)
    job = Request(cascade, settings)
    voice = cascade.voice(None, None, job)
    works: list[CoarseWork] = []
    make = job.coarse_work
    job.coarse_work = lambda *a: works.append(make(*a)) or works[-1]  # type: ignore[method-assign, func-returns-value]
    for _ in stream(job, cascade.text_pieces(LONG), voice):
        pass
    whole = cascade.speak(LONG, settings=settings)
    assert np.array_equal(works[0].semantic, whole.semantic)
    assert np.array_equal(works[0].made[: whole.codes.shape[0]], whole.codes[: works[0].made.shape[0]])
    assert works[0].number >= 2


def test_a_mistake_in_a_stream_is_told_before_the_first_piece(cascade: Cascade) -> None:
    with pytest.raises(ValueError, match="empty"):
        cascade.stream(" ")


def test_the_rate_changes_the_length(cascade: Cascade) -> None:
    plain, fast, slow = (cascade.speak(TEXTS[1], settings=warm(cascade, rate=rate)) for rate in (1.0, 1.5, 0.75))
    beat = 2 * float(cascade.grid.beat)
    assert fast.seconds == pytest.approx(plain.seconds / 1.5, abs=beat)
    assert slow.seconds == pytest.approx(plain.seconds / 0.75, abs=beat)
    with pytest.raises(ValueError, match="rate"):
        warm(cascade, rate=3.0)


def test_the_voice_prompt_can_be_guided(cascade: Cascade) -> None:
    """With guidance 1 nothing changes; with more another sound comes, and greedy codes are those of the two logits."""
    voice = list(cascade.voices())[1]
    plain = cascade.speak(TEXTS[0], voice=voice)
    guided = replace(cascade.settings, coarse=replace(cascade.settings.coarse, guidance=2.0))
    other = cascade.speak(TEXTS[0], voice=voice, settings=guided)
    assert np.array_equal(plain.semantic, other.semantic)
    assert other.codes.shape == plain.codes.shape and not np.array_equal(plain.codes, other.codes)


@pytest.mark.parametrize("drop", [0.0, 0.1])
def test_guided_frames_are_those_of_a_slow_reference(
    cascade: Cascade, monkeypatch: pytest.MonkeyPatch, drop: float
) -> None:
    """The first frame: both branches in full, through the plain model; the second without the voice prompt, or, where a
    stage learned so, without what the semantic tokens say."""
    _, model = cascade.stages["coarse"]
    monkeypatch.setattr(model, "semantic_drop", drop)
    job = Request(cascade, None)
    semantic = np.arange(20, dtype=np.uint16)
    work = job.coarse_work(cascade.voice(None, None, job))
    work.sampling, work.semantic, work.ended = Sampling(temperature=0.0, guidance=3.0), semantic, True
    rule = coarse_rule(model)
    for _ in run(rule, [work.job(rule)]):
        pass
    both = []
    with torch.inference_mode():
        told = (work.prompt.semantic, work.prompt.codes, False)
        untold = (*told[:2], True) if drop else (semantic[:0], work.prompt.codes[:, :0], False)
        for heard, codes, deaf in (told, untold):
            known = torch.from_numpy(codes[: model.levels].astype(np.int64))[None]
            tokens = torch.from_numpy(np.concatenate([heard, semantic]).astype(np.int64))[None]
            before = torch.cat([model.start.expand(1, 1, -1), model.embed(known)], 1)
            count = before.shape[1]
            flags = (torch.arange(count) < known.shape[2]).long()[None]
            hidden = model.step(before, model.encode(tokens, deaf)[:, :count], flags)[:, -1]
            both.append(model.logits(0, hidden, known[0, :, :1]))
    assert int(guide(both[0], both[1], 3.0).argmax()) == int(work.made[0, 0])


def test_the_best_take_is_one_of_the_takes_and_says_so(cascade: Cascade) -> None:
    takes = [cascade.speak(TEXTS[1], settings=warm(cascade, seed=seed)) for seed in (3, 4, 5)]
    best = speak_best(cascade, TEXTS[1], 3, settings=warm(cascade, seed=3))
    assert sum(same(best, take) for take in takes) >= 1
    assert "best of 3" in best.notes[-1] and "seed 5" in best.notes[-1]
    with pytest.raises(ValueError, match="at least 1"):
        speak_best(cascade, TEXTS[1], 0)


def test_takes_are_heard_until_one_has_no_error(cascade: Cascade) -> None:
    heard: list[float] = []

    def errors(waveform: object, rate: int) -> float:
        heard.append([0.5, 0.0, 0.25][len(heard)])
        return heard[-1]

    best = speak_best(cascade, TEXTS[0], 3, errors=errors)
    assert heard == [0.5, 0.0]
    assert "word error 0.00" in best.notes[-1]


@pytest.mark.skipif(native.library() is None, reason="no C++ compiler here")
def test_fewer_bits_are_heard_as_speech_too() -> None:
    for precision in ("bf16", "int8"):
        made = Cascade.load(precision=precision)
        said = made.speak("Yes.")
        assert said.seconds > 0.3 and float(np.abs(said.waveform).max()) > 0.01
    with pytest.raises(ValueError, match="fp32, bf16, int8"):
        Cascade.load(precision="fp8")  # type: ignore[arg-type]


def test_a_stream_is_timed() -> None:
    pieces = iter([np.zeros(100), np.zeros(300)])
    found = bench.timed(pieces, 100)
    assert found.sound == 4.0 and 0 <= found.first <= found.work and found.stalled >= 0
