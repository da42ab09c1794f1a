"""What a model costs in milliseconds for any choice of channels that go: measured times of its layers.

The layers that multiply are timed by themselves at a few aligned widths, and interpolated. What the whole model takes
longer than they do together, activations, additions and pooling, goes by the elements that it makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.analysis.remaining_cost import Lengths, elements_left
from onnxslim.arrays import Floats, Indices, Mask
from onnxslim.ops.binding import BoundSignature, FactorKey, bind
from onnxslim.runtime.layer import TimedLayer, layer_of
from onnxslim.runtime.layer_grid import LatencyGrid, LayerGrid
from onnxslim.runtime.layer_latency import NOTHING, LayerTimes

from .allocation import Limits, blocks

KNOTS = {0: 1, 1: 5, 2: 4, 3: 3}
"""How many widths are measured of a layer that has so many that may change; 2 where there are more."""


class MillisecondsLeft:
    """Tells how long the model takes when channels have gone: `whole` milliseconds as it is.

    In `sized`, a copy of the model, symbolic dimensions have sizes. `progress` is told how many of how many layers were
    measured.
    """

    def __init__(
        self,
        coupling: Coupling,
        sized: ir.Model,
        groups: Sequence[ChannelGroup],
        limits: Limits,
        times: LayerTimes,
        whole: float,
        progress: Callable[[int, int], None],
    ) -> None:
        nothing: Mask = np.zeros(coupling.labels.count, np.bool_)
        roots = [group.roots[: sum(blocks(group, limits))] for group in groups]
        most = coupling.labels.removed(np.concatenate([np.zeros(0, np.int64), *roots]))
        self._lengths = Lengths(coupling)
        self._elements = elements_left(coupling, sized)
        self._times = times
        full, least = self._lengths(nothing), self._lengths(most)
        self._nodes: list[BoundSignature] = []
        self._keys: list[dict[int, list[FactorKey]]] = []
        knots: list[list[tuple[int, ...]]] = []
        for fitted, keys in _multiplying(coupling, sized, self._lengths):
            varying = {column: own for column, own in keys.items() if least[column] < full[column]}
            if layer_of(fitted) is None:
                continue
            count = KNOTS.get(len(varying), 2)
            self._nodes.append(fitted)
            self._keys.append(varying)
            ends = [(int(least[column]), int(full[column])) for column in varying]
            knots.append([_knots(low, high, count, limits.step(high)) for low, high in ends])
        every = [list(itertools.product(*own)) for own in knots]
        asked = [self._layer(index, widths) for index, choices in enumerate(every) for widths in choices]
        measured = self._measure(asked, progress)
        tables: list[LatencyGrid] = []
        for own, choices in zip(knots, every, strict=True):
            shape = [len(widths) for widths in own]
            tables.append(LatencyGrid(tuple(own), np.array(measured[: len(choices)]).reshape(shape)))
            measured = measured[len(choices) :]
        self._grid = LayerGrid(tables)
        together = float(self._grid(self._widths(full)).sum())
        self._scale = min(1.0, whole / together) if together else 1.0
        self._rest = (whole - self._scale * together) / max(self._elements(nothing), 1.0)

    def __call__(self, gone: Mask, /) -> float:
        """Return the milliseconds that are left when the labels `gone` have gone."""
        layers = float(self._grid(self._widths(self._lengths(gone))).sum())
        return self._scale * layers + self._rest * self._elements(gone)

    def measured(self, gone: Mask) -> float:
        """Return the same, but with each layer measured at the widths that it will have."""
        widths = self._widths(self._lengths(gone))
        layers = [
            self._layer(index, tuple(int(width) for width in widths[index, : len(keys)]))
            for index, keys in enumerate(self._keys)
        ]
        total = sum(self._measure(layers, lambda done, total: None))
        return self._scale * total + self._rest * self._elements(gone)

    def _measure(self, layers: Sequence[TimedLayer], progress: Callable[[int, int], None]) -> list[float]:
        """Return the milliseconds of each layer, without what a run of nothing takes; 0 for what does not run."""
        *times, idle = self._times.milliseconds([*layers, NOTHING], progress)
        return [max(0.0, (time or 0.0) - (idle or 0.0)) for time in times]

    def _layer(self, index: int, widths: Sequence[int]) -> TimedLayer:
        sizes = {key: width for keys, width in zip(self._keys[index].values(), widths, strict=True) for key in keys}
        layer = layer_of(self._nodes[index], sizes)
        assert layer is not None
        return layer

    def _widths(self, lengths: Indices) -> Floats:
        """Return the widths of each layer, as `LayerGrid` wants them."""
        most = max((len(keys) for keys in self._keys), default=0)
        result = np.zeros((len(self._keys), most))
        for index, keys in enumerate(self._keys):
            result[index, : len(keys)] = lengths[list(keys)]
        return result


def _multiplying(
    coupling: Coupling, sized: ir.Model, lengths: Lengths
) -> list[tuple[BoundSignature, dict[int, list[FactorKey]]]]:
    """Return the nodes that multiply, at their sizes, and which of their factors each axis is, by columns."""
    bound_of = {node.outputs[0].name: bound for node, (_, bound) in coupling.fitted.items()}
    result: list[tuple[BoundSignature, dict[int, list[FactorKey]]]] = []
    for node in sized.graph:
        fitted = bind(node)
        if fitted is None or not fitted.signature.macs:
            continue
        keys: dict[int, list[FactorKey]] = {}
        for key, axis in bound_of.get(node.outputs[0].name, {}).items():
            column = lengths.of(axis)
            if column is not None and not key[0].isdigit():
                keys.setdefault(column, []).append(key)
        result.append((fitted, keys))
    return result


def _knots(least: int, full: int, count: int, align: int) -> tuple[int, ...]:
    """Return widths from `least` to `full`, multiples of `align` between them."""
    even = np.linspace(least, full, count)[1:-1]
    between = {round(width / align) * align for width in even.tolist()}
    return tuple(sorted({least, full} | {width for width in between if least < width < full}))
