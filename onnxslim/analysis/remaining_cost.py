"""What a model costs for any choice of channels that go: MACs, parameters, bytes, as sums of products of axis lengths.

A cost is a function of the labels that go. What it counts is its own affair, so that one allocation serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import is_parameter
from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.binding import bind
from onnxslim.ops.relations import Indices


class RemainingCost(Protocol):
    """What is left of a cost when channels go."""

    def __call__(self, gone: Mask, /) -> float:
        """Return what is left when the labels `gone` have gone."""


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


class MacsLeft:
    """Counts the MACs of the main graph.

    Args:
        coupling: The coupled axes of the model.
        sized: A copy of the model in which symbolic dimensions have sizes; without it they count as 1.
    """

    def __init__(self, coupling: Coupling, sized: ir.Model | None = None) -> None:
        at_size = {} if sized is None else {_key(node): bind(node) for node in sized.graph}
        self._lengths = Lengths(coupling)
        terms: list[tuple[list[int], float]] = []
        for fitted, bound in coupling.fitted.values():
            whole = at_size.get(_key(fitted.node)) or fitted
            if not bound:  # a shape is missing: the node is frozen, and costs what it costs
                terms.append(([], whole.macs()))
                continue
            for term in fitted.signature.macs:
                scale = math.prod(int(letter) for letter in term if letter.isdigit())
                columns: list[int] = []
                # A letter may stand in a term twice, and for the several axes of an ellipsis.
                for key, axis in [item for letter in term for item in bound.items() if item[0][0] == letter]:
                    column = self._lengths.of(axis)
                    if column is not None:
                        columns += [] if key[0].isdigit() else [column]
                    else:
                        scale *= whole.sizes.get(key, 1)  # too long to hold channels, or symbolic
                terms.append((columns, scale))
        self._products = Products(self._lengths, terms)

    def __call__(self, gone: Mask, /) -> int:
        """Return the MACs that are left when the labels `gone` have gone."""
        return round(self._products(gone))


def parameters_left(coupling: Coupling, model: ir.Model) -> Products:
    """Return the count of the parameters of all graphs."""
    return _weights_left(coupling, model, in_bytes=False)


def bytes_left(coupling: Coupling, model: ir.Model) -> Products:
    """Return the count of the bytes of all weights."""
    return _weights_left(coupling, model, in_bytes=True)


def elements_left(coupling: Coupling, sized: ir.Model) -> Products:
    """Return the count of the elements of all values that nodes of the main graph make.

    Args:
        coupling: The coupled axes of the model.
        sized: A copy of the model in which symbolic dimensions have sizes.
    """
    lengths = Lengths(coupling)
    values = {value.name: axes for value, axes in coupling.relations.values().items()}
    terms: list[tuple[list[int], float]] = []
    for node in sized.graph:
        for value in node.outputs:
            if value.name and value.shape is not None:
                sizes = [size if isinstance(size, int) else 1 for size in value.shape]
                terms.append(_term(lengths, values.get(value.name), sizes, 1.0))
    return Products(lengths, terms)


def _weights_left(coupling: Coupling, model: ir.Model, *, in_bytes: bool) -> Products:
    lengths = Lengths(coupling)
    axes = coupling.relations.values()
    terms: list[tuple[list[int], float]] = []
    for graph in main_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or not tensor.size or not (in_bytes or is_parameter(tensor)):
                continue
            factor = tensor.nbytes / tensor.size if in_bytes else 1.0
            sizes = [size if isinstance(size, int) else 1 for size in tensor.shape]
            terms.append(_term(lengths, axes.get(value), sizes, factor))
    return Products(lengths, terms)


def _term(lengths: Lengths, axes: Sequence[int] | None, sizes: Sequence[int], factor: float) -> tuple[list[int], float]:
    """Return the product of the sizes of a tensor, by columns where they may shrink."""
    if axes is None or len(axes) != len(sizes):
        return [], factor * math.prod(sizes)
    columns = [lengths.of(axis) for axis in axes]
    fixed = math.prod(size for size, column in zip(sizes, columns, strict=True) if column is None)
    return [column for column in columns if column is not None], factor * fixed


def _key(node: ir.Node) -> str:
    return node.outputs[0].name or ""
