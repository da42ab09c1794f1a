"""Stored weights that become integers by themselves, with all that reads them: products, convolutions and tables."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.analysis.linear_layer import label
from onnxslim.arrays import Floats, Indices, Singles
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.interface import Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from ..codes import QuantCode

SMALLEST = 256
"""Elements of the smallest weight that becomes integers: the nodes around one take as many bytes."""


@dataclasses.dataclass(frozen=True, eq=False)
class WeightUse:
    """A node that multiplies by a weight, which it reads directly, or turned."""

    contraction: Contraction
    axis: int
    """The axis of the weight, as a matrix of its first axis and all others, that is summed over."""

    @property
    def node(self) -> ir.Node:
        """The node."""
        return self.contraction.node


@dataclasses.dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight, and all nodes that read it."""

    value: ir.Value
    axis: int
    """The axis of the weight, as a matrix of its first axis and all others, that the levels are blocked along."""
    products: tuple[WeightUse, ...]
    tables: tuple[ir.Node, ...]
    """Nodes that read it row by row."""

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes that read it."""
        return (*(product.node for product in self.products), *self.tables)

    @property
    def name(self) -> str:
        """Its name in notes: that of the first node that reads it."""
        return label(self.nodes[0])

    @property
    def is_table(self) -> bool:
        """Whether it is read row by row, maybe besides."""
        return bool(self.tables)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as it is stored."""
        tensor = self.value.const_value
        return () if tensor is None else tuple(tensor.shape.numpy())

    @property
    def columns(self) -> int:
        """Weights of each output."""
        return math.prod(self.shape[1:]) if self.axis else self.shape[0]

    @property
    def outputs(self) -> int:
        """Outputs, or rows of a table."""
        return math.prod(self.shape) // self.columns

    def matrix(self) -> Singles:
        """Return the weight, shape [columns, outputs], the columns in the order in which they are stored."""
        array = constant(self.value)
        assert array is not None
        flat = array.astype(np.float32, copy=False).reshape(self.shape[0], -1)
        return flat.T if self.axis else flat

    def restored(self, matrix: Singles) -> Singles:
        """Return a matrix of shape [columns, outputs] in the shape of the weight."""
        return np.ascontiguousarray(matrix.T if self.axis else matrix).reshape(self.shape)


def column_order(contraction: Contraction) -> Indices:
    """Return for each column of a weight, as it is stored, its place among the columns of the moments."""
    places = math.prod(contraction.kernel)
    return np.arange(places * contraction.channels).reshape(places, -1).T.ravel()


def weight_groups(contraction: Contraction, matrix: Floats) -> list[Floats]:
    """Return what each group of outputs has of a weight, shape [columns, outputs of a group]."""
    return np.split(matrix, contraction.groups, axis=1)


def turn(model: ir.Model) -> dict[ir.Value, ir.Value]:
    """Store a copy of each weight that is read turned and as it is, so that its products are seen, in place; return
    for each copy the weight that it is a copy of."""
    editor = Editor(model)
    copies: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        weight = node.inputs[0] if node.inputs else None
        array = constant(weight) if has(node, Trait.PERMUTES) else None
        if weight is None or array is None or array.ndim != 2 or not weight.is_initializer() or len(weight.uses()) < 2:
            continue
        if attribute(node, "perm") not in ((1, 0), None) or node.outputs[0].is_graph_output():
            continue
        copy = editor.initializer(f"{weight.name}_turned", np.ascontiguousarray(array.T))
        node.outputs[0].replace_all_uses_with(copy)
        model.graph.remove(node, safe=True)
        copies[copy] = weight
    return copies


def turn_back(model: ir.Model, copies: dict[ir.Value, ir.Value]) -> None:
    """Read the weights turned again whose copies are still read, in place."""
    editor = Editor(model)
    for copy, original in copies.items():
        if copy.uses():
            node = ir.node("Transpose", [original], {"perm": [1, 0]}, name="")
            node.outputs[0].name = editor.name(f"{copy.name}_read")
            node.outputs[0].type, node.outputs[0].shape = copy.type, copy.shape
            model.graph.insert_before(next(iter(model.graph)), node)
            copy.replace_all_uses_with(node.outputs[0])
    drop_unused(model.graph, copies)


def find_weights(
    model: ir.Model, copies: dict[ir.Value, ir.Value], selection: Selection
) -> tuple[list[StoredWeight], list[Note]]:
    """Return the weights of the main graph that can become integers by themselves, and notes on the others."""
    products: dict[ir.Value, list[WeightUse]] = {}
    for contraction in contractions(model.graph, unranked=True):
        axis = _summed_axis(contraction)
        if axis is None:
            continue
        original = copies.get(contraction.weight)
        found = WeightUse(contraction, axis if original is None else 1 - axis)
        products.setdefault(contraction.weight if original is None else original, []).append(found)
    chosen: list[StoredWeight] = []
    left: list[Note] = []
    turned = {original: copy for copy, original in copies.items()}
    for value in list(model.graph.initializers.values()):
        if value in copies or value.dtype is None or not value.dtype.is_floating_point():
            continue
        own, uses = products.get(value, []), [*value.uses(), *(turned[value].uses() if value in turned else ())]
        tables = tuple(dict.fromkeys(use.node for use in value.uses() if _by_rows(use.node, use.idx)))
        if not own and not tables:
            continue
        nodes = {use.node for use in uses}
        weight = StoredWeight(value, 1 if tables else own[0].axis, tuple(own), tables)
        reason = selection.against(*nodes) or _against(weight, len(nodes), model.graph)
        if reason is None:
            chosen.append(weight)
        else:
            left.append(left_alone(weight.name, reason))
    return chosen, left


def _by_rows(node: ir.Node, index: int) -> bool:
    return has(node, Trait.TAKES_SLICES) and index == 0


def _summed_axis(contraction: Contraction) -> int | None:
    """Return the axis of the weight, as a matrix of its first axis and all others, that is summed over; None where
    there is no such axis."""
    tensor = contraction.weight.const_value
    rank = 0 if tensor is None else len(tensor.shape)
    if contraction.kernel:
        return 0 if contraction.transposed else 1
    if rank != 2 or contraction.groups != 1 or contraction.weight_axis is None:
        return None
    return 1 - contraction.weight_axis


def _against(weight: StoredWeight, readers: int, graph: ir.Graph) -> Reason | None:
    """Return why a weight stays as it is; None where it need not."""
    array, value = constant(weight.value), weight.value
    if array is None or value.is_graph_output() or value.is_graph_input():
        return Reason(QuantCode.WEIGHT_COMPUTED)
    if array.size < SMALLEST:
        return Reason(QuantCode.TOO_SMALL, (array.size, SMALLEST))
    if value.dtype is not ir.DataType.FLOAT:
        return Reason(QuantCode.INPUT_TYPE, ("" if value.dtype is None else value.dtype.name,), (value.name or "",))
    if not np.isfinite(array).all():
        return Reason(QuantCode.WEIGHT_NOT_FINITE)
    if any(product.axis != weight.axis for product in weight.products) or len(set(weight.nodes)) != readers:
        return Reason(QuantCode.WEIGHT_OF_OTHER_OP, values=(value.name or "",))
    outside = any(node.graph is not graph for node in weight.nodes)
    by_rows = all(attribute(node, "axis") in (0, -array.ndim) for node in weight.tables)
    if outside or not by_rows or (weight.tables and array.ndim != 2):
        return Reason(QuantCode.WEIGHT_OF_OTHER_OP, values=(value.name or "",))
    return None
