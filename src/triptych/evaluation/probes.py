"""What else tokens tell: linear probes for the speaker and for pitch, judged on clips that they were not fitted on.

    speaker   how often each id occurs in a clip (square roots of the shares) ─▶ logistic regression ─▶ accuracy
    pitch     the id of a frame ─▶ a number an id (ridge) ─▶ R² of log2 Hz over voiced frames
    melody    the same after the mean of the clip is taken out, so that the voice does not count

Semantic tokens should tell little of the first two. Pure functions; knows no tokenizer.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.evaluation.estimate import Estimate, estimate
from triptych.evaluation.tokens import Ids

FOLDS = 4
RIDGE = 1.0
"""frames: an id that occurs less often is hardly believed"""


def speaker_probe(
    ids: Sequence[Ids], speakers: Sequence[str | None], size: int, resamples: int, seed: int
) -> tuple[Estimate, float, int] | None:
    """Accuracy over held-out folds, the share of the most frequent speaker, and the number of speakers.

    Only speakers with FOLDS clips or more count; None where there are fewer than two of them.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    counts = Counter(speaker for speaker, clip in zip(speakers, ids, strict=True) if speaker and len(clip))
    rows = [(clip, s) for clip, s in zip(ids, speakers, strict=True) if s and len(clip) and counts[s] >= FOLDS]
    if len({speaker for _, speaker in rows}) < 2:
        return None
    shares = np.array([np.sqrt(np.bincount(clip, minlength=size) / len(clip)) for clip, _ in rows])
    named = np.array([speaker for _, speaker in rows])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged in so many steps
        guessed = cross_val_predict(LogisticRegression(C=10.0, max_iter=300), shares, named, cv=folds)
    right = (guessed == named).astype(float)
    found = estimate(right.tolist(), [1.0] * len(right), resamples, np.random.default_rng((seed, 8)))
    assert found is not None
    return found, max(Counter(named.tolist()).values()) / len(named), len(set(named.tolist()))


def pitch_probe(
    ids: Sequence[Ids], pitch: Sequence[NDArray[np.float64]], size: int, resamples: int, seed: int, *, within: bool
) -> Estimate | None:
    """R² on held-out folds of clips; `pitch`: log2 Hz [T] of each clip, NaN where not voiced.

    Args:
        within: the mean of each clip is taken out first.
    Returns:
        None where fewer than FOLDS clips are voiced. Below 0: worse than the mean.
    """
    rows = []
    for clip, hertz in zip(ids, pitch, strict=True):
        voiced = ~np.isnan(hertz)
        if voiced.any():
            heard = hertz[voiced]
            rows.append((clip[voiced], heard - heard.mean() if within else heard))
    if len(rows) < FOLDS:
        return None
    order = np.random.default_rng((seed, 9)).permutation(len(rows))
    explained, total = np.zeros(len(rows)), np.zeros(len(rows))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        learned = [rows[i] for i in order if i not in set(held.tolist())]
        mean, numbers = ridge(learned, size)
        for i in held:
            clip, heard = rows[i]
            total[i] = np.square(heard - mean).sum()
            explained[i] = total[i] - np.square(heard - mean - numbers[clip]).sum()
    some = total > 0
    return estimate(
        (explained[some] / total[some]).tolist(), total[some].tolist(), resamples, np.random.default_rng((seed, 10))
    )


def ridge(rows: Sequence[tuple[Ids, NDArray[np.float64]]], size: int) -> tuple[float, NDArray[np.float64]]:
    """The mean, and what each id adds [size]: ridge regression on one-hot ids, in closed form."""
    ids, heard = np.concatenate([clip for clip, _ in rows]), np.concatenate([hertz for _, hertz in rows])
    mean = float(heard.mean())
    sums = np.bincount(ids, weights=heard - mean, minlength=size)
    return mean, sums / (np.bincount(ids, minlength=size) + RIDGE)
