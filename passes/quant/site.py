"""Recognises the nodes that can run in int8: their activations, weight, bias, and the clamp that is absorbed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import output_channel_axis
from onnxslim.pipeline.selection import Selection

from .table import Int8Table, Role, Row


@dataclasses.dataclass(frozen=True)
class QuantSite:
    """A node that can run in int8."""

    node: ir.Node
    row: Row
    data: tuple[int, ...]
    """Inputs that are activations."""
    constants: tuple[int, ...]
    """Inputs among the activations that are one constant number."""
    weight: int | None
    axis: int | None
    """The axis of output channels of the weight; None: it has no weight."""
    bias: int | None
    clamp: ir.Node | None
    """The Relu or Clip behind it that quantization makes superfluous."""

    @property
    def is_contraction(self) -> bool:
        """Whether it is a sum of products."""
        return self.row.role is Role.CONTRACTION

    @property
    def key(self) -> str:
        """The name of its first output."""
        return self.node.outputs[0].name or ""

    @property
    def results(self) -> tuple[ir.Value, ...]:
        """The values that are quantized: the outputs of the node, or of the clamp behind it."""
        return tuple((self.clamp or self.node).outputs)

    @functools.cached_property
    def data_indices(self) -> frozenset[int]:
        """The inputs that are activations, to look them up: a node may have thousands."""
        return frozenset(self.data)

    def operands(self) -> tuple[ir.Value, ...]:
        """Return the activations that it reads."""
        inputs = self.node.inputs
        return tuple(value for value in (inputs[index] for index in self.data) if value is not None)

    def weight_value(self) -> ir.Value | None:
        """Return its weight, if it has one."""
        return None if self.weight is None else self.node.inputs[self.weight]


class SiteFinder:
    """Recognises the nodes of one model that can run in int8.

    Args:
        table: The ops that the target runs in int8.
        selection: The nodes that may be quantized.
        float_values: Names of tensors that cannot be quantized, and why.
    """

    def __init__(self, table: Int8Table, selection: Selection, float_values: Mapping[str, str]) -> None:
        self._table, self._selection, self._float_values = table, selection, float_values
        self._own_weights: dict[ir.Value | None, bool] = {}
        """Whether all nodes that read a weight are of one op."""

    def site(self, node: ir.Node) -> QuantSite | str:
        """Return how a node runs in int8, or why it cannot."""
        row = self._table.row(node)
        if row is None:
            return f"{node.op_type} has no int8 kernel on {self._table.provider}"
        if reason := self._selection.against(node) or _reason_against(node, row):
            return reason
        weight = axis = None
        if row.weight is not None:
            array = constant(node.inputs[row.weight])
            if array is not None:
                weight, axis = row.weight, output_channel_axis(node, row.weight)
                if reason := self._reason_against_weight(node, row, array, axis):
                    return reason
            elif row.data is None or row.weight not in row.data:
                return "its weight is not constant"
        bias = row.bias if row.bias is not None and row.bias < len(node.inputs) else None
        bias = None if bias is None or node.inputs[bias] is None else bias
        if bias is not None:
            array = constant(node.inputs[bias])
            if array is None:
                return "its bias is not constant"
            if array.ndim != 1 or not np.isfinite(array).all():
                return "its bias is no finite vector"
        data: list[int] = []
        constants: list[int] = []
        for index in row.data if row.data is not None else range(len(node.inputs)):
            if index == weight:
                continue
            value = node.inputs[index]
            array = constant(value)
            if array is None:
                data.append(index)
            elif row.role is Role.ARITHMETIC and array.size == 1 and np.isfinite(array).all():
                constants.append(index)
            else:
                return "an operand is a constant tensor"
            if value is None or value.dtype != ir.DataType.FLOAT:
                dtype = "unknown" if value is None or value.dtype is None else value.dtype.name
                return f"its input is {dtype}, not FLOAT"
        clamp = None if row.role is Role.MOVEMENT else _absorbed_clamp(node, self._table)
        site = QuantSite(node, row, tuple(data), tuple(constants), weight, axis, bias, clamp)
        names = (value.name or "" for value in (*site.operands(), *site.results))
        return next((self._float_values[name] for name in names if name in self._float_values), site)

    def _reason_against_weight(self, node: ir.Node, row: Row, array: npt.NDArray[np.generic], axis: int | None) -> str:
        """Return why the int8 kernel cannot take a weight; empty where it can."""
        assert row.weight is not None
        if row.rank is not None and array.ndim != row.rank:
            return f"its weight has {array.ndim} axes, the kernel wants {row.rank}"
        if not np.isfinite(array).all():
            return "its weight is not finite"
        if axis is None:
            return "which axis of its weight holds the output channels is not known"
        value = node.inputs[row.weight]
        if value not in self._own_weights:
            kinds = {(use.node.op_type, use.idx) for use in value.uses()} if value is not None else set()
            self._own_weights[value] = kinds == {(node.op_type, row.weight)}
        return "" if self._own_weights[value] else "its weight is also read by another op"


def _reason_against(node: ir.Node, row: Row) -> str:
    """Return why the int8 kernel of an op does not take a node; empty where it does."""
    for name, wanted in row.attributes.items():
        attribute = node.attributes.get(name)
        if attribute is not None and not np.all(np.asarray(attribute.value) == wanted):
            return f"its kernel is for {name} = {wanted}"
    if row.outputs and len([value for value in node.outputs if value.name]) > row.outputs:
        return "its int8 kernel has no second output"
    return ""


def _absorbed_clamp(node: ir.Node, table: Int8Table) -> ir.Node | None:
    """Return the clamp that alone reads the output of `node`. Zero must lie inside it: zero is always a level."""
    output = node.outputs[0]
    uses = tuple(output.uses())
    if len(uses) != 1 or uses[0].idx != 0 or output.is_graph_output() or uses[0].node.graph is not node.graph:
        return None
    limits = clamp_limits(uses[0].node, table)
    return uses[0].node if limits is not None and limits[0] <= 0.0 <= limits[1] else None


def clamp_limits(node: ir.Node, table: Int8Table) -> tuple[float, float] | None:
    """Return the interval that a clamp lets through; None where `node` is none, or its limits are not known."""
    clamp = table.clamp(node)
    if clamp is None:
        return None
    limits: list[float] = []
    for fixed, index in ((clamp.low, clamp.low_input), (clamp.high, clamp.high_input)):
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        array = constant(value)
        if value is not None and (array is None or array.size != 1):
            return None
        limits.append(fixed if array is None else float(array.reshape(())))
    return limits[0], limits[1]
