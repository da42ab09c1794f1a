"""Orders the channels of a group by the error that stays when their readers make the best of the others.

Without a channel, the least squares solution of a reader with weight W and second moments H of its inputs errs by
``tr(W_c^T ((H^-1)_cc)^-1 W_c)``, c being the columns of the channel; its other weights move along. The channel that
costs least goes, H^-1 and W become those of what is left, and so on: one run gives the order of all channels, and
what every width costs. Source: Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon"
(1992), and its block form in Frantar et al., "ZipLM" (arXiv 2302.04089), section 3.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Columns = npt.NDArray[np.int64]

AT_ONCE = 48
"""A group is eliminated in about as many steps; in smaller groups every step takes one channel."""
SINGLE = 1500
"""Readers with more columns are computed in single precision; the ridge on their moments allows it."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A layer, or a group of one, that reads channels which may go."""

    moment: Array
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


def eliminate(readers: Sequence[Reader], count: int) -> Ranking:
    """Return in which order `count` channels go, and the relative error of all readers together."""
    states = [_State(reader) for reader in readers]
    order: list[int] = []
    lost = [0.0]
    step = max(1, count // AT_ONCE)
    left = np.arange(count)
    while len(left):
        cost = sum((state.costs(left) for state in states), np.zeros(len(left)))
        chosen = left[np.argsort(cost, kind="stable")[:step]]
        total = sum(state.remove(chosen) for state in states)
        order += chosen.tolist()
        lost += [lost[-1] + total * (at + 1) / len(chosen) for at in range(len(chosen))]
        left = left[~np.isin(left, chosen)]
    return Ranking(np.array(order, np.int64), np.maximum.accumulate(np.array(lost)))


class _State:
    def __init__(self, reader: Reader) -> None:
        kind = np.float32 if len(reader.moment) > SINGLE else np.float64
        self._inverse: npt.NDArray[np.floating] = np.linalg.inv(reader.moment.astype(kind))
        self._weight: npt.NDArray[np.floating] = reader.weight.astype(kind)
        self._columns = reader.columns
        self._energy = max(reader.energy, 1e-30)

    def costs(self, channels: Columns) -> Array:
        """Return what it would cost to remove each of `channels` alone."""
        costs = np.zeros(len(channels))
        sizes = np.array([len(self._columns[channel]) for channel in channels])
        for size in np.unique(sizes[sizes > 0]):
            where = np.flatnonzero(sizes == size)
            columns = np.stack([self._columns[channel] for channel in channels[where]])
            inner = self._inverse[columns[:, :, None], columns[:, None, :]]
            weight = self._weight[columns]
            costs[where] = (np.linalg.solve(inner, weight) * weight).sum(axis=(1, 2))
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
