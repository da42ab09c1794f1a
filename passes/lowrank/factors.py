"""Splits the weight of a layer into factors, in closed form, for the least error on what the layer sees.

All of them answer one question. A layer gives y = W'x; x is what it gets now, y what it gave in the original, and only
their second moments count: G = E[xx'], C = E[xy']. The loss of a dense weight V is E|y - V'x|^2 = E|y|^2 - 2 tr(V'C) +
tr(V'GV). Where it is known how errors of the outputs matter, it is E(y - V'x)'M(y - V'x): the metric M is made by
`output_metric`, `attention_metric` or `gradient_metric`. What differs is the form that V has:

* of rank r, for products of matrices (reduced rank regression: Izenman, "Reduced-rank regression for the multivariate
  linear model", 1975; with y = W'x it is the SVD whitened by the moments of x, as in SVD-LLM, arXiv 2403.07378);
* pivoted, the same product with fewer numbers: the first r outputs themselves, and the others as sums of these (Zhao,
  Zhang, Cannistraci, "Pivoting Factorization", arXiv 2501.19090; there the r outputs are chosen, which would want them
  sorted back: ONNX Runtime takes longer for that than the product saves);
* Tucker-2, for windows: r channels of the input, a window between them, r channels of the output (Kim et al.,
  arXiv 1511.06530; what is kept of the output is as in Zhang et al., arXiv 1505.06798);
* spatial, for windows of two axes: columns first, rows then (Jaderberg, Vedaldi, Zisserman, arXiv 1405.3866, scheme 2);
* separable: some windows for each channel of the input, then sums over channels.

Where the first factor has no closed form given the others, it is the best one if neighbouring places of an image were
not correlated; the factors behind it are then fitted, by least squares, to what it lets through.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math

import numpy as np

from onnxslim.arrays import Floats

LEAST_METRIC = 1e-2
"""Every output matters at least this share of what outputs do on average: what reads it is known from samples alone."""
PIVOT_CONDITION = 1e-6
"""First outputs that depend on each other more than this are not told apart by single precision."""


class Factorization(enum.Enum):
    """The form of the factors of a layer."""

    MATRIX = "matrix"
    """Two products of matrices, or two convolutions with a window of 1."""
    PIVOT = "pivot"
    """A product of matrices for the first outputs, another that makes the others of them, and both side by side."""
    TUCKER = "tucker"
    """A 1x1 convolution to fewer channels, the window between fewer channels, a 1x1 convolution back."""
    SPATIAL = "spatial"
    """A convolution along columns, then one along rows."""
    SEPARABLE = "separable"
    """A depthwise convolution, then a 1x1 convolution."""
    EMBEDDING = "embedding"
    """A narrower table, then a product of matrices."""


PAIRS = frozenset({Factorization.MATRIX, Factorization.PIVOT})
"""The forms that are two products of matrices, of one rank."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Factors that take the place of a weight, in the order in which they are applied."""

    form: Factorization
    ranks: tuple[int, ...]
    """MATRIX, PIVOT, SPATIAL: (rank); TUCKER: (channels of the input, of the output); SEPARABLE: (windows for a
    channel)."""
    factors: tuple[Floats, ...]
    """MATRIX: [columns, r], [r, outputs]; PIVOT: [columns, r], [r, outputs - r]; TUCKER: [inputs, r], [r, *kernel, s],
    [s, outputs], the outer ones left out where a rank is full; SPATIAL: [inputs, k, r], [r, l, outputs]; SEPARABLE:
    [inputs, *kernel, r], [inputs, r, outputs]."""
    dense: Floats
    """The weight that they amount to, shape [columns, outputs]."""


@dataclasses.dataclass(frozen=True)
class LayerMoments:
    """Second moments of the input x and the wanted output y of a layer, about the mean where it has a bias."""

    gram: Floats
    """E[xx'], shape [columns, columns]."""
    cross: Floats
    """E[xy'], shape [columns, outputs]."""
    energy: float
    """E|y|^2."""

    @classmethod
    def plain(cls, weight: Floats) -> LayerMoments:
        """Return moments of inputs that are not correlated: with them every split is the unwhitened one."""
        return cls(np.eye(len(weight)), weight, float((weight**2).sum()))

    def damped(self, weight: Floats, share: float) -> LayerMoments:
        """Return moments as if some white noise had gone through `weight`, `share` of the mean square of an input.

        It keeps what few samples do not tell at what the weight says.
        """
        noise = share * float(np.trace(self.gram)) / len(self.gram) + 1e-12
        return LayerMoments(
            self.gram + noise * np.eye(len(self.gram)),
            self.cross + noise * weight,
            self.energy + noise * float((weight**2).sum()),
        )

    def loss(self, dense: Floats) -> float:
        """Return E|y - V'x|^2 as a share of E|y|^2 for a weight of shape [columns, outputs]."""
        left = self.energy - 2 * float(np.vdot(dense, self.cross)) + float(np.vdot(dense, self.gram @ dense))
        return max(left, 0.0) / max(self.energy, np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One layer to split."""

    moments: LayerMoments
    kernel: tuple[int, ...] = ()
    metric: Floats | None = None
    """How errors of the outputs matter, shape [outputs, outputs], positive semidefinite; None: all alike."""

    @property
    def columns(self) -> int:
        """Weights of each output."""
        return int(self.moments.cross.shape[0])

    @property
    def outputs(self) -> int:
        """Outputs."""
        return int(self.moments.cross.shape[1])

    @property
    def inputs(self) -> int:
        """Channels of the data."""
        return self.columns // math.prod(self.kernel)

    @functools.cached_property
    def best(self) -> Floats:
        """The dense weight that fits best, shape [columns, outputs]."""
        return np.asarray(np.linalg.solve(self.moments.gram, self.moments.cross), np.float64)

    @functools.cached_property
    def floor(self) -> float:
        """The loss of `best`."""
        return self.moments.loss(self.best)

    @functools.cached_property
    def _root(self) -> Floats | None:
        """A root L of the metric, LL' = M: rows of outputs times it matter alike; None without a metric."""
        if self.metric is None:
            return None
        least = LEAST_METRIC * float(np.trace(self.metric)) / len(self.metric) + 1e-30
        wide = _symmetric(self.metric) + least * np.eye(len(self.metric))
        return np.asarray(np.linalg.cholesky(wide), np.float64)

    def loss(self, dense: Floats) -> float:
        """Return the loss of a weight of shape [columns, outputs] as a share of what there is to lose."""
        wrong, whole = self.best - dense, self.best
        if self._root is not None:
            wrong, whole = wrong @ self._root, whole @ self._root
        lost, most = (float(np.vdot(weight, self.moments.gram @ weight)) for weight in (wrong, whole))
        return min(lost / max(most, np.finfo(np.float64).tiny), 1.0) * (1 - self.floor) + self.floor

    @functools.cached_property
    def output_basis(self) -> tuple[Floats, Floats, Floats]:
        """Directions of the output by what they carry, the largest first: (energies [r], what outputs are multiplied
        by [outputs, r], what makes outputs of that [r, outputs])."""
        root = self._root
        best, cross = (matrix if root is None else matrix @ root for matrix in (self.best, self.moments.cross))
        if self.outputs <= self.columns:
            values, vectors = np.linalg.eigh(_symmetric(best.T @ cross))
            values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        else:
            values, vectors = right_vectors(np.linalg.solve(np.linalg.cholesky(self.moments.gram), cross))
        if root is None:
            return values, vectors, vectors.T
        return values, root @ vectors, np.linalg.solve(root.T, vectors).T

    @functools.cached_property
    def input_basis(self) -> tuple[Floats, Floats, Floats]:
        """Directions of the channels of the input: (energies, what to multiply by [inputs, r], its inverse)."""
        taps = math.prod(self.kernel)
        gram = np.einsum("atbt->ab", self.moments.gram.reshape(self.inputs, taps, self.inputs, taps)) / taps
        return _whitened(gram, self.best.reshape(self.inputs, -1))

    @functools.cached_property
    def column_basis(self) -> tuple[Floats, Floats, Floats]:
        """Directions of the columns of the window, as `input_basis`: shape [inputs * k, r]."""
        rows, width = self.kernel
        gram = self.moments.gram.reshape(self.inputs * rows, width, self.inputs * rows, width)
        return _whitened(np.einsum("atbt->ab", gram) / width, self.best.reshape(self.inputs * rows, -1))

    @functools.cached_property
    def channel_basis(self) -> tuple[Floats, Floats]:
        """Windows of each channel: (energies [inputs, r], windows [inputs, taps, r])."""
        taps = math.prod(self.kernel)
        channels = np.arange(self.inputs)
        grams = self.moments.gram.reshape(self.inputs, taps, self.inputs, taps)[channels, :, channels, :]
        weights = self.best.reshape(self.inputs, taps, self.outputs)
        energies, vectors, _ = zip(*map(_whitened, grams, weights), strict=True)
        return np.stack(energies), np.stack(vectors)


def right_vectors(matrix: Floats) -> tuple[Floats, Floats]:
    """Return (squared singular values, right singular vectors as columns), the largest first; [min(n, m)] of them."""
    _, singular, transposed = np.linalg.svd(matrix, full_matrices=False)
    return singular**2, transposed.T


def _symmetric(matrix: Floats) -> Floats:
    """Return the symmetric part: rounding makes the rest."""
    return (matrix + matrix.T) / 2


def _whitened(gram: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the SVD of `weight` whitened by `gram` on its left: (energies, L^-T P, P' L'), L the root of the gram."""
    root = np.linalg.cholesky(gram)
    wide = root.T @ weight
    values, vectors = np.linalg.eigh(wide @ wide.T)
    vectors = vectors[:, ::-1]
    return np.maximum(values[::-1], 0), np.linalg.solve(root.T, vectors), vectors.T @ root.T


def split(problem: Problem, form: Factorization, ranks: tuple[int, ...]) -> Split:
    """Return the split of this form and these ranks that fits best.

    Args:
        problem: Moments whose gram is positive definite: see `LayerMoments.damped`.
        form: Any but EMBEDDING, which `embedding` makes.
        ranks: As `Split.ranks` says, each at least 1 and at most full.

    Raises:
        LinAlgError: The gram is not positive definite.
    """
    return _balanced(_SPLITS[form](problem, ranks))


def _balanced(made: Split) -> Split:
    """Return the same split with factors of which neighbours are equally large, component by component.

    The scale of what is between them is free. A metric or a gram leaves one factor thousands of times as large as the
    other, and then a step of a training that suits the one ruins the other; half precision loses digits as well.
    """
    if made.form is Factorization.PIVOT:  # what is between are outputs
        return made
    factors = [factor.astype(np.float64) for factor in made.factors]
    shared = 2 if made.form is Factorization.SEPARABLE else 1  # axes of the components: (channel, window), or one
    for at in range(len(factors) - 1):
        before, after = factors[at], factors[at + 1]
        if shared == 1:
            inner, outer = tuple(range(before.ndim - 1)), tuple(range(1, after.ndim))
        else:
            inner, outer = tuple(range(1, before.ndim - 1)), (2,)
        sizes = [np.sqrt(np.square(factor).mean(axis=axes)) for factor, axes in ((before, inner), (after, outer))]
        known = (sizes[0] > 0) & (sizes[1] > 0)
        gain = np.sqrt(np.divide(sizes[1], sizes[0], out=np.ones_like(sizes[0]), where=known))
        gain[~known] = 1.0
        leading = gain if shared == 1 else gain.reshape(len(gain), *[1] * len(inner), -1)
        factors[at] = before * leading
        factors[at + 1] = after / gain.reshape(*gain.shape, *[1] * len(outer))
    return dataclasses.replace(made, factors=tuple(factors))


def _matrix(problem: Problem, ranks: tuple[int, ...]) -> Split:
    (rank,) = ranks
    _, down, up = problem.output_basis
    first, second = problem.best @ down[:, :rank], up[:rank].copy()
    return Split(Factorization.MATRIX, ranks, (first, second), first @ second)


def _pivot(problem: Problem, ranks: tuple[int, ...]) -> Split:
    (rank,) = ranks
    _, down, up = problem.output_basis
    kept = up[:rank]
    first = problem.best @ (down[:, :rank] @ kept[:, :rank])
    # Where some of the first outputs are sums of others this is the nearest; `dense` tells what is lost.
    others = np.linalg.lstsq(kept[:, :rank], kept[:, rank:], rcond=PIVOT_CONDITION)[0]
    # Errors of rounding grow by the condition of the first outputs: they belong to what is lost.
    stored = first.astype(np.float32).astype(np.float64), others.astype(np.float32).astype(np.float64)
    return Split(Factorization.PIVOT, ranks, stored, np.concatenate([stored[0], stored[0] @ stored[1]], axis=1))


def _tucker(problem: Problem, ranks: tuple[int, ...]) -> Split:
    few, narrow = ranks
    taps = math.prod(problem.kernel)
    moments = problem.moments
    gram, cross = moments.gram, moments.cross
    first: Floats | None = None
    last: tuple[Floats, Floats] | None = None
    if narrow < problem.outputs:
        _, down, up = problem.output_basis
        last = down[:, :narrow], up[:narrow].copy()
        cross = cross @ last[0]
    if few < problem.inputs:
        first = problem.input_basis[1][:, :few]
        gram = _through_channels(gram, first, taps)
        cross = np.einsum("itm,ir->rtm", cross.reshape(problem.inputs, taps, -1), first).reshape(few * taps, -1)
        core = np.linalg.solve(gram, cross)
        dense = np.einsum("rtm,ir->itm", core.reshape(few, taps, -1), first).reshape(problem.columns, -1)
    else:
        core = dense = problem.best if last is None else problem.best @ last[0]
    factors = [core.reshape(few, *problem.kernel, narrow)]
    if first is not None:
        factors.insert(0, first)
    if last is not None:
        factors.append(last[1])
        dense = dense @ last[1]
    return Split(Factorization.TUCKER, ranks, tuple(factors), dense)


def _through_channels(gram: Floats, first: Floats, taps: int) -> Floats:
    """Return the gram behind a factor that works on channels alone, at each place of the window."""
    channels, kept = first.shape
    half = np.tensordot(gram.reshape(channels, taps, channels * taps), first, axes=(0, 0))  # [taps, n, kept]
    half = half.transpose(2, 0, 1).reshape(kept * taps, channels, taps)
    whole = np.tensordot(half, first, axes=(1, 0)).transpose(0, 2, 1)  # [kept * taps, kept, taps]
    return whole.reshape(kept * taps, kept * taps)


def _spatial(problem: Problem, ranks: tuple[int, ...]) -> Split:
    (rank,) = ranks
    rows, width = problem.kernel
    first = problem.column_basis[1][:, :rank]
    gram = _through_channels(problem.moments.gram, first, width)
    cross = problem.moments.cross.reshape(problem.inputs * rows, width, -1)
    second = np.linalg.solve(gram, np.einsum("atm,ar->rtm", cross, first).reshape(rank * width, -1))
    dense = np.einsum("rtm,ar->atm", second.reshape(rank, width, -1), first).reshape(problem.columns, -1)
    factors = first.reshape(problem.inputs, rows, rank), second.reshape(rank, width, -1)
    return Split(Factorization.SPATIAL, ranks, factors, dense)


def _separable(problem: Problem, ranks: tuple[int, ...]) -> Split:
    (windows,) = ranks
    taps, channels = math.prod(problem.kernel), problem.inputs
    first = problem.channel_basis[1][:, :, :windows]
    gram = problem.moments.gram.reshape(channels, taps, channels, taps)
    half = np.einsum("atbu,atr->arbu", gram, first, optimize=True)
    reduced = np.einsum("arbu,bus->arbs", half, first, optimize=True).reshape(channels * windows, channels * windows)
    cross = np.einsum("atm,atr->arm", problem.moments.cross.reshape(channels, taps, -1), first, optimize=True)
    second = np.linalg.solve(reduced, cross.reshape(channels * windows, -1)).reshape(channels, windows, -1)
    dense = np.einsum("arm,atr->atm", second, first, optimize=True).reshape(problem.columns, -1)
    return Split(Factorization.SEPARABLE, ranks, (first.reshape(channels, *problem.kernel, windows), second), dense)


_SPLITS = {
    Factorization.MATRIX: _matrix,
    Factorization.PIVOT: _pivot,
    Factorization.TUCKER: _tucker,
    Factorization.SPATIAL: _spatial,
    Factorization.SEPARABLE: _separable,
}
