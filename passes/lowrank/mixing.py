"""Layers whose outputs are averaged over places before anything reads them: the values of attention.

Where y = V'x is rearranged into heads and each multiplied by weights A of places that sum to 1, what is read is
A y = V'(A x) for each head: the layer is fitted to the averages A x, that are as the model makes them now, for what the
product gave before. What differs from token to token averages out, and what is alike does not. Each head has second
moments of its own; the factors, which heads share, are chosen for their mean. A projection behind the heads weighs
outputs as in `readers`; two heads count together as far as their averages are alike, which is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.graph.axes import attribute, fit, op_of
from onnxslim.graph.constants import constant
from onnxslim.graph.contraction import Contraction, contractions
from onnxslim.runner.session import Session

from .comparing import COMPARES, LONGEST, MOVES, NORMALISES
from .layer import Layer

Array = npt.NDArray[np.float64]
Channels = npt.NDArray[np.int64]
Open = Callable[[ir.Model], Session]

MOMENTS = 2**24
"""Elements that the second moments of all heads of a layer may have."""


@dataclasses.dataclass
class Mixture:
    """A product that averages what a layer gives."""

    weights: str
    """The left factor, [samples, heads, places, places]."""
    product: str
    """What it gives, [samples, heads, places, channels of a head]."""
    path: ir.Model
    """Makes of what the layer gives the right factor."""
    back: ir.Model | None
    """Makes of the product what the projection behind it reads."""
    projection: Array | None
    """The weight of that, shape [what it reads, outputs]."""
    columns: int
    """Channels of what the layer gets."""
    _sessions: dict[int, Session] = dataclasses.field(default_factory=dict)

    def channels(self, shape: Sequence[int], weights: Sequence[int], open_session: Open) -> Channels | None:
        """Return which outputs of the layer each head has, shape [heads, channels of a head]; None where that is not
        all there is to it: heads share weights or values, or places change order.

        Args:
            shape: Of what the layer gives.
            weights: Shape of the weights of places.
            open_session: Opens a model on the target.

        Raises:
            RunError: What lies between does not run.
        """
        if len(shape) != 3 or len(weights) != 4:
            return None
        along, places = np.indices((1, *shape[1:]), np.float32)[[2, 1]]
        heads, moved = (self._run(self.path, each, open_session) for each in (along, places))
        if heads.ndim != 4 or heads.shape[1:3] != (weights[1], weights[3]):
            return None
        if heads.shape[1] * self.columns**2 > MOMENTS or (moved != np.arange(weights[3])[:, None]).any():
            return None
        found: Channels = np.rint(heads[0, :, 0]).astype(np.int64)
        return found if np.array_equal(np.sort(found.ravel()), np.arange(shape[2])) else None

    def metric(self, channels: Channels, alike: float, open_session: Open) -> Array | None:
        """Return how errors of the outputs matter, shape [outputs, outputs]; None: all alike.

        Args:
            channels: As `channels` returns them.
            alike: How much the averages of two heads have in common, 0 to 1.
            open_session: Opens a model on the target.

        Raises:
            RunError: What lies between does not run.
        """
        if self.back is None or self.projection is None:
            return None
        order = self._run(self.back, channels[None, :, None].astype(np.float32), open_session)
        if order.size != len(self.projection) or not np.array_equal(np.sort(order.ravel()), np.arange(order.size)):
            return None
        weight = np.empty_like(self.projection)
        weight[np.rint(order.ravel()).astype(np.int64)] = self.projection
        result = alike * (weight @ weight.T)
        for own in channels:
            result[np.ix_(own, own)] = weight[own] @ weight[own].T
        return result

    def _run(self, path: ir.Model, array: npt.NDArray[Any], open_session: Open) -> npt.NDArray[Any]:
        session = self._sessions.get(id(path)) or self._sessions.setdefault(id(path), open_session(path))
        array = np.ascontiguousarray(array, np.float32)
        return np.asarray(next(iter(session.run({session.inputs[0].name: array}).values())))


def averaged(data: npt.NDArray[Any], weights: npt.NDArray[Any], product: npt.NDArray[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield for each head what the layer gets on average, shape [rows, columns], and what the product gives, shape
    [rows, channels of a head].

    Args:
        data: Shape [samples, places, columns].
        weights: Shape [samples, heads, rows of a sample, places].
        product: Shape [samples, heads, rows of a sample, channels of a head].
    """
    for head in range(weights.shape[1]):
        mixed = weights[:, head].astype(np.float32) @ data.astype(np.float32)
        yield mixed.reshape(-1, data.shape[-1]), product[:, head].astype(np.float32).reshape(-1, product.shape[-1])


def find_mixtures(graph: ir.Graph, layers: Iterable[Layer]) -> dict[str, Mixture]:
    """Return for layers, by name, what averages their outputs, where nothing else reads them."""
    products = {contraction.data: contraction for contraction in contractions(graph) if contraction.plain}
    found = {layer.name: _mixture(graph, layer, products) for layer in layers if len(layer.sites) == 1}
    return {name: mixture for name, mixture in found.items() if mixture is not None}


def _mixture(graph: ir.Graph, layer: Layer, products: dict[ir.Value, Contraction]) -> Mixture | None:
    (site,) = layer.sites
    start = site.node.outputs[0]
    if layer.kernel or start.shape is None or len(start.shape) != 3 or start.dtype != ir.DataType.FLOAT:
        return None
    if (site.data_axis, site.output_axis) != (2, 2):
        return None
    first = start if site.bias is None or site.bias.own else site.bias.node.outputs[0]
    value, node = _moved(first)
    if node is None or op_of(node) != COMPARES or node.inputs[1] is not value or value is first:
        return None
    weights, product = node.inputs[0], node.outputs[0]
    maker = None if weights is None else weights.producer()
    if weights is None or maker is None or op_of(maker) != NORMALISES:
        return None
    if attribute(maker, "axis") not in (-1, len(weights.shape or ()) - 1):
        return None
    end, _ = _moved(product)
    reader = products.get(end)
    alone = reader is not None and len(list(end.uses())) == 1 and end is not product
    return Mixture(
        weights.name or "",
        product.name or "",
        _between(graph, first, value),
        _between(graph, product, end) if alone else None,
        reader.matrix().reshape(reader.columns, -1) if reader is not None and alone and reader.groups == 1 else None,
        layer.columns,
    )


def _moved(value: ir.Value) -> tuple[ir.Value, ir.Node | None]:
    """Follow a value through nodes that rearrange it, and return what they make of it and the one node that reads
    that; None where there is none, or several."""
    for _ in range(LONGEST):
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return value, None
        node = uses[0].node
        found = fit(node)
        if found is None or found.signature.kind not in MOVES or uses[0].idx:
            return value, node
        if any(constant(each) is None for each in node.inputs[1:]):
            return value, node
        value = node.outputs[0]
    return value, None


def _between(graph: ir.Graph, start: ir.Value, end: ir.Value) -> ir.Model:
    inner = ir.convenience.extract(graph, [start], [end])
    inner.inputs[0].shape = ir.Shape([None] * len(start.shape or ()))
    inner.outputs[0].shape = None
    return ir.Model(inner, ir_version=10)
