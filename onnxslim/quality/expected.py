"""Estimates of the loss of top-1 accuracy on samples without labels, with less noise than counting flips.

The number of samples whose class changes (flips) says little about accuracy: most flips happen where the reference is
unsure itself, and some correct a wrong class. Two estimators are combined:

- Noise of the margin: the probability that noise of the candidate's size lifts the second class above the best class,
  times the loss if it does, which is the difference of their probabilities in the reference. It needs no observed
  flips, so its variance is low. It assumes normal noise of equal size for all samples around margins scaled by one
  factor.
- Observed flips: the difference of the two probabilities for each flip. Its deviation is twice as large, and it assumes
  nothing about the noise.

The estimate is the first, but at least the second less two of its standard errors, for candidates that do another kind
of harm. Both are unbiased if the reference is calibrated, and too high if it is overconfident.
`docs/notes/loss-without-labels.md` and `tests/bench/estimators.py` compare several estimators on four networks.
"""

from __future__ import annotations

import numpy as np

from onnxslim.arrays import Floats

COLUMNS = 5
LOST, MARGIN, CHANGE, GAP, FLIPPED = range(COLUMNS)
"""Columns of the row of a sample; see `expected_row`."""
SURE = 0.25
"""Minimum of the mean difference between the probabilities of the two best classes. Below it, scores are not
probabilities (but cosines of embeddings, for example) or the reference is unsure, and flips are counted."""
ERRORS = 2.0
"""Standard errors by which the loss by flips must exceed that by noise to replace it."""
SMALLEST = 1e-12
UNREADABLE = (1.0, np.nan, 0.0, 1.0, 1.0)
"""Row of a sample whose candidate outputs cannot be read."""


def log_probabilities(scores: Floats) -> Floats:
    """Return the log probabilities of scores, shape [decisions, classes].

    Scores that are non-negative and sum to 1 are probabilities; others are logits.
    """
    if (scores >= 0).all() and np.allclose(scores.sum(-1), 1.0, atol=1e-3):
        return np.log(np.maximum(scores, SMALLEST))
    shifted = np.maximum(scores - scores.max(-1, keepdims=True), np.log(SMALLEST))  # masked logits are -inf
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def expected_row(reference: Floats, candidate: Floats) -> tuple[float, ...]:
    """Return the row of one sample: loss by a flip, margin of the best class, its change, gap, share flipped.

    Margins are differences of log probabilities, gaps are differences of probabilities. A sample with several decisions
    has their means, and NaN as margin, since its flips do not depend on a single number. A sample without decisions
    loses nothing. The scores are finite, shape [decisions, classes], of at least two classes.
    """
    if not len(reference):
        return 0.0, np.nan, 0.0, 0.0, 0.0
    before, after = (log_probabilities(np.asarray(scores, np.float64)) for scores in (reference, candidate))
    rows = np.arange(len(before))
    best, chosen = before.argmax(-1), after.argmax(-1)
    others = before.copy()
    others[rows, best] = -np.inf
    second = others.argmax(-1)
    probabilities = np.exp(before)
    gap = probabilities[rows, best] - probabilities[rows, second]
    flipped = chosen != best
    lost = np.where(flipped, probabilities[rows, best] - probabilities[rows, chosen], 0.0)
    margin = before[rows, best] - before[rows, second]
    change = after[rows, best] - after[rows, second] - margin
    alone = len(before) == 1
    return (
        float(lost.mean()),
        float(margin[0]) if alone else np.nan,
        float(change[0]) if alone else 0.0,
        float(gap.mean()),
        float(flipped.mean()),
    )


def believable(rows: Floats) -> bool:
    """Return whether the scores of the reference can be used as probabilities."""
    return float(rows[:, GAP].mean()) >= SURE


def expected_drop(rows: Floats) -> float:
    """Return the estimated fall of top-1 as a fraction, from the rows of samples, shape [samples, 5]."""
    lost, margin, change, gap, flipped = rows.T
    if not believable(rows):
        return float(flipped.mean())
    energy = float(np.square(margin).sum())
    if not np.isfinite(energy) or energy == 0:
        return float(lost.mean())
    slope = float((margin * change).sum()) / energy
    noise = np.sqrt(np.square(change - slope * margin).mean())
    predicted = normal_below(-(1 + slope) * margin / max(noise, SMALLEST)) * gap
    error = lost.std() / np.sqrt(len(lost))
    return float(max(predicted.mean(), lost.mean() - ERRORS * error))


def normal_below(x: Floats) -> Floats:
    """Return the standard normal distribution function with an error below 1e-7.

    Source: Abramowitz and Stegun, Handbook of mathematical functions (1964), 7.1.26.
    """
    size = np.minimum(np.abs(x), 40.0)
    t = 1 / (1 + 0.3275911 / np.sqrt(2) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = series * np.exp(-np.square(size) / 2) / 2
    return np.asarray(np.where(x < 0, tail, 1 - tail))
