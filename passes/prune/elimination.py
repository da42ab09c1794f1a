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

from onnxslim.arrays import Floats, Indices
from onnxslim.observe.gram import SINGLE, Thin

AT_ONCE = 33
"""A group is eliminated in about as many steps; in smaller groups every step takes one channel."""


@dataclasses.dataclass(frozen=True)
class ChannelReader:
    """A layer, or a group of one, that reads channels which may go."""

    moment: Floats | Thin
    """Shape [columns, columns]."""
    weight: Floats
    """Shape [columns, outputs]."""
    columns: Sequence[Indices]
    """For each channel the columns that go with it; none where the reader does not read it."""
    energy: float
    """What its errors are measured by."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """In which order the channels of a group go, and what has been lost when."""

    order: Indices
    """Places in the group, the first to go first."""
    lost: Floats
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
    remaining = np.arange(count)
    while len(remaining):
        costs = sum((state.costs(remaining) for state in states), np.zeros(len(remaining)))
        chosen = remaining[np.argsort(costs, kind="stable")[:step]]
        total = sum(state.remove(chosen) for state in states)
        order += chosen.tolist()
        lost += [lost[-1] + total * (index + 1) / len(chosen) for index in range(len(chosen))]
        remaining = remaining[~np.isin(remaining, chosen)]
    return Ranking(np.array(order, np.int64), np.maximum.accumulate(np.array(lost)))


class _Moments:
    """A reader by the inverse of its moments."""

    def __init__(self, reader: ChannelReader, moment: Floats) -> None:
        dtype = np.float32 if len(moment) > SINGLE else np.float64
        self._inverse: npt.NDArray[np.floating] = np.linalg.inv(moment.astype(dtype))
        self._weight: npt.NDArray[np.floating] = reader.weight.astype(dtype)
        self._columns = reader.columns
        self._energy = max(reader.energy, 1e-30)

    def costs(self, channels: Indices) -> Floats:
        """Return what it would cost to remove each of `channels` alone."""
        costs = np.zeros(len(channels))
        for positions, columns in _by_width(self._columns, channels):
            blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
            costs[positions] = _traces(blocks, self._weight[columns])
        return costs / self._energy

    def remove(self, channels: Indices) -> float:
        """Remove `channels`, and return what that costs."""
        columns = np.concatenate([self._columns[channel] for channel in channels])
        if not len(columns):
            return 0.0
        weight, inverse = self._weight[columns].copy(), self._inverse[:, columns].copy()
        block = inverse[columns]
        solution = np.linalg.solve(block, weight)
        cost = float((solution * weight).sum()) / self._energy
        self._weight -= inverse @ solution
        self._inverse -= inverse @ np.linalg.solve(block, inverse.T)
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
        self._removed_outputs = np.zeros((len(self._rows), self._weight.shape[1]))
        self._removed_energy = self._lost = 0.0
        self._invert()

    def costs(self, channels: Indices) -> Floats:
        """Return what it would cost to remove each of `channels` alone."""
        costs = np.zeros(len(channels))
        shift = (self._inverse @ self._removed_outputs).astype(np.float32)
        inverse = self._inverse.astype(np.float32)
        for positions, columns in _by_width(self._columns, channels):
            rows = self._rows[:, columns.ravel()]
            weight = (self._weight[columns.ravel()] + rows.T @ shift).reshape(*columns.shape, -1)
            solution = (inverse @ rows).reshape(len(rows), *columns.shape).transpose(1, 0, 2)
            rows = rows.reshape(len(rows), *columns.shape).transpose(1, 2, 0)
            blocks = np.eye(columns.shape[1], dtype=np.float32) - rows @ solution
            costs[positions] = self._ridge * _traces(blocks, weight)
        return costs / self._energy

    def remove(self, channels: Indices) -> float:
        """Remove `channels`, and return what that costs."""
        columns = np.concatenate([self._columns[channel] for channel in channels])
        if not len(columns):
            return 0.0
        rows, weight = self._rows[:, columns], self._weight[columns]
        self._removed_outputs += rows @ weight
        self._products -= rows @ rows.T
        self._removed_energy += float(np.square(weight, dtype=np.float64).sum())
        self._invert()
        before, outputs = self._lost, self._removed_outputs
        self._lost = self._ridge * (float(((self._inverse @ outputs) * outputs).sum()) + self._removed_energy)
        return max(self._lost - before, 0.0) / self._energy

    def _invert(self) -> None:
        self._inverse = np.linalg.inv(self._products + self._ridge * np.eye(len(self._products)))


def _by_width(columns: Sequence[Indices], channels: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yield positions in `channels`, those with as many columns together, with their columns, shape [positions, n]."""
    widths = np.array([len(columns[channel]) for channel in channels])
    for width in np.unique(widths[widths > 0]):
        positions = np.flatnonzero(widths == width)
        yield positions, np.stack([columns[channel] for channel in channels[positions]])


def _traces(blocks: npt.NDArray[np.floating], weight: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return ``tr(W^T A^-1 W)`` for each channel; W W^T is smaller than W."""
    solutions = np.linalg.solve(blocks, weight @ weight.transpose(0, 2, 1))
    return np.asarray(np.trace(solutions, axis1=1, axis2=2))
