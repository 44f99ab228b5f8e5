"""What each quantizer level of a codec carries: the sound with 1 to Q levels kept, and the bits that each level needs.

    manifest ─▶ clips of one split ─▶ codes [Q, T'] ─▶ decode(codes[:1]), decode(codes[:2]), … ─▶ Judge ─▶ Row a level
                   │                        └─ with codes of other clips to learn from ─▶ code_length ─▶ Level
                   ├─▶ opusenc, opusdec at several bit rates ──────────────────────────────────▶ Judge ─▶ Row a rate
                   └─▶ the recordings themselves ──────────────────────────────────────────────▶ Judge ─▶ one Row

Invariant: all rows are of the same clips, prepared alike. Knows no picture and no page.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.corpus.clips import ManifestClips
from triptych.corpus.manifest import Split
from triptych.evaluation import opus
from triptych.evaluation.codec_report import RECORDING, Example, Report, Tally, level_bits, level_name
from triptych.evaluation.judge import Clip, Judge, absent_measures
from triptych.evaluation.judges import described
from triptych.evaluation.recogniser import DEFAULT, Recogniser, load_recogniser
from triptych.evaluation.speaker import Speaker, load_speaker, similarity
from triptych.tokenizers.acoustic.codec import AcousticTokenizer
from triptych.tokenizers.acoustic.mel import MelDistance
from triptych.tokenizers.spec import WaveformSpec
from triptych.tokenizers.trio import WAVEFORM_FILE
from triptych.tokenizers.waveform import Waveform
from triptych.training.config import STRICT, build
from triptych.training.files import read_json

DECIBEL = 20 / math.log(10)
"""dB of a natural logarithm of a magnitude"""
EXAMPLE_SECONDS = 3.0
"""the clip that is shown and kept as wavs is the one nearest to this length"""
NONE = "none"


@config_dataclass(frozen=True, config=STRICT)
class CodecInspectConfig:
    """What is judged, by whom, and against what."""

    clips: int = 30
    """clips judged, taken evenly from the split"""
    split: Split = "test"
    """of the manifest; the codec should not have been trained on it"""
    levels: tuple[int, ...] = ()
    """levels kept, in turn; empty: 1 to all"""
    longest_seconds: float = 15.0
    """longer recordings are left out"""
    recogniser: str = DEFAULT
    """a folder or a hub id, as for 'score'; none: no word error"""
    speaker: Literal["resemblyzer", "none"] = "resemblyzer"
    """whose embeddings are compared"""
    opus: bool = True
    """whether Opus is judged beside the codec, where opus-tools is installed"""
    opus_kbps: tuple[float, ...] = (6, 8, 12, 16, 24)
    """kbit/s asked of Opus; those that it took are reported"""
    learn_split: Split = "train"
    """from which the ideal coder learns before its bits count"""
    learn_clips: int = 300
    """clips that it learns from, taken evenly; 0: it learns only as it goes"""
    mel_window: int = 1024
    """samples of the spectrogram under the log-mel distance, at the codec's rate"""
    resamples: int = 2000
    """of the clips, for the 95 % intervals"""
    seed: int = 0
    """of the resampling"""
    cache: str = ""
    """a folder that remembers what was measured, by content; empty: nothing is kept"""


Progress = Callable[[int, int, str], None]
"""done, total, note"""


def load_codec(source: str) -> tuple[AcousticTokenizer, WaveformSpec]:
    """The codec of a bundle, of a folder of tokenizers, of its own folder or of a hub id; how its clips are prepared.

    Raises:
        ValueError: there is none.
    """
    for folder in (Path(source) / "tokenizers", Path(source)):
        if (folder / "acoustic").is_dir():
            codec = AcousticTokenizer.load(folder / "acoustic")
            said = read_json(folder / WAVEFORM_FILE) if (folder / WAVEFORM_FILE).exists() else {}
            return codec, build(WaveformSpec, {"sample_rate": codec.spec.sample_rate} | said, WAVEFORM_FILE)
    codec = AcousticTokenizer.load(source)
    return codec, WaveformSpec(codec.spec.sample_rate)


def inspect_codec(
    codec: AcousticTokenizer, manifest: Path, spec: WaveformSpec, config: CodecInspectConfig, progress: Progress
) -> tuple[Report, Example]:
    """Judges a codec level by level.

    Raises:
        ValueError: an empty split, levels that the codec does not have, or ears that cannot be loaded.
    """
    kept, rates = levels_kept(codec.spec.levels, config.levels, "levels"), opus_rates(config)
    left_out: dict[str, str] = {}
    clips = take_clips(ManifestClips(manifest, spec, config.split), config.clips, config.longest_seconds, left_out)
    judge = load_judge(spec.sample_rate, config)
    codes = [codec.encode(clip.waveform, spec.sample_rate) for clip in clips]
    learned = learning_codes(codec, manifest, spec, config, left_out, progress)
    levels = level_bits(learned, codes, codec.spec.size, config.resamples, config.seed)
    example = min(clips, key=lambda clip: abs(len(clip.waveform) / spec.sample_rate - EXAMPLE_SECONDS))
    tally, shown = Tally(config.resamples, config.seed), Example(example.name, spec.sample_rate, {})
    total = len(clips) * (1 + len(kept) + len(rates))
    for clip, code in zip(clips, codes, strict=True):
        for way, waveform, kbps in renderings(clip, code, codec, kept, rates):
            tally.add(way, judge.judge(clip, waveform, compare=way != RECORDING), kbps)
            progress(tally.done, total, f"judged: {way}")
            if clip is example:
                shown.made[way] = waveform
    no_opus = {"opus": opus.absence() or ""} if config.opus and not rates else {}
    report = Report(
        codec=codec.spec.to_json(),
        config=asdict(config),
        clips=tuple(clip.name for clip in clips),
        frames={"learned": frames_of(learned), "counted": frames_of(codes)},
        rows=tuple(tally.rows(kept, levels, codec.spec)),
        levels=levels,
        absent=judge.absent | no_opus,
        skipped={name: dict(reasons) for name, reasons in tally.skipped.items()},
        other_voices=other_voices(clips, judge),
        left_out=left_out,
    )
    return report, shown


def levels_kept(available: int, asked: Sequence[int], key: str) -> tuple[int, ...]:
    """Numbers of levels kept, in turn; none asked: all.

    Args:
        key: of the setting that asks.
    Raises:
        ValueError: some that the codec does not have.
    """
    kept = tuple(sorted(set(asked))) or tuple(range(1, available + 1))
    if kept[0] < 1 or kept[-1] > available:
        raise ValueError(f"{key}={list(asked)}: this codec has 1 to {available} levels")
    return kept


def opus_rates(config: CodecInspectConfig) -> tuple[float, ...]:
    """kbit/s asked of Opus; none where it is not wanted or not installed.

    Raises:
        ValueError: a rate that it refuses.
    """
    if any(kbps < opus.LOWEST_KBPS for kbps in config.opus_kbps):
        raise ValueError(f"opus_kbps={list(config.opus_kbps)}: Opus takes {opus.LOWEST_KBPS:g} kbit/s or more")
    return config.opus_kbps if config.opus and opus.absence() is None else ()


def renderings(
    clip: Clip, codes: NDArray[np.uint16], codec: AcousticTokenizer, kept: Sequence[int], rates: Sequence[float]
) -> Iterator[tuple[str, Waveform, float | None]]:
    """Name of the row, waveform [N], and the kbit/s where they differ from clip to clip."""
    samples, rate = len(clip.waveform), codec.spec.sample_rate
    yield RECORDING, clip.waveform, None
    for levels in kept:
        yield level_name(levels), codec.decode(codes[:levels])[:samples], None
    for asked in rates:
        waveform, took = opus.through_opus(clip.waveform, rate, asked)
        yield f"opus {asked:g}", waveform, took


def learning_codes(
    codec: AcousticTokenizer,
    manifest: Path,
    spec: WaveformSpec,
    config: CodecInspectConfig,
    left_out: dict[str, str],
    progress: Progress,
) -> list[NDArray[np.uint16]]:
    """Codes of the clips that the adaptive coder learns from; none where the split is the one that is judged. Why some
    cannot be heard is said in `left_out`."""
    if not config.learn_clips or config.learn_split == config.split:
        return []
    try:
        source = ManifestClips(manifest, spec, config.learn_split, cache_bytes=0)
    except ValueError:  # no such recordings: the coder learns as it goes
        return []
    chosen = evenly(range(len(source)), config.learn_clips)
    codes = []
    for number, index in enumerate(chosen):
        if why := source.why_unheard(index):
            left_out[source.name(index)] = why
        else:
            codes.append(codec.encode(source.waveform(index), spec.sample_rate))
        progress(number + 1, len(chosen), "codes to learn from")
    return codes


def take_clips(source: ManifestClips, count: int, longest_seconds: float, left_out: dict[str, str]) -> list[Clip]:
    """`count` clips, evenly over the order of the manifest, so that each speaker of a sorted one has some. Why some of
    them cannot be heard is said in `left_out`.

    Raises:
        ValueError: all are too long, or none can be heard.
    """
    fit = [i for i in range(len(source)) if source.seconds(i) <= longest_seconds]
    if not fit:
        raise ValueError(f"no recording of the split is {longest_seconds:g} s or shorter: raise longest_seconds")
    clips = []
    for i in evenly(fit, count):
        if why := source.why_unheard(i):
            left_out[source.name(i)] = why
        else:
            clips.append(Clip(source.name(i), source.waveform(i), source.text(i), source.speaker(i)))
    if not clips:
        first, why = next(iter(left_out.items()))
        raise ValueError(f"none of {len(left_out)} clips can be heard; the first is {first}: {why}")
    return clips


def evenly(items: Sequence[int], count: int) -> list[int]:
    """At most `count` items, evenly spaced."""
    if count < 1:
        raise ValueError(f"clips={count}: give at least 1")
    return [items[len(items) * turn // min(count, len(items))] for turn in range(min(count, len(items)))]


def load_judge(sample_rate: int, config: CodecInspectConfig) -> Judge:
    """A judge with the ears that the config names.

    Raises:
        ValueError: a recogniser that cannot be loaded.
    """
    absent = absent_measures(config.recogniser != NONE, config.speaker != NONE)
    recogniser: Recogniser | None = None if "words" in absent else load_recogniser(config.recogniser)
    speaker: Speaker | None = None
    if "voice" not in absent:
        try:
            speaker = load_speaker()
        except ValueError:
            absent["voice"] = "no package resemblyzer: pip install resemblyzer 'setuptools<81'"
    mel = mel_distance(sample_rate, config.mel_window)
    ears = f"{described(config.recogniser, 'transformers')} {config.speaker} {config.mel_window}"
    cache = Path(config.cache) / "judged.jsonl" if config.cache else None
    return Judge(sample_rate, mel, absent, recogniser, speaker, cache, ears)


def mel_distance(sample_rate: int, window: int) -> Callable[[Waveform, Waveform], float]:
    """The log-mel distance in dB of two waveforms [N], with windows of so many samples."""
    import torch

    distance = MelDistance(sample_rate, (window,))

    def mel(made: Waveform, given: Waveform) -> float:
        with torch.inference_mode():
            return DECIBEL * float(distance(torch.from_numpy(made)[None], torch.from_numpy(given)[None]))

    return mel


def other_voices(clips: Sequence[Clip], judge: Judge) -> float | None:
    """Mean cosine of all pairs of clips whose speakers are known and differ; None where there is no such pair."""
    known = [(clip.speaker, judge.embed(clip.waveform)) for clip in clips if clip.speaker is not None]
    pairs = [
        similarity(one, other)
        for place, (speaker, one) in enumerate(known)
        for another, other in known[:place]
        if speaker != another and one is not None and other is not None
    ]
    return sum(pairs) / len(pairs) if pairs else None


def frames_of(codes: Sequence[NDArray[np.uint16]]) -> int:
    """Frames in codes [Q, T'] of clips."""
    return sum(one.shape[1] for one in codes)
