"""Collects the second moments of what layers get now and of what they gave before, while models run on samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.runner.session import Session
from onnxslim.train.observation import truncated

from .factors import Moments
from .layer import Layer, Site
from .readers import Reader

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

ROWS_PER_COLUMN = 32
"""Rows for each weight of an output that are enough: more take time and tell little."""
FEWEST_ROWS_PER_COLUMN = 8
"""As many are used however long their products take."""
PRODUCTS = 2e11
"""Multiply-accumulates that the second moments of one layer may take before there are fewer rows than are enough."""
MEMORY = 2_400_000_000
"""Bytes of second moments that are held at once."""
BATCH = 8
"""Samples in one run, where the model takes any number."""
ASIDE = 4
"""Every so manieth run is set aside where a layer is fitted to make up for errors."""


@dataclasses.dataclass
class Seen:
    """Sums over the rows that one layer was seen at."""

    gram: Array
    cross: Array
    energy: float = 0.0
    rows: int = 0
    sums: list[tuple[Array, Array, int]] = dataclasses.field(default_factory=list)
    """For each site (sum of x, sum of y, rows)."""
    metric: Array | None = None
    """What each direction of the outputs matters to what reads them, summed: see `readers`."""
    aside: Seen | None = None
    """The same of samples that were set aside, to tell what carries over to others."""

    def joined(self) -> Seen:
        """Return the sums over all rows, those that were set aside included."""
        if self.aside is None:
            return self
        other = self.aside
        return Seen(
            self.gram + other.gram,
            self.cross + other.cross,
            self.energy + other.energy,
            self.rows + other.rows,
            [
                (one + more, two + further, rows + extra)
                for (one, two, rows), (more, further, extra) in zip(self.sums, other.sums, strict=True)
            ],
            None if self.metric is None or other.metric is None else self.metric + other.metric,
        )

    def moments(self, layer: Layer) -> Moments:
        """Return the moments, about the mean at sites that have a bias to make up for the mean."""
        gram, cross, energy = self.gram.copy(), self.cross.copy(), self.energy
        if not np.isfinite(energy + np.trace(gram)):
            return Moments(gram, cross, np.inf)
        for site, (inputs, outputs, rows) in zip(layer.sites, self.sums, strict=True):
            if site.bias is not None and rows:
                gram -= np.outer(inputs, inputs) / rows
                cross -= np.outer(inputs, outputs) / rows
                energy -= float(outputs @ outputs) / rows
        count = max(self.rows, 1)
        return Moments(gram / count, cross / count, energy / count)

    def means(self) -> list[tuple[Array, Array]]:
        """Return for each site the means of what it gets and of what it gave."""
        return [(inputs / max(rows, 1), outputs / max(rows, 1)) for inputs, outputs, rows in self.sums]


def watch(
    now: ir.Model,
    before: ir.Model | None,
    layers: Sequence[Layer],
    samples: Samples,
    count: int,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    readers: Mapping[str, Reader],
) -> dict[str, Seen]:
    """Return for each layer, by name, what it gets in `now` and what it gave in `before`.

    Args:
        now: The model as it is, with the nodes of `layers`.
        before: The model as it was; its values have the same names. None: as it is.
        layers: What to look at; `memory` of all of them is held at once.
        samples: Calibration samples, read once.
        count: How many these are.
        generator: Chooses the rows.
        open_session: Opens a model on the target.
        readers: What reads some of the layers, by their names.

    Raises:
        RunError: A model does not run on the samples.
    """
    data = sorted({site.data.name or "" for layer in layers for site in layer.sites})
    results = sorted({site.node.outputs[0].name or "" for layer in layers for site in layer.sites})
    known = {value.name for value in now.graph.inputs}
    made = [name for name in data if name not in known]
    same = before is None
    wanted = [*made, *[name for name in results if name not in made]] if same else made
    session = open_session(truncated(now, wanted)) if wanted else None
    other = None if before is None else open_session(truncated(before, results))
    seen = {layer.name: _empty(layer, readers) for layer in layers}
    if not same:
        for layer in layers:
            seen[layer.name].aside = _empty(layer, readers)
    for number, batch in enumerate(samples.batches(BATCH)):
        values = dict(batch.feeds)
        values.update(_run(session, batch.feeds) if session is not None else {})
        if other is not None:
            values.update({f"before {name}": array for name, array in _run(other, batch.feeds).items()})
        for layer in layers:
            each = min(_places(layer, values), math.ceil(enough_rows(layer) / max(count, 1)))
            for at, site in enumerate(layer.sites):
                result = (
                    values[site.node.outputs[0].name or ""]
                    if same
                    else values[f"before {site.node.outputs[0].name or ''}"]
                )
                inputs, outputs = rows(layer, site, values[site.data.name or ""], result, each * batch.count, generator)
                held = seen[layer.name]
                if held.aside is not None and number % ASIDE == ASIDE - 1:
                    held = held.aside
                _add(held, at, inputs, outputs)
                if held.metric is not None:
                    with np.errstate(all="ignore"):
                        held.metric += readers[layer.name].moment(outputs, open_session)
    return seen


def enough_rows(layer: Layer) -> int:
    """Return how many rows say enough about a layer."""
    columns = layer.columns
    affordable = int(PRODUCTS / columns**2)
    return max(FEWEST_ROWS_PER_COLUMN * columns, min(ROWS_PER_COLUMN * columns, affordable))


def _run(session: Session, feeds: Mapping[str, Any]) -> dict[str, Any]:
    used = {spec.name for spec in session.inputs}
    return session.run({name: array for name, array in feeds.items() if name in used})


def _places(layer: Layer, values: Mapping[str, Any]) -> int:
    """Return in how many places a layer works, all samples together: no more rows are to be had."""
    array = values[layer.sites[0].data.name or ""]
    return max(int(array.size) // layer.inputs, 1)


def _empty(layer: Layer, readers: Mapping[str, Reader]) -> Seen:
    columns, outputs = layer.columns, layer.outputs
    sums = [(np.zeros(columns), np.zeros(outputs), 0) for _ in layer.sites]
    metric = np.zeros((outputs, outputs)) if layer.name in readers else None
    return Seen(np.zeros((columns, columns)), np.zeros((columns, outputs)), sums=sums, metric=metric)


def _add(seen: Seen, at: int, inputs: Rows, outputs: Rows) -> None:
    with np.errstate(all="ignore"):  # what is not finite is found in the sums
        # Products of one run in single precision, their sums in double.
        seen.gram += inputs.T @ inputs
        seen.cross += inputs.T @ outputs
        seen.energy += float(np.vdot(outputs, outputs))
        seen.rows += len(inputs)
        one, two, rows = seen.sums[at]
        seen.sums[at] = one + inputs.sum(axis=0), two + outputs.sum(axis=0), rows + len(inputs)


def rows(
    layer: Layer, site: Site, data: Any, result: Any, most: int, generator: np.random.Generator
) -> tuple[Rows, Rows]:
    """Return what a site gets and gives as rows, shapes [rows, columns] and [rows, outputs].

    A convolution is looked at in at most `most` windows (im2col), in the same places of all samples.
    """
    if layer.kernel:
        return _windows(layer, data, result, most, generator)
    inputs = np.moveaxis(data, site.data_axis, -1).reshape(-1, layer.inputs)
    outputs = np.moveaxis(result, site.output_axis, -1).reshape(-1, layer.outputs)
    if len(inputs) > most:
        chosen = np.sort(generator.choice(len(inputs), most, replace=False))
        inputs, outputs = inputs[chosen], outputs[chosen]
    return inputs.astype(np.float32), outputs.astype(np.float32)


def _windows(layer: Layer, data: Any, result: Any, most: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
    rank, spatial = len(layer.kernel), result.shape[2:]
    padded = np.pad(data, [(0, 0), (0, 0), *zip(layer.pads[:rank], layer.pads[rank:], strict=True)])
    count = math.prod(spatial)
    places = np.sort(generator.choice(count, min(-(-most // len(data)), count), replace=False))
    index: list[Any] = [slice(None), slice(None)]
    for at, place in enumerate(np.unravel_index(places, spatial)):
        taps = place[:, None] * layer.strides[at] + np.arange(layer.kernel[at]) * layer.dilations[at]
        index.append(taps.reshape(len(places), *[-1 if other == at else 1 for other in range(rank)]))
    windows = np.moveaxis(padded[tuple(index)], 2, 1)  # [samples, places, channels, *kernel]
    outputs = np.moveaxis(result.reshape(*result.shape[:2], count)[:, :, places], 2, 1)
    return (
        windows.reshape(-1, layer.columns).astype(np.float32),
        outputs.reshape(-1, layer.outputs).astype(np.float32),
    )


def memory(layer: Layer) -> int:
    """Return the bytes that the moments of a layer take, those set aside included."""
    return 16 * (layer.columns * (layer.columns + layer.outputs) + layer.outputs**2)


def portions(layers: Iterable[Layer], longest: int) -> Iterator[list[Layer]]:
    """Yield the layers in portions of at most `longest`, and of not more moments than fit into `MEMORY`."""
    portion: list[Layer] = []
    for layer in layers:
        if portion and (len(portion) == longest or sum(map(memory, portion)) + memory(layer) > MEMORY):
            yield portion
            portion = []
        portion.append(layer)
    if portion:
        yield portion
