"""What a model costs for any choice of channels that go: MACs, parameters, bytes, as sums of products of axis lengths.

A cost is a function of the labels that go. What it counts is its own affair, so that one allocation serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import is_parameter
from onnxslim.analysis.coupling import Coupling
from onnxslim.arrays import Indices, Mask
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.binding import bind

RemainingCost = Callable[[Mask], float]
"""Returns what is left of a cost when some labels have gone."""


class Lengths:
    """How long every axis is for any set of labels that go."""

    def __init__(self, coupling: Coupling) -> None:
        relations, labels = coupling.relations, coupling.labels
        self.column = {axis: column for column, axis in enumerate(labels.start)}
        """Where each axis that stands for others is in what `__call__` returns."""
        self._find = relations.find
        self._begin = np.array(list(labels.start.values()), np.int64)
        self._sizes = np.array([relations.sizes[axis] for axis in labels.start], np.int64)

    def of(self, axis: int) -> int | None:
        """Return the column of an axis of the relations; None where it is symbolic or too long to hold channels."""
        return self.column.get(self._find(axis))

    def __call__(self, gone: Mask) -> Indices:
        """Return how long each axis is when the labels `gone` have gone."""
        before = np.concatenate([[0], np.cumsum(gone)])
        lengths: Indices = self._sizes - (before[self._begin + self._sizes] - before[self._begin])
        return lengths

    def empties(self, gone: Mask) -> bool:
        """Whether an axis would run empty."""
        return bool((self(gone)[self._sizes > 0] == 0).any())


class Products:
    """A sum of products of axis lengths, each with a factor.

    Args:
        lengths: The axes.
        terms: (columns of `lengths`, the factor).
    """

    def __init__(self, lengths: Lengths, terms: Sequence[tuple[Sequence[int], float]]) -> None:
        self._lengths = lengths
        # Columns filled up with an axis that counts as 1.
        one = len(lengths.column)
        widest = max((len(columns) for columns, _ in terms), default=0)
        self._terms = np.array(
            [[*columns, *[one] * (widest - len(columns))] for columns, _ in terms], np.int64
        ).reshape(len(terms), widest)
        self._factors = np.array([factor for _, factor in terms], np.float64)

    def __call__(self, gone: Mask, /) -> float:
        """Return the sum when the labels `gone` have gone."""
        lengths = np.append(self._lengths(gone), 1).astype(np.float64)
        return float((lengths[self._terms].prod(axis=1) * self._factors).sum())


def macs_left(coupling: Coupling, sized: ir.Model | None = None) -> Products:
    """Return the count of the MACs of the main graph.

    Args:
        coupling: The coupled axes of the model.
        sized: A copy of the model in which symbolic dimensions have sizes; without it they count as 1.
    """
    bound_at_size = {} if sized is None else {node.outputs[0].name: bind(node) for node in sized.graph}
    lengths = Lengths(coupling)
    terms: list[tuple[list[int], float]] = []
    for fitted, axes in coupling.fitted.values():
        whole = bound_at_size.get(fitted.node.outputs[0].name) or fitted
        if not axes:  # a shape is missing: the node is frozen, and costs what it costs
            terms.append(([], whole.macs()))
            continue
        for term in fitted.signature.macs:
            scale = math.prod(int(letter) for letter in term if letter.isdigit())
            columns: list[int] = []
            # A letter may stand in a term twice, and for the several axes of an ellipsis.
            for key, axis in [item for letter in term for item in axes.items() if item[0][0] == letter]:
                column = lengths.of(axis)
                if column is None:
                    scale *= whole.sizes.get(key, 1)  # too long to hold channels, or symbolic
                elif not key[0].isdigit():
                    columns.append(column)
            terms.append((columns, scale))
    return Products(lengths, terms)


def elements_left(coupling: Coupling, sized: ir.Model) -> Products:
    """Return the count of the elements of all values that nodes of the main graph make, at the sizes of `sized`."""
    lengths = Lengths(coupling)
    axes = {value.name: axes for value, axes in coupling.relations.values().items()}
    values = (value for node in sized.graph for value in node.outputs if value.name)
    terms = [_term(lengths, axes.get(value.name), value.shape, 1.0) for value in values if value.shape is not None]
    return Products(lengths, terms)


def weights_left(coupling: Coupling, model: ir.Model, *, in_bytes: bool = False) -> Products:
    """Return the count of the parameters of all graphs, or of the bytes of all weights."""
    lengths = Lengths(coupling)
    axes = coupling.relations.values()
    terms: list[tuple[list[int], float]] = []
    for graph in main_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.size and (in_bytes or is_parameter(tensor)):
                factor = tensor.nbytes / tensor.size if in_bytes else 1.0
                terms.append(_term(lengths, axes.get(value), tensor.shape, factor))
    return Products(lengths, terms)


def _term(
    lengths: Lengths, axes: Sequence[int] | None, shape: ir.ShapeProtocol, factor: float
) -> tuple[list[int], float]:
    """Return the product of the sizes of a tensor, by columns where they may shrink; symbolic ones count as 1."""
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    if axes is None or len(axes) != len(sizes):
        return [], factor * math.prod(sizes)
    columns = [lengths.of(axis) for axis in axes]
    fixed = math.prod(size for size, column in zip(sizes, columns, strict=True) if column is None)
    return [column for column in columns if column is not None], factor * fixed
