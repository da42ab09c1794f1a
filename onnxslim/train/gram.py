"""Second moments of what contractions read: Gram matrices of the rows of their inputs, summed in double precision.

Of a contraction with more columns than `WIDE` the rows themselves are held, fewer of them than there are columns: all
that is asked of the moments can be had from the products of rows, at a fraction of the time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.graph.contraction import Contraction
from onnxslim.runner.session import Session
from onnxslim.train.observation import truncated
from onnxslim.train.rows import input_rows, place_count

PRODUCTS = 2e9
"""Multiply-accumulates that one Gram matrix may take; it limits the places of a sample that rows are taken of."""
RIDGE = 1e-2
"""What is added to the diagonal, relative to its mean: rows are a sample of what the layer will see."""

WIDE = 1200
"""Contractions with more columns have their rows held."""
FEW = 512
"""How many rows are held of these."""
SINGLE = 1000
"""With more unknowns, equations are solved in single precision; the ridge allows it."""

Array = npt.NDArray[np.float64]
Columns = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Thin:
    """Second moments as few rows: ``rows.T @ rows`` with a ridge on the diagonal."""

    rows: npt.NDArray[np.float32]
    """Shape [rows, columns]: about their mean, divided by the root of their number."""
    ridge: float


@dataclasses.dataclass(frozen=True)
class Gram:
    """What a contraction reads, about its mean: a bias makes up for that."""

    moment: Sequence[Array | Thin]
    """For each group the mean of products of columns, shape [columns, columns], with a ridge on the diagonal."""
    weight: Array
    """Shape [groups, columns, outputs of a group]."""
    mean: Array
    """Shape [groups, columns]."""
    channels: npt.NDArray[np.int64]
    """For each column the channel of its group that it reads."""

    @functools.cached_property
    def energy(self) -> float:
        """What the contraction makes of it, squared and summed over all outputs, but for the ridge."""
        return sum(_energy(*each) for each in zip(self.moment, self.weight, strict=True))

    def without(self, columns: Columns) -> Array:
        """Return the weight that reads nothing of some columns, and comes as near to the outputs as it can.

        Args:
            columns: Which go, shape [groups, columns]; as many in each group.
        """
        fitted = np.zeros_like(self.weight)
        for group, gone in enumerate(columns):
            kept, weight = ~gone, self.weight[group]
            fitted[group, kept] = weight[kept]
            if kept.any() and gone.any():
                fitted[group, kept] += _made_up(self.moment[group], kept, gone, weight[gone])
        return fitted


def _energy(moment: Array | Thin, weight: Array) -> float:
    if isinstance(moment, Thin):
        made = moment.rows @ weight.astype(np.float32)
        return float(np.square(made, dtype=np.float64).sum() + moment.ridge * np.square(weight).sum())
    return float(((moment @ weight) * weight).sum())


def _made_up(moment: Array | Thin, kept: Columns, gone: Columns, weight: Array) -> Array:
    """Return what the columns that are kept must read besides to make up for the weight of those that go."""
    if isinstance(moment, Thin):
        rows, missing = moment.rows[:, kept], moment.rows[:, gone] @ weight.astype(np.float32)
        inner = rows @ rows.T + np.float32(moment.ridge) * np.eye(len(rows), dtype=np.float32)
        return (rows.T @ np.linalg.solve(inner, missing)).astype(np.float64)
    kind = np.float32 if kept.sum() > SINGLE else np.float64
    inner, across = moment[np.ix_(kept, kept)].astype(kind), moment[np.ix_(kept, gone)] @ weight
    return np.linalg.solve(inner, across.astype(kind)).astype(np.float64)


def measurable(contraction: Contraction) -> bool:
    """Whether `grams` knows the rows of a contraction."""
    return contraction.regular and contraction.data.shape is not None


def held(contraction: Contraction) -> int:
    """Return how many bytes the moments of a contraction take."""
    return (
        contraction.groups * contraction.columns * (4 * FEW if contraction.columns > WIDE else 8 * contraction.columns)
    )


def grams(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    count: int,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    batch: int = 16,
) -> Iterator[Gram]:
    """Yield the Gram matrix of each contraction over all samples.

    Args:
        model: Any model; it is not changed.
        read: Contractions of its main graph, `measurable` ones.
        samples: Read once.
        count: How many samples these are.
        generator: Chooses places of convolutions.
        open_session: Opens a model on the target.
        batch: Samples in one run, where the model takes any number.

    Raises:
        RunError: The model does not run on the samples.
    """
    names = sorted({contraction.data.name or "" for contraction in read})
    session = open_session(truncated(model, names))
    sums = [_Sum(each) for each in read]
    for piece in samples.batches(batch):
        values = session.run(piece.feeds)
        for contraction, total in zip(read, sums, strict=True):
            data = values[contraction.data.name or ""]
            available = place_count(contraction, data)
            share = max(1, total.most // count if contraction.kernel else total.most * piece.count // count)
            places = np.arange(available)
            if share < available:
                places = np.sort(generator.choice(available, share, replace=False))
            total.add(input_rows(contraction, data, places))
    for contraction, total in zip(read, sums, strict=True):
        each = contraction.columns // math.prod(contraction.kernel)
        moment, mean = total.moments()
        yield Gram(moment, contraction.blocks(), mean, np.arange(contraction.columns) % each)


class _Sum:
    """Rows of a contraction, summed once there are many: the product of a few rows is no bigger a matrix."""

    def __init__(self, contraction: Contraction) -> None:
        self._groups, self._width = contraction.groups, contraction.columns
        self._thin = self._width > WIDE
        self._rows: list[npt.NDArray[np.float32]] = []
        self._pending = self._count = 0
        self._mean = np.zeros((self._groups, self._width))
        self._total = None if self._thin else np.zeros((self._groups, self._width, self._width))
        self.most = FEW if self._thin else int(PRODUCTS / (self._groups * self._width**2))
        """How many rows are wanted."""

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        self._rows.append(rows)
        self._pending += rows.shape[1]
        if self._pending > self._width and not self._thin:
            self._flush()

    def moments(self) -> tuple[list[Array | Thin], Array]:
        """Return the moments of each group, and the mean of each column."""
        if self._total is None:
            rows = np.concatenate(self._rows, axis=1)
            count, mean = rows.shape[1], rows.mean(axis=1, dtype=np.float64)
            rows = (rows - mean[:, None].astype(np.float32)) / np.float32(math.sqrt(count))
            ridges = self._ridge(count) * np.square(rows, dtype=np.float64).sum(axis=(1, 2)) / self._width + 1e-12
            return [Thin(each, float(ridge)) for each, ridge in zip(rows, ridges, strict=True)], mean
        self._flush()
        total, mean = self._total / max(self._count, 1), self._mean / max(self._count, 1)
        total -= mean[:, :, None] * mean[:, None]
        diagonal = np.einsum("gcc->gc", total)
        diagonal += self._ridge(self._count) * diagonal.mean(axis=1, keepdims=True) + 1e-12
        return list(total), mean

    def _ridge(self, count: int) -> float:
        # The fewer rows there are for each unknown, the less their moments say.
        return RIDGE * max(1.0, self._width / max(count, 1))

    def _flush(self) -> None:
        if self._rows and self._total is not None:
            rows = np.concatenate(self._rows, axis=1)
            self._total += rows.transpose(0, 2, 1) @ rows
            self._mean += rows.sum(axis=1, dtype=np.float64)
            self._count += rows.shape[1]
        self._rows, self._pending = [], 0
