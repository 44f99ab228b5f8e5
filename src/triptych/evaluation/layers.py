"""Which layer and how many clusters: the recipe behind `inspect layers`.

    for each layer      features [T, D] of every clip, standardised as tokens are ─▶ ABX of the features
      for each size     k-means on the clips of split train ─▶ ids ─▶ use, PNMI, speaker, pitch, ABX of the centroids

Invariant: all rows are of the same clips. A number that cannot be had is named in `missing`. Knows no picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as config_dataclass

from triptych.corpus.clips import ManifestClips
from triptych.evaluation.abx import abx_absence, abx_error
from triptych.evaluation.estimate import Estimate
from triptych.evaluation.token_clips import Ears, Heard, audible, draw
from triptych.evaluation.token_report import Progress, SpeakerNumbers, linear_numbers
from triptych.evaluation.tokens import Purity, Use, purity, use
from triptych.tokenizers.semantic.compared import standardised
from triptych.tokenizers.semantic.encoder import Encoder
from triptych.tokenizers.semantic.filterbank import SAMPLE_RATE
from triptych.tokenizers.semantic.targets import drawn, fit_clusters, nearest
from triptych.tokenizers.spec import WaveformSpec
from triptych.training.config import STRICT

if TYPE_CHECKING:
    from triptych.tokenizers.text.frontend import TextTokenizer

Features = list[NDArray[np.float32]]
"""[T, D] of each clip"""


@config_dataclass(frozen=True, config=STRICT)
class LayerInspectConfig:
    """What is swept, and over how much."""

    layers: tuple[int, ...] = ()
    """hidden_states[k], in turn; empty: all from 1"""
    clusters: tuple[int, ...] = (128, 512)
    """entries of the alphabet, in turn"""
    standardise: bool = True
    """features to zero mean and unit variance over each clip, as 'fit semantic' does"""
    clips: int = 300
    """clips of split train, drawn at random, that k-means is fitted on"""
    held_out: int = 100
    """clips of splits dev and test, taken evenly, that are counted too"""
    longest_seconds: float = 20.0
    """longer recordings are left out"""
    abx: bool = True
    """whether ABX is taken, where fastabx is installed and phones are known"""
    resamples: int = 1000
    """of the bootstrap over clips behind each interval"""
    seed: int = 0
    """of all draws"""
    device: str = "cpu"
    """where the encoder runs: cpu or cuda"""


@dataclass(frozen=True)
class LayerRow:
    """One alphabet."""

    layer: int
    clusters: int
    use: Use
    purity: Purity | None
    speaker: SpeakerNumbers | None
    pitch: Estimate | None
    """R² of log2 Hz"""
    melody: Estimate | None
    """R² of log2 Hz around the mean of the clip"""
    abx_features: float | None
    """of the layer itself, whatever the clusters"""
    abx_tokens: float | None
    """of the centroids in place of the features"""


@dataclass(frozen=True)
class LayerReport:
    """Everything; as JSON it is report.json."""

    encoder: str
    frame_rate: float
    learned: int
    """clips that k-means was fitted on"""
    clips: int
    """in all, that every row counts"""
    rows: list[LayerRow]
    missing: dict[str, str]


def inspect_layers(
    encoder: str,
    manifest: Path,
    config: LayerInspectConfig,
    *,
    text: "TextTokenizer | None",
    aligner: Path | None,
    progress: Progress,
) -> LayerReport:
    """
    Args:
        encoder: folder or hub id.
        text: the front end that says which phonemes a text has; None: nothing is said of phones.
        aligner: an encoder of `fit encoder --text`, which says when each sounds.
    Raises:
        ValueError: an encoder, a layer or a manifest that cannot be used, too few clips, or more clusters than frames.
    """
    missing: dict[str, str] = {}
    layers = config.layers or tuple(range(1, count_layers(encoder) + 1))
    ears = Ears(text, aligner, missing, config.device)
    if text is not None and aligner is None:
        missing["phones"] = "nobody says which phone sounds when: --aligner DIR"
    abx = config.abx and "phones" not in missing
    if abx and (gone := abx_absence()):
        missing["ABX"], abx = gone, False
    clips = ManifestClips(manifest, WaveformSpec(SAMPLE_RATE), split=None)
    drawn_clips = draw(clips, config.clips, config.held_out, config.longest_seconds, config.seed)
    learned, held_out = (audible(clips, those, missing) for those in drawn_clips)
    chosen, rate = [*learned, *held_out], 0.0
    heard: list[Heard] = []
    rows: list[LayerRow] = []
    for layer in layers:
        model = Encoder.load(encoder, layer, device=config.device)
        rate = SAMPLE_RATE / model.hop
        features: Features = []
        for done, index in enumerate(chosen, 1):
            waveform = clips.waveform(index)
            found = model.features([waveform])[0]
            features.append((standardised(found) if config.standardise else found).numpy())
            if len(heard) < len(chosen):
                heard.append(ears.listen(clips, index, waveform, len(found), rate))
            progress(done, len(chosen), f"layer {layer}")
        of_layer = abx_of(features, heard, config.seed) if abx else None
        for size in config.clusters:
            rows.append(measure(layer, size, features, heard, len(learned), rate, config, missing, of_layer))
            progress(len(chosen), len(chosen), f"layer {layer}, {size} clusters")
    return LayerReport(Path(encoder).name, rate, len(learned), len(chosen), rows, missing)


def count_layers(encoder: str) -> int:
    """How many blocks a checkpoint has.

    Raises:
        ValueError: it cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{encoder} is not a speech encoder that can be read: {str(error).splitlines()[0]}") from None
    return int(getattr(config, "encoder_layers", None) or config.num_hidden_layers)


def measure(
    layer: int,
    size: int,
    features: Features,
    heard: Sequence[Heard],
    learned: int,
    rate: float,
    config: LayerInspectConfig,
    missing: dict[str, str],
    abx_features: float | None,
) -> LayerRow:
    """One alphabet, fitted on the first `learned` clips and counted on all."""
    frames = sum(len(clip) for clip in features[:learned])
    if frames < size:
        raise ValueError(f"clusters = {size}: {frames} frames are too few; give more clips, or fewer clusters")
    centroids = fit_clusters(np.concatenate(features[:learned])[drawn(frames, config.seed)], size, config.seed)
    told = [replace(clip, ids=nearest(found, centroids)) for clip, found in zip(heard, features, strict=True)]
    ids = [clip.ids for clip in told]
    pure = purity(
        np.concatenate(ids), np.concatenate([clip.phones for clip in told]), np.random.default_rng((config.seed, 14))
    )
    quantised = [centroids[clip] for clip in ids]
    return LayerRow(
        layer=layer,
        clusters=size,
        use=use(ids, size, rate),
        purity=pure,
        **linear_numbers(told, size, config.resamples, config.seed, missing),
        abx_features=abx_features,
        abx_tokens=None if abx_features is None else abx_of(quantised, told, config.seed),
    )


def abx_of(features: Features, heard: Sequence[Heard], seed: int) -> float:
    return abx_error(features, [clip.phones for clip in heard], [clip.speaker for clip in heard], seed)
