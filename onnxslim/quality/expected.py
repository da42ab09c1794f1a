"""Estimates how much top-1 accuracy a candidate loses, on samples without labels, with less noise than flips have.

Counting the samples whose class changes (flips) says little about accuracy: most flips happen where the reference is
itself unsure; some make a right class wrong, some a wrong one right. Two estimators are looked at here:

- Of each sample, how likely it is that noise as large as the candidate shows takes the runner-up past the best class,
  times what the reference believes would be lost by that: the probability it gives to the one less that of the other.
  No flip needs to happen for it, so that it varies little. It takes the noise to be normal, alike for all samples,
  around margins that were scaled by one factor.
- Of each flip, what the reference believes was lost by it. It varies twice as much, and assumes nothing of the noise.

The first is taken, and never less than the second without two of its standard errors: where a candidate does harm of
another kind, the flips that happened speak. Both are right on average where the reference is calibrated, and too high
where it is too sure of itself. `docs/measurements.md` and `tests/bench/estimators.py` compare several on four networks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

COLUMNS = 5
LOST, MARGIN, CHANGE, GAP, FLIPPED = range(COLUMNS)
"""What is kept of a sample: see `expected_row`."""
SURE = 0.25
"""Where a reference gives its best class so little more than its second on average, its scores are no beliefs (cosines
of embeddings, say), or it knows nothing: flips are counted then."""
ERRORS = 2.0
"""Standard errors by which what flips lost must exceed what noise would lose, to be taken in its place."""
SMALLEST = 1e-12
UNREADABLE = (1.0, np.nan, 0.0, 1.0, 1.0)
"""The row of a sample of which the candidate gives nothing that can be read."""


def beliefs(scores: Array) -> Array:
    """Return the logarithms of the probabilities that scores mean, shape as `scores`, [decisions, classes].

    Scores that are not negative and sum to 1 are probabilities already; others are taken for logits.
    """
    if (scores >= 0).all() and np.allclose(scores.sum(-1), 1.0, atol=1e-3):
        return np.log(np.maximum(scores, SMALLEST))
    shifted = np.maximum(scores - scores.max(-1, keepdims=True), np.log(SMALLEST))  # masked logits are -inf
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def expected_row(reference: Array, candidate: Array) -> tuple[float, ...]:
    """Return what is kept of one sample: lost by a flip, margin of the best class, its change, gap, share flipped.

    Margins are differences of logarithms, gaps those of probabilities. Of a sample with several decisions the means
    are kept, and NaN for the margin: whether it flips is not a matter of one number there. Of a sample without any
    decision nothing can be lost.

    Args:
        reference: Finite scores of the reference, shape [decisions, classes], at least two classes.
        candidate: Those of the candidate, of the same shape.
    """
    if not len(reference):
        return 0.0, np.nan, 0.0, 0.0, 0.0
    own, given = beliefs(np.asarray(reference, np.float64)), beliefs(np.asarray(candidate, np.float64))
    at = np.arange(len(own))
    best, chosen = own.argmax(-1), given.argmax(-1)
    others = own.copy()
    others[at, best] = -np.inf
    second = others.argmax(-1)
    shares = np.exp(own)
    gap = shares[at, best] - shares[at, second]
    flipped = chosen != best
    lost = np.where(flipped, shares[at, best] - shares[at, chosen], 0.0)
    margin = own[at, best] - own[at, second]
    change = given[at, best] - given[at, second] - margin
    alone = len(own) == 1
    return (
        float(lost.mean()),
        float(margin[0]) if alone else np.nan,
        float(change[0]) if alone else 0.0,
        float(gap.mean()),
        float(flipped.mean()),
    )


def believable(rows: Array) -> bool:
    """Whether the scores of the reference are sure enough to be beliefs."""
    return float(rows[:, GAP].mean()) >= SURE


def expected_drop(rows: Array) -> float:
    """Return by how much top-1 falls, as a fraction, estimated from the rows of samples, shape [samples, 5]."""
    lost, margin, change, gap, flipped = rows.T
    if not believable(rows):
        return float(flipped.mean())
    energy = float(np.square(margin).sum())
    if not np.isfinite(energy) or energy == 0:
        return float(lost.mean())
    slope = float((margin * change).sum()) / energy
    noise = np.sqrt(np.square(change - slope * margin).mean())
    foreseen = normal_below(-(1 + slope) * margin / max(noise, SMALLEST)) * gap
    error = lost.std() / np.sqrt(len(lost))
    return float(max(foreseen.mean(), lost.mean() - ERRORS * error))


def normal_below(x: Array) -> Array:
    """Return the standard normal distribution function, to 1e-7.

    Source: Abramowitz and Stegun, Handbook of mathematical functions (1964), 7.1.26.
    """
    size = np.minimum(np.abs(x), 40.0)
    t = 1 / (1 + 0.3275911 / np.sqrt(2) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = series * np.exp(-np.square(size) / 2) / 2
    return np.asarray(np.where(x < 0, tail, 1 - tail))
