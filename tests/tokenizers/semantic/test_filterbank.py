"""The fast filterbank is transformers' own; frames are exact; MFCCs do not depend on loudness."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SeamlessM4TFeatureExtractor

from triptych.tokenizers.semantic.filterbank import (
    PADDING,
    log_mels,
    loudness,
    mel_centres,
    mfcc,
    normalise,
    stack,
    white_noise,
)
from triptych.tokenizers.semantic.inputs import (
    FrontEnd,
    encoder_input,
    filterbank_front_end,
    wave_front_end,
    with_floor,
)
from triptych.tokenizers.waveform import Waveform

Sound = Callable[[int, int], Waveform]


@pytest.mark.parametrize(("samples", "stride"), [(16000, 2), (16000, 4), (8000 + 3 * 160 + 77, 1)])
def test_equals_transformers(sound: Sound, samples: int, stride: int) -> None:
    waveform = sound(samples, 1)
    theirs = SeamlessM4TFeatureExtractor(stride=stride)(
        np.pad(waveform, PADDING), sampling_rate=16000, padding=False, pad_to_multiple_of=None, return_tensors="np"
    )["input_features"][0]
    ours = stack(normalise(log_mels(waveform)), stride)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


def test_near_silence_equals_transformers() -> None:
    quiet = np.zeros(4000, dtype=np.float32)
    quiet[1000:2000] = 1e-4 * np.sin(np.arange(1000))
    theirs = SeamlessM4TFeatureExtractor(stride=1)(
        np.pad(quiet, PADDING), sampling_rate=16000, pad_to_multiple_of=None, return_tensors="np"
    )["input_features"][0]
    assert np.abs(normalise(log_mels(quiet)) - theirs).max() < 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6000), st.integers(1, 5))
def test_frames_are_a_floor(samples: int, stride: int) -> None:
    mels = log_mels(np.ones(samples, dtype=np.float32))
    assert mels.shape == (samples // 160, 80)
    assert stack(normalise(mels), stride).shape == (samples // (160 * stride), 80 * stride)
    assert mfcc(mels, stride).shape == (samples // (160 * stride), 39)


def test_mfccs_do_not_hear_loudness(sound: Sound) -> None:
    waveform = sound(16000, 2)
    assert np.abs(mfcc(log_mels(waveform), 4) - mfcc(log_mels(waveform * np.float32(0.3)), 4)).max() < 1e-2


def test_mel_centres_are_where_a_tone_is_heard() -> None:
    for band in (20, 40, 60):
        tone = np.sin(2 * np.pi * mel_centres()[band] * np.arange(16000) / 16000).astype(np.float32)
        assert abs(int(log_mels(tone)[50].argmax()) - band) <= 1


def test_a_floor_is_the_mean_of_white_noise_and_hides_what_is_fainter(sound: Sound) -> None:
    """At each mel; noise that is added to the samples moves what lies under the floor by little."""
    front, clip = filterbank_front_end(4, 20.0), sound(64_000, 0)
    clip *= np.repeat([1.0, 1e-4], 32_000).astype(np.float32)  # speech and a pause
    noise = np.random.default_rng(0).standard_normal(64_000).astype(np.float32) * 0.1 * np.sqrt(np.mean(clip**2))
    power = loudness(log_mels(clip)) / 100
    heard = np.exp(log_mels(noise)).mean(axis=0)
    assert np.abs(np.log(heard) - white_noise(power)).max() < 0.3
    assert loudness(log_mels(noise)) == pytest.approx(power, rel=0.05)

    def moved(front: FrontEnd) -> float:
        plain = FrontEnd(front.wave, front.stride, front.padding, normalise=False, floor_db=front.floor_db)
        return float(np.abs(encoder_input(clip + noise, plain) - encoder_input(clip, plain))[55:].mean())

    assert moved(front) < 0.3 * moved(filterbank_front_end(4))


@pytest.mark.parametrize("floor_db", [-1.0, 20.0])
def test_a_floor_that_cannot_be_is_told(floor_db: float) -> None:
    with pytest.raises(ValueError, match="floor_db"):
        with_floor(wave_front_end([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2], True), floor_db)
