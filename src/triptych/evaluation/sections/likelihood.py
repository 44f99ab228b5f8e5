"""Section `likelihood`: which of two recordings does the semantic stage find likelier? sWUGGY, sBLIMP, StoryCloze.

    pairs.py ─▶ right.wav, wrong.wav ─▶ semantic tokens ─▶ log p of each token after [bos] [sep], without a text
                                                        ─▶ mean a token (and sum) ─▶ 1, ½ for a tie, or 0 a pair

The mean over tokens is what slamkit compares by default (`mean_nll`); ZeroSpeech 2021 takes any score. A pair is
averaged over its voices, and the test over its pairs, as in ZeroSpeech's own evaluation. [eos] does not count, since
not every recording ends where its file does. Knows no format of files and no page.
"""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.evaluation.pairs import PairSet, read_pairs
from triptych.evaluation.report import Column, Section, Sheet
from triptych.evaluation.subject import Evaluation, slug
from triptych.stages.semantic.sequence import NOTHING, SemanticStage
from triptych.stages.speech import Tokens
from triptych.tokenizers.trio import Tokenizers
from triptych.tokenizers.waveform import load_prepared
from triptych.training.files import atomic_file

COLUMNS = {
    "mean": Column("right by the mean a token", "share", 3, True),
    "sum": Column("right by the sum", "share", 3, True),
    "margin": Column("margin", "nat a token", 3, True),
    "seconds": Column("length of the wrong minus the right", "s", 2),
}
NONE_GIVEN = (
    "No pairs were given: pairs=FOLDER takes tests of ZeroSpeech 2021 (gold.csv) or slamkit (numbered wavs); "
    "'triptych make-pairs' makes such a folder from pairs of texts."
)
ABOUT = (
    "Of two recordings, one is a word, grammatical, or the right end of a story, and the other is not quite: the share "
    "of pairs in which the semantic stage, which is given no text here, finds the right one likelier. Chance is 0.5."
)
NOTE = (
    "log p of the semantic tokens after [bos] [sep], without [eos]; longer recordings in windows that overlap by half. "
    "The interval is over pairs. A sum prefers the shorter recording: hence the lengths."
)


def likelihood_section(evaluation: Evaluation) -> Section:
    """All tests that the settings name."""
    sets, named = list[PairSet](), Counter[str]()
    for folder in evaluation.settings.pairs:
        for found in read_pairs(Path(folder)):
            named[found.name] += 1
            times = named[found.name]
            sets.append(found if times == 1 else replace(found, name=f"{found.name} ({times})"))
    if not sets:
        return Section("likelihood", "Likelihood tests", NONE_GIVEN)
    settings = evaluation.settings
    sheet = Sheet("pairs", "Pairs", COLUMNS)
    groups = Sheet("groups", "By kind of pair", {"mean": COLUMNS["mean"], "margin": COLUMNS["margin"]})
    listen = Likelihood(evaluation)
    for test in sets:
        compare(test, listen, evaluation, sheet, groups)
    tables = [sheet.table(settings.resamples, settings.seed, NOTE)]
    if groups.values:
        tables.append(groups.table(settings.resamples, settings.seed))
    return Section("likelihood", "Likelihood tests", ABOUT, tuple(tables))


def compare(test: PairSet, listen: "Likelihood", evaluation: Evaluation, sheet: Sheet, groups: Sheet) -> None:
    """One test: fills the sheets, and writes each recording's score as ZeroSpeech's submissions have it."""
    voices: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    scores: dict[str, float] = {}
    for number, pair in enumerate(test.pairs, start=1):
        right, wrong = listen(pair.right), listen(pair.wrong)
        scores[pair.right[-1].stem], scores[pair.wrong[-1].stem] = right.mean(), wrong.mean()
        by_mean, by_sum = (beats(float(f(right)), float(f(wrong))) for f in (np.mean, np.sum))
        seconds = (len(wrong) - len(right)) / listen.rate
        voices[pair.name, pair.group].append([by_mean, by_sum, float(right.mean() - wrong.mean()), seconds])
        evaluation.progress(number, len(test.pairs), test.name)
    for (name, group), found in voices.items():
        means = dict(zip(COLUMNS, np.mean(found, axis=0).tolist(), strict=True))
        for column, value in means.items():
            sheet.put(test.name, column, name, value)
        for column in groups.columns if group else ():
            groups.put(f"{test.name}: {group}", column, name, means[column])
    with atomic_file(evaluation.folder / "likelihood" / f"{slug(test.name)}.txt") as beside:
        beside.write_text("".join(f"{name} {score:.6f}\n" for name, score in scores.items()), encoding="utf-8")


def beats(one: float, other: float) -> float:
    """1 where `one` is more, a half where they are the same, else 0."""
    return 0.5 if one == other else float(one > other)


class Likelihood:
    """What the semantic stage thinks of recordings."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.tokenizers: Tokenizers = evaluation.cascade.tokenizers
        self.stage, self.model = evaluation.cascade.stages["semantic"]
        self.rate = float(evaluation.cascade.grid.semantic_rate)
        self.hear = lru_cache(maxsize=4)(self._hear)

    def __call__(self, files: tuple[Path, ...]) -> NDArray[np.float64]:
        """log p [T] of each semantic token, in nats, of files that are heard one after the other."""
        return log_probabilities(self.stage, self.model, self.hear(files))

    def _hear(self, files: tuple[Path, ...]) -> Tokens:
        """[T]; each file is prepared as any recording of this cascade."""
        spec, grid = self.tokenizers.waveform, self.tokenizers.grid
        waveform = np.concatenate([load_prepared(file, spec) for file in files])
        samples = grid.padded_samples(len(waveform), spec.sample_rate)
        padded = np.pad(waveform, (0, samples - len(waveform)))
        ids = self.tokenizers.semantic.encode([padded], spec.sample_rate)[0]
        return grid.on_beats(ids, round(samples / (grid.beat * spec.sample_rate))).astype(np.uint16)


@torch.inference_mode()
def log_probabilities(stage: SemanticStage, model: Any, semantic: Tokens) -> NDArray[np.float64]:
    """log p [T] of each token given all before it in its window, over the whole vocabulary; without a text.

    A recording that is longer than a training row is taken in windows of that length, each half new.
    """
    longest = stage.specs.grid.beats(stage.config.max_seconds) * stage.specs.grid.semantic_per_beat
    device = next(model.parameters()).device
    found, done = [np.zeros(0)], 0
    while done < len(semantic):
        start = max(0, done - longest // 2)
        row = stage.layout.row(NOTHING, NOTHING, NOTHING, semantic[start : start + longest], ends=False)
        (said,) = model.eval().predictions(stage.collate([row]).to(device))
        logs = -torch.nn.functional.cross_entropy(said.logits.float(), said.targets, reduction="none")
        found.append(logs.double().cpu().numpy()[done - start :])
        done += len(found[-1])
    return np.concatenate(found)
