"""Collects the second moments of what layers get now and of what they gave before, while models run on samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.arrays import Array, Floats, Singles
from onnxslim.data import Samples
from onnxslim.fit.ridge import SHARE
from onnxslim.observe.batches import held_batches
from onnxslim.observe.products import add_products, sum_of_rows
from onnxslim.observe.rows import correspond, input_rows, output_rows, place_count
from onnxslim.observe.stream import Stream
from onnxslim.runtime.session import Session

from .attention_metric import AttentionProduct
from .factors import LayerMoments
from .output_metric import OutputReader

ROWS_PER_COLUMN = 32
"""Singles for each weight of an output that are enough: more take time and tell little."""
FEWEST_ROWS_PER_COLUMN = 8
"""As many are used however long their products take."""
PRODUCTS = 2e11
"""Multiply-accumulates that the second moments of one layer may take before there are fewer rows than are enough."""


@dataclasses.dataclass(frozen=True)
class Downstream:
    """The readers of the outputs of layers, by the names of the layers."""

    readers: Mapping[str, OutputReader] = dataclasses.field(default_factory=dict)
    comparisons: Mapping[str, AttentionProduct] = dataclasses.field(default_factory=dict)
    terms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The name of the value that is added to the output: see `residual`."""


@dataclasses.dataclass
class CollectedMoments:
    """Sums over the rows that one layer was seen at."""

    gram: Floats
    cross: Floats
    energy: float = 0.0
    rows: int = 0
    sums: list[tuple[Floats, Floats, int]] = dataclasses.field(default_factory=list)
    """For each use (sum of x, sum of y, rows)."""
    metric: Floats | None = None
    """The metric of the outputs, summed: see `output_metric` and `attention_metric`."""
    aside: CollectedMoments | None = None
    """The same of samples that were set aside, to tell what carries over to others."""

    def joined(self) -> CollectedMoments:
        """Return the sums over all rows, those that were set aside included."""
        if self.aside is None:
            return self
        aside = self.aside
        return CollectedMoments(
            self.gram + aside.gram,
            self.cross + aside.cross,
            self.energy + aside.energy,
            self.rows + aside.rows,
            [
                (one[0] + two[0], one[1] + two[1], one[2] + two[2])
                for one, two in zip(self.sums, aside.sums, strict=True)
            ],
            None if self.metric is None or aside.metric is None else self.metric + aside.metric,
        )

    def moments(self, layer: LinearLayer) -> LayerMoments:
        """Return the moments, about the mean at sites that have a bias to make up for the mean."""
        gram, cross, energy = self.gram.copy(), self.cross.copy(), self.energy
        if not np.isfinite(energy + np.trace(gram)):
            return LayerMoments(gram, cross, np.inf)
        for use, (inputs, outputs, rows) in zip(layer.uses, self.sums, strict=True):
            if use.bias is not None and rows:
                gram -= np.outer(inputs, inputs) / rows
                cross -= np.outer(inputs, outputs) / rows
                energy -= float(outputs @ outputs) / rows
        count = max(self.rows, 1)
        return LayerMoments(gram / count, cross / count, energy / count)

    def means(self) -> list[tuple[Floats, Floats]]:
        """Return for each use the means of what it gets and of what it gave."""
        return [(inputs / max(rows, 1), outputs / max(rows, 1)) for inputs, outputs, rows in self.sums]


class MomentCollector:
    """Looks at one layer after the other of a model that runs on samples, piece by piece.

    A layer of the model `now` may be replaced once it has been looked at. The values of `before`, the model as it was,
    have the same names; None: nothing of `now` changes. The samples are read once.
    """

    def __init__(
        self,
        now: ir.Model,
        before: ir.Model | None,
        samples: Samples,
        generator: np.random.Generator,
        open_session: Callable[[ir.Model], Session],
        behind: Downstream,
    ) -> None:
        batches = held_batches(now, samples)
        self._now = Stream(now, batches, open_session)
        self._before = None if before is None else Stream(before, batches, open_session)
        self._gave = self._before or self._now
        self._place = {value.name or "": index for index, node in enumerate(self._now.order) for value in node.outputs}
        self._made = {value.name or "": index for index, node in enumerate(self._gave.order) for value in node.outputs}
        self._count, self._generator, self._open = samples.count, generator, open_session
        self._behind = behind

    def order(self, layers: Iterable[LinearLayer]) -> list[LinearLayer]:
        """Return layers in the order in which they are to be looked at."""
        return sorted(layers, key=lambda layer: max(self._place[name] for name in _results(layer)))

    def each(self, layers: Sequence[LinearLayer]) -> Iterator[tuple[LinearLayer, CollectedMoments]]:
        """Yield layers, which are in `order`, with what each gets now and what it gave before.

        Raises:
            RunError: A model does not run on the samples.
        """
        for index, layer in enumerate(layers):
            data = {use.data.name or "" for later in layers[index:] for use in later.uses}
            results = {name for later in layers[index:] for name in self._wanted(later)}
            place = max(self._place[name] for name in _results(layer))
            end = 1 + max(self._made.get(name, -1) for name in self._wanted(layer))
            if self._before is None:
                self._now.advance(max(place + 1, end), data | results)
            else:
                self._now.advance(place, data)
                self._before.advance(end, results)
            yield layer, self._seen(layer)

    def _wanted(self, layer: LinearLayer) -> list[str]:
        comparison = self._behind.comparisons.get(layer.name)
        return [*_results(layer), *([] if comparison is None else [comparison.other])]

    def _seen(self, layer: LinearLayer) -> CollectedMoments:
        reader, comparison = self._behind.readers.get(layer.name), self._behind.comparisons.get(layer.name)
        weighed = reader is not None or comparison is not None
        moments = _empty(layer, weighed=weighed)
        if self._before is not None:
            moments.aside = _empty(layer, weighed=weighed)
        for index, (use, name) in enumerate(zip(layer.uses, _results(layer), strict=True)):
            pairs = zip(self._now[use.data.name or ""], self._wanted_sums(layer, name), strict=True)
            for number, (data, result) in enumerate(pairs):
                samples = max(self._now.counts[number], 1)
                places = max(int(data.size) // layer.inputs // samples, 1)
                per_sample = min(places, math.ceil(enough_rows(layer) / max(self._count, 1)))
                if not correspond(use, data, result):
                    continue  # which places there are depends on what a layer before gives: these are others
                inputs, outputs = rows(use, data, result, per_sample * samples, self._generator)
                target = moments.aside if moments.aside is not None and number % SHARE == SHARE - 1 else moments
                _add(target, index, inputs, outputs)
                if target.metric is not None:
                    with np.errstate(all="ignore"):
                        if reader is not None:
                            target.metric += reader.moment(outputs, self._open)
                        elif comparison is not None:
                            other = self._gave[comparison.other][number]
                            target.metric += comparison.moment(result, other, self._open)
        return moments

    def _wanted_sums(self, layer: LinearLayer, name: str) -> Iterator[Array]:
        """Yield what a layer gave before, batch by batch, and what its sum with another value lacks by now."""
        term = self._behind.terms.get(layer.name)
        if term is None or self._before is None:
            yield from self._gave[name]
            return
        terms = zip(self._gave[name], self._before.ahead(term), self._now.ahead(term), strict=True)
        for result, before, now in terms:
            with np.errstate(all="ignore"):
                yield result + (before - now) if before.shape == now.shape == result.shape else result


def _results(layer: LinearLayer) -> list[str]:
    return [use.node.outputs[0].name or "" for use in layer.uses]


def enough_rows(layer: LinearLayer) -> int:
    """Return how many rows say enough about a layer."""
    columns = layer.columns
    affordable = int(PRODUCTS / columns**2)
    return max(FEWEST_ROWS_PER_COLUMN * columns, min(ROWS_PER_COLUMN * columns, affordable))


def _empty(layer: LinearLayer, *, weighed: bool) -> CollectedMoments:
    columns, outputs = layer.columns, layer.outputs
    sums = [(np.zeros(columns), np.zeros(outputs), 0) for _ in layer.uses]
    metric = np.zeros((outputs, outputs)) if weighed else None
    return CollectedMoments(np.zeros((columns, columns)), np.zeros((columns, outputs)), sums=sums, metric=metric)


def _add(moments: CollectedMoments, index: int, inputs: Singles, outputs: Singles) -> None:
    with np.errstate(all="ignore"):  # what is not finite is found in the sums
        add_products(moments.gram, inputs, inputs)
        add_products(moments.cross, inputs, outputs)
        moments.energy += float(np.square(outputs, dtype=np.float64).sum())
        moments.rows += len(inputs)
        total_inputs, total_outputs, count = moments.sums[index]
        totals = total_inputs + sum_of_rows(inputs), total_outputs + sum_of_rows(outputs)
        moments.sums[index] = *totals, count + len(inputs)


def rows(
    use: Contraction, data: Any, result: Any, most: int, generator: np.random.Generator
) -> tuple[Singles, Singles]:
    """Return what a use of a layer gets and gives as rows, shapes [rows, columns] and [rows, outputs].

    A convolution is looked at in at most `most` windows (im2col), in the same places of all samples. The columns are
    (channel, *kernel), as those of `Contraction.matrix`.
    """
    count = place_count(use, data)
    limit = min(count, most if use.window is None else -(-most // len(data)))
    places = np.arange(count)
    if use.window is not None or limit < count:
        places = np.sort(generator.choice(count, limit, replace=False))
    (inputs,) = input_rows(use, data, places, check=False)
    (outputs,) = output_rows(use, result, use.output_axis or 0, places)
    if use.kernel:
        inputs = inputs.reshape(len(inputs), -1, use.channels).swapaxes(1, 2).reshape(len(inputs), -1)
    return inputs.astype(np.float32), outputs.astype(np.float32)
