"""Measures how much of the error of a layer arrives at the outputs: each layer is split alone, and the model run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer, linear_layers
from onnxslim.arrays import Floats
from onnxslim.data import Samples
from onnxslim.model.edit import Editor
from onnxslim.observe.batches import batch_size
from onnxslim.observe.sensitivity import OutputDeviation
from onnxslim.runtime.session import Session

from .emit import write
from .factors import Split

ENOUGH = 32
"""Samples that tell one layer from another."""
FEWEST = 2
"""Fewer tell nothing."""
LEAST = 1e-3
"""No layer counts less than this share of what the average layer counts: few samples measured it."""


class SplitError:
    """Measures the error of the outputs of a model, which is not changed, in which one layer is split.

    The samples, few of them, are read once, and held.

    Raises:
        RunError: The model does not run on the samples.
    """

    def __init__(self, model: ir.Model, samples: Samples, open_session: Callable[[ir.Model], Session]) -> None:
        self._model, self._open = model, open_session
        runs = [batch.feeds for batch in samples.batches(batch_size(model, samples))]
        self._error = OutputDeviation(open_session(model).run, runs)

    def __call__(self, layer: LinearLayer, made: Split, biases: list[Floats | None]) -> float:
        """Return the energy of the error of the outputs, as a share of theirs, where `layer` alone is split."""
        probe = self._model.clone()
        copied = next(found for found in linear_layers(probe.graph) if found.weight.name == layer.weight.name)
        write(Editor(probe), copied, made, biases)
        return self._error(self._open(probe).run)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The cost of an error of one layer: proportional up to the lesser of two that were measured, then a power of it.

    A function behind the layer may forgive small errors and not large ones, or the other way round.
    """

    less: tuple[float, float]
    """(error of the layer, error of the outputs)."""
    more: tuple[float, float]

    def __call__(self, error: float) -> float:
        """Return the error of the outputs."""
        (small, low), (large, high) = self.less, self.more
        if error <= small or large <= small or high <= low:
            return error * low / small
        power = math.log(high / low) / math.log(large / small)
        return float(low * (error / small) ** power)


def curves(measured: Mapping[int, Sequence[tuple[float, float]]], count: int) -> list[Curve]:
    """Return what errors of each of `count` layers cost; those that were not measured count as the average does.

    For others one or two times (error of the layer, error of the outputs) was measured, both as shares.
    """
    found = {index: sorted(pair for pair in pairs if pair[0] > 0) for index, pairs in measured.items()}
    found = {index: pairs for index, pairs in found.items() if pairs}
    mean = float(np.mean([outputs / error for pairs in found.values() for error, outputs in pairs[:1]] or [0.0]))
    if not mean > 0:
        return [Curve((1.0, 1.0), (1.0, 1.0))] * count
    result: list[Curve] = []
    for index in range(count):
        pairs = [(error, max(outputs, LEAST * mean * error)) for error, outputs in found.get(index, [(1.0, mean)])]
        result.append(Curve(pairs[0], pairs[-1]))
    return result
