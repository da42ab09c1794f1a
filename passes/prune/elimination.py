"""Orders the channels of a group by the error that stays when their readers make the best of the others.

Without a channel, the least squares solution of a reader with weight W and second moments H of its inputs errs by
``tr(W_c^T ((H^-1)_cc)^-1 W_c)``, c being the columns of the channel; its other weights move along. The channel that
costs least goes, H^-1 and W become those of what is left, and so on: one run gives the order of all channels, and
what every width costs. Source: Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon"
(1992), and its block form in Frantar et al., "ZipLM" (arXiv 2302.04089), section 3.1.

Of a wide reader, whose moments are a few rows X, the same is had from the products of rows: with K = X X^T + ridge,
``H^-1 = (1 - X^T K^-1 X) / ridge``, the weights that are left move by ``X^T K^-1 T``, T being what the columns that
have gone gave, and the error is ``ridge (tr(T^T K^-1 T) + |W_gone|^2)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim.observe.gram import SINGLE, Thin

Array = npt.NDArray[np.float64]
Columns = npt.NDArray[np.int64]

AT_ONCE = 33
"""A group is eliminated in about as many steps; in smaller groups every step takes one channel."""


@dataclasses.dataclass(frozen=True)
class ChannelReader:
    """A layer, or a group of one, that reads channels which may go."""

    moment: Array | Thin
    """Shape [columns, columns]."""
    weight: Array
    """Shape [columns, outputs]."""
    columns: Sequence[Columns]
    """For each channel the columns that go with it; none where the reader does not read it."""
    energy: float
    """What its errors are measured by."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """In which order the channels of a group go, and what has been lost when."""

    order: Columns
    """Places in the group, the first to go first."""
    lost: Array
    """Shape [channels + 1]: what is lost when as many are gone; rises."""


def eliminate(readers: Sequence[ChannelReader], count: int) -> Ranking:
    """Return in which order `count` channels go, and the relative error of all readers together."""
    states = [
        _ReaderRows(reader, moment) if isinstance(moment := reader.moment, Thin) else _Moments(reader, moment)
        for reader in readers
    ]
    order: list[int] = []
    lost = [0.0]
    step = max(1, count // AT_ONCE)
    left = np.arange(count)
    while len(left):
        cost = sum((state.costs(left) for state in states), np.zeros(len(left)))
        chosen = left[np.argsort(cost, kind="stable")[:step]]
        total = sum(state.remove(chosen) for state in states)
        order += chosen.tolist()
        lost += [lost[-1] + total * (index + 1) / len(chosen) for index in range(len(chosen))]
        left = left[~np.isin(left, chosen)]
    return Ranking(np.array(order, np.int64), np.maximum.accumulate(np.array(lost)))


class _Moments:
    """A reader by the inverse of its moments."""

    def __init__(self, reader: ChannelReader, moment: Array) -> None:
        kind = np.float32 if len(moment) > SINGLE else np.float64
        self._inverse: npt.NDArray[np.floating] = np.linalg.inv(moment.astype(kind))
        self._weight: npt.NDArray[np.floating] = reader.weight.astype(kind)
        self._columns = reader.columns
        self._energy = max(reader.energy, 1e-30)

    def costs(self, channels: Columns) -> Array:
        """Return what it would cost to remove each of `channels` alone."""
        costs = np.zeros(len(channels))
        for where, columns in _alike(self._columns, channels):
            inner = self._inverse[columns[:, :, None], columns[:, None, :]]
            weight = self._weight[columns]
            costs[where] = _traces(inner, weight)
        return costs / self._energy

    def remove(self, channels: Columns) -> float:
        """Remove `channels`, and return what that costs."""
        columns = np.concatenate([self._columns[channel] for channel in channels])
        if not len(columns):
            return 0.0
        weight, across = self._weight[columns].copy(), self._inverse[:, columns].copy()
        inner = across[columns]
        solved = np.linalg.solve(inner, weight)
        cost = float((solved * weight).sum()) / self._energy
        self._weight -= across @ solved
        self._inverse -= across @ np.linalg.solve(inner, across.T)
        # What has gone must not come back by rounding.
        self._weight[columns] = 0
        self._inverse[columns] = 0
        self._inverse[:, columns] = 0
        return max(cost, 0.0)


class _ReaderRows:
    """A reader by the products of its rows."""

    def __init__(self, reader: ChannelReader, moment: Thin) -> None:
        self._rows, self._ridge = moment.rows, moment.ridge
        self._weight = reader.weight.astype(np.float32)
        self._columns = reader.columns
        self._energy = max(reader.energy, 1e-30)
        self._products = (self._rows @ self._rows.T).astype(np.float64)
        self._given = np.zeros((len(self._rows), self._weight.shape[1]))
        self._square = self._lost = 0.0
        self._invert()

    def costs(self, channels: Columns) -> Array:
        """Return what it would cost to remove each of `channels` alone."""
        costs = np.zeros(len(channels))
        moved = (self._inverse @ self._given).astype(np.float32)
        inverse = self._inverse.astype(np.float32)
        for where, columns in _alike(self._columns, channels):
            rows = self._rows[:, columns.ravel()]
            weight = (self._weight[columns.ravel()] + rows.T @ moved).reshape(*columns.shape, -1)
            mapped = (inverse @ rows).reshape(len(rows), *columns.shape).transpose(1, 0, 2)
            rows = rows.reshape(len(rows), *columns.shape).transpose(1, 2, 0)
            inner = np.eye(columns.shape[1], dtype=np.float32) - rows @ mapped
            costs[where] = self._ridge * _traces(inner, weight)
        return costs / self._energy

    def remove(self, channels: Columns) -> float:
        """Remove `channels`, and return what that costs."""
        columns = np.concatenate([self._columns[channel] for channel in channels])
        if not len(columns):
            return 0.0
        rows, weight = self._rows[:, columns], self._weight[columns]
        self._given += rows @ weight
        self._products -= rows @ rows.T
        self._square += float(np.square(weight, dtype=np.float64).sum())
        self._invert()
        before = self._lost
        self._lost = self._ridge * (float(((self._inverse @ self._given) * self._given).sum()) + self._square)
        return max(self._lost - before, 0.0) / self._energy

    def _invert(self) -> None:
        self._inverse = np.linalg.inv(self._products + self._ridge * np.eye(len(self._products)))


def _alike(columns: Sequence[Columns], channels: Columns) -> Iterator[tuple[Columns, Columns]]:
    """Yield the places among `channels` of those that have as many columns, with these columns."""
    sizes = np.array([len(columns[channel]) for channel in channels])
    for size in np.unique(sizes[sizes > 0]):
        where = np.flatnonzero(sizes == size)
        yield where, np.stack([columns[channel] for channel in channels[where]])


def _traces(inner: npt.NDArray[np.floating], weight: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return ``tr(W^T A^-1 W)`` for each channel; W W^T is smaller than W."""
    traces: npt.NDArray[np.floating] = np.trace(
        np.linalg.solve(inner, weight @ weight.transpose(0, 2, 1)), axis1=1, axis2=2
    )
    return traces
