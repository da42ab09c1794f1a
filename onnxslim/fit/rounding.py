"""Rounds weights to the values that a format has, so that the outputs of their layer change as little as may be.

What rounding one weight does to the outputs, the others can make up for, as far as their inputs are correlated. Columns
are rounded one after the other, those with the largest inputs first, and the error of each is passed on to those that
follow (Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers", ICLR 2023);
then each is rounded anew with all others given, until nothing changes (the goal of Nagel et al., "Up or down? Adaptive
rounding for post-training quantization", ICML 2020, by coordinate descent on the Gram matrix in place of gradients).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri

from onnxslim.arrays import Floats, Indices

Nearest = Callable[["int | np.integer", Floats, Floats], Floats]
"""Returns the nearest values that the format has: of a column, for numbers of shape [groups, outputs], beside what all
columns are rounded to so far, shape [groups, columns, outputs]."""

BLOCK = 64
"""Columns whose errors are passed on together: products of matrices are faster than those of vectors."""
SWEEPS = 2
"""How often every column is rounded anew at most; the error hardly falls afterwards."""
STEPS = tuple(np.geomspace(0.5, 1.3, 13))
"""Distances of levels that are tried, as multiples of a first guess."""
DAMPING = 1e-2
"""What is added to the diagonal, relative to its mean: the moments are those of a sample."""


def round_columns(weight: Floats, moment: Floats, nearest: Nearest, plain: Floats) -> Floats:
    """Return values that the format has in place of `weight`, with little error of the outputs: no more than `plain`.

    Args:
        weight: Shape [groups, columns, outputs].
        moment: For each group the mean products of what columns read, shape [groups, columns, columns]; about the mean,
            where a bias makes up for that.
        nearest: The format.
        plain: Values that the format has next to the weights, of the same shape.
    """
    with _damped(moment):
        rounded = _pass_on(weight, moment, nearest, plain)
        started = np.where(
            (output_error(weight - plain, moment) < output_error(weight - rounded, moment))[:, None], plain, rounded
        )
        return _descend(weight, moment, started, nearest)


def best_steps(weight: Floats, moment: Floats, step: Floats, ends: tuple[int, int]) -> Floats:
    """Return the distance of the levels of each output whose nearest ones change it least, shape [groups, outputs].

    Which distance serves weights best that make up for each other's errors differs little from that, and is found in
    a fraction of the time.

    Args:
        weight: Shape [groups, columns, outputs].
        moment: As for `round_columns`.
        step: A first guess, shape [groups, outputs].
        ends: The lowest and the highest level, in steps.
    """
    best, least = step, np.full(step.shape, np.inf)
    with _damped(moment):
        for factor in STEPS:
            own = (step * factor)[:, None]
            error = output_error(weight - np.clip(np.rint(weight / own), *ends) * own, moment)
            best = np.where(error < least, own[:, 0], best)
            least = np.minimum(error, least)
    return best


def output_error(difference: Floats, moment: Floats) -> Floats:
    """Return the energy of the error of each output, shape [groups, outputs].

    Args:
        difference: Of the weights, shape [groups, columns, outputs].
        moment: Shape [groups, columns, columns].
    """
    error: Floats = ((moment @ difference) * difference).sum(axis=1)
    return error


@contextlib.contextmanager
def _damped(moment: Floats) -> Iterator[None]:
    """Add to the diagonal of moments while something is done with them: a copy would take as much as they do."""
    diagonal = np.einsum("gcc->gc", moment)
    plain = diagonal.copy()
    diagonal += DAMPING * plain.mean(axis=1, keepdims=True) + 1e-12
    try:
        yield
    finally:
        diagonal[...] = plain


def _pass_on(weight: Floats, moment: Floats, nearest: Nearest, plain: Floats) -> Floats:
    """Round column after column, and pass the error of each on to those that follow, which are plain until then."""
    groups, columns, _ = weight.shape
    order = np.argsort(-np.einsum("gcc->gc", moment).mean(axis=0), kind="stable")
    upper = _inverse_factors(moment, order)
    left, rounded = weight[:, order].copy(), plain.copy()
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.empty((groups, end - start, weight.shape[2]))
        for place in range(start, end):
            value = nearest(order[place], left[:, place], rounded)
            rounded[:, order[place]] = value
            error = (left[:, place] - value) / upper[:, place, place, None]
            left[:, place + 1 : end] -= upper[:, place, place + 1 : end, None] * error[:, None]
            errors[:, place - start] = error
        left[:, end:] -= upper[:, start:end, end:].swapaxes(1, 2) @ errors
    return rounded


def _inverse_factors(moment: Floats, order: Indices) -> Floats:
    """Return for each group the upper triangle U of which U'U is the inverse of its moments, columns in an order: row i
    says how the error of column i is best made up for by those behind.

    In reverse order the moments are LL', and the inverse of L is U in reverse order. Both are made in place: of what is
    as large as the moments there is one copy, where an inverse and a factor of it would take six.
    """
    backwards = order[::-1]
    factors = np.empty(moment.shape)
    for row, column in enumerate(backwards):
        factors[:, row] = moment[:, column, backwards]
    for group in factors:  # symmetric: LAPACK, which has columns in a row, reads it as it is
        lower, failed = dpotrf(group.T, lower=1, overwrite_a=1)
        inverse, singular = dtrtri(lower, lower=1, overwrite_c=1)
        if failed or singular:
            raise np.linalg.LinAlgError("moments are not positive definite")
        assert np.shares_memory(inverse, group), "in place"
    return factors.swapaxes(1, 2)[:, ::-1, ::-1]


def _descend(weight: Floats, moment: Floats, rounded: Floats, nearest: Nearest) -> Floats:
    """Round each column anew with all others given, until nothing changes."""
    columns = weight.shape[1]
    rounded = rounded.copy()
    for _ in range(SWEEPS):
        changed = False
        for start in range(0, columns, BLOCK):
            block = slice(start, min(start + BLOCK, columns))
            slope = moment[:, block] @ (weight - rounded)
            for place in range(block.stop - start):
                column = start + place
                wanted = rounded[:, column] + slope[:, place] / moment[:, column, column, None]
                value = nearest(column, wanted, rounded)
                step = value - rounded[:, column]
                if step.any():
                    changed = True
                    rounded[:, column] = value
                    slope -= moment[:, block, column, None] * step[:, None]
        if not changed:
            break
    return rounded
