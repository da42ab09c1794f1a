"""Measures how much of the outputs is lost when one group of channels alone is cut, and readers make the best of it.

What a criterion says about the channels of a group is a curve over its widths, in a unit of its own. Here the model
runs with the group cut to a few widths, and the curve is scaled to the error of the outputs that this makes: the
curves of all groups are then in one unit, and the widths can be allotted by what they cost the model.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.arrays import Floats, Indices, Mask
from onnxslim.data import Samples
from onnxslim.model.constants import constant
from onnxslim.model.edit import overwrite
from onnxslim.observe.batches import batch_size
from onnxslim.observe.gram import Gram
from onnxslim.observe.sensitivity import OutputDeviation
from onnxslim.runtime.session import Session

from .elimination import Ranking

FRACTIONS = (0.25, 0.5, 0.75)
"""Which parts of a group are cut, to see what it costs."""
PRODUCTS = 1.2e12
"""Multiply-accumulates that running the model may take."""
SAMPLES = 128
"""Samples that are enough."""
FEWEST = 8
"""Fewer samples say too little."""


def probes(steps: Sequence[int], count: int) -> list[int]:
    """Return how many channels of `count` are cut to see what it costs; `steps` may be gone, rising, without 0."""
    if not steps:
        return []
    nearest = {min(steps, key=lambda step: abs(step - fraction * count)) for fraction in FRACTIONS}
    return sorted(nearest)


def affordable(runs: int, macs: int, count: int) -> int:
    """Return on how many samples `runs` runs may be made, 0 where it is too few."""
    most = min(SAMPLES, count, int(PRODUCTS / max(runs * macs, 1)))
    return most if most >= FEWEST else 0


class Prober:
    """Runs a model with channels cut, and tells how far its outputs are off; it is as it was again after each probe.

    The samples are read once, and held.
    """

    def __init__(
        self, model: ir.Model, coupling: Coupling, samples: Samples, open_session: Callable[[ir.Model], Session]
    ) -> None:
        self._model = model
        self._coupling = coupling
        self._open = open_session
        runs = [batch.feeds for batch in samples.batches(batch_size(model, samples))]
        self._error = OutputDeviation(open_session(model).run, runs)

    def __call__(self, group: ChannelGroup, order: Indices, moments: Sequence[tuple[Contraction, Gram]]) -> float:
        """Return the relative squared error of the outputs when channels of a group go, `order` says which.

        Of its readers those are fitted whose `moments` are given.
        """
        gone = self._coupling.labels.removed(group.roots[order])
        with self._cut(gone, moments):
            return self._error(self._open(self._model).run)

    @contextlib.contextmanager
    def _cut(self, gone: Mask, moments: Sequence[tuple[Contraction, Gram]]) -> Iterator[None]:
        """Set to zero what would go, and fit what reads it."""
        stored: dict[ir.Value, ir.TensorProtocol | None] = {}

        def put(value: ir.Value, array: Floats) -> None:
            stored.setdefault(value, value.const_value)
            overwrite(value, array)

        try:
            for contraction, gram in moments:
                labels = self._coupling.of(contraction.data, contraction.data_axis)
                if labels is None or not gone[labels].any():
                    continue
                columns = np.take(gone[labels].reshape(contraction.groups, -1), gram.channels, axis=1)
                fitted = gram.without(columns)
                bias = contraction.bias
                if bias is not None and bias.free and bias.value is not None and bias.vector is not None:
                    shift = np.einsum("gc,gco->go", gram.mean, gram.weight - fitted).ravel()
                    put(bias.value, bias.vector + shift)
                put(contraction.weight, contraction.from_blocks(fitted))
            for value, axes in self._coupling.weights():
                array = None
                for position, axis in enumerate(axes):
                    labels = self._coupling.of_axis(axis)
                    if labels is None or not gone[labels].any():
                        continue
                    if array is None:
                        present = constant(value)
                        if present is None or present.dtype.kind != "f":
                            break
                        array = present.astype(np.float64)
                    array[(slice(None),) * position + (np.flatnonzero(gone[labels]),)] = 0
                if array is not None:
                    put(value, array)
            yield
        finally:
            for value, tensor in stored.items():
                value.const_value = tensor


def scaled(ranking: Ranking, measured: Mapping[int, float]) -> Ranking:
    """Return a ranking whose losses are those that were measured, and in between go as they went.

    `measured` says for some counts of channels that are gone what that costs the outputs.
    """
    if not measured:
        return ranking
    counts = sorted(measured)
    costs = np.maximum.accumulate(np.maximum([measured[count] for count in counts], 0.0))
    ranked = ranking.lost[counts]
    lost = np.interp(ranking.lost, [0.0, *ranked], [0.0, *costs])
    # Beyond the last width that was measured it goes on as the criterion says.
    lost[counts] = costs
    beyond = slice(counts[-1] + 1, None)
    lost[beyond] = costs[-1] * ranking.lost[beyond] / ranked[-1] if ranked[-1] > 0 else costs[-1] + ranking.lost[beyond]
    return Ranking(ranking.order, np.maximum.accumulate(lost))


def as_importance(ranking: Ranking, steps: Sequence[int]) -> Floats:
    """Return for each channel what it costs that it goes, such that sorting gives the order of the ranking.

    The losses at the widths that are allowed are replaced by the largest convex curve below them: a step that costs
    much and opens the way to cheap ones is judged together with these.

    Args:
        ranking: In which order the channels go.
        steps: How many channels may be gone, rising, without 0.
    """
    count = len(ranking.order)
    corners = [0, *steps] if steps else [0]
    if corners[-1] != count:
        corners.append(count)
    hull = [corners[0]]
    for corner in corners[1:]:
        while len(hull) > 1 and _slope(ranking, hull[-2], hull[-1]) >= _slope(ranking, hull[-1], corner):
            hull.pop()
        hull.append(corner)
    costs = np.zeros(count)
    for first, last in itertools.pairwise(hull):
        costs[first:last] = _slope(ranking, first, last)
    # Equal costs keep their order.
    costs += np.arange(count) * 1e-12 * max(float(costs.max(initial=0)), 1e-30)
    importance = np.zeros(count)
    importance[ranking.order] = costs
    return importance


def _slope(ranking: Ranking, first: int, last: int) -> float:
    return float(ranking.lost[last] - ranking.lost[first]) / (last - first)
