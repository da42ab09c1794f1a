"""Recognises the nodes that can run in int8: their activations, weight, bias, and the clamp that is absorbed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.bias import only_use
from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.model.constants import constant
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from .codes import QuantCode
from .gate_line import reason_against_line
from .table import Gate, Int8Table, Role, Row


@dataclasses.dataclass(frozen=True)
class QuantSite:
    """A node that can run in int8."""

    node: ir.Node
    row: Row
    data: tuple[int, ...]
    """Inputs that are activations."""
    constants: tuple[int, ...] = ()
    """Inputs among the activations that are constant: one number, or a tensor where everything is quantized."""
    product: Contraction | None = None
    """How it multiplies by a stored weight; None: it has none."""
    clamp: ir.Node | None = None
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

    @property
    def bias(self) -> ir.Value | None:
        """The stored bias that its kernel takes as int32."""
        own = None if self.product is None or self.row.bias is None else self.product.own_bias
        return None if own is None else own.value

    @functools.cached_property
    def data_indices(self) -> frozenset[int]:
        """The inputs that are activations, to look them up: a node may have thousands."""
        return frozenset(self.data)

    def operands(self) -> tuple[ir.Value, ...]:
        """Return the activations that it reads."""
        inputs = self.node.inputs
        return tuple(value for value in (inputs[index] for index in self.data) if value is not None)


class SiteFinder:
    """Recognises the nodes of one model that can run in int8: `float_values` says which tensors cannot, by name."""

    def __init__(self, table: Int8Table, selection: Selection, float_values: Mapping[str, Reason]) -> None:
        self._table, self._selection, self._float_values = table, selection, float_values
        self._of_one_op: dict[ir.Value, bool] = {}
        """Whether all nodes that read a weight are of one op."""

    def site(self, node: ir.Node) -> QuantSite | Reason:
        """Return how a node runs in int8, or why it cannot."""
        row = self._table.row(node)
        if row is None:
            return Reason(QuantCode.NO_KERNEL, (node.op_type, self._table.provider))
        if reason := self._selection.against(node) or _reason_against(node, row):
            return reason
        product = None
        if row.weight is not None and constant(node.inputs[row.weight]) is not None:
            product = next(
                (found for found in contractions([node], unranked=True) if found.weight_index == row.weight), None
            )
            if reason := self._reason_against_weight(node, row, row.weight, product):
                return reason
        elif row.weight is not None and row.weight not in (row.data or ()):
            return Reason(QuantCode.WEIGHT_COMPUTED)
        bias = node.inputs[row.bias] if row.bias is not None and row.bias < len(node.inputs) else None
        if bias is not None:
            array = constant(bias)
            if array is None:
                return Reason(QuantCode.BIAS_COMPUTED, values=(bias.name or "",))
            if array.ndim != 1 or not np.isfinite(array).all():
                return Reason(QuantCode.BIAS_NO_VECTOR, values=(bias.name or "",))
        data: list[int] = []
        constants: list[int] = []
        left_out = self._fused_operands(node) if row.residual else frozenset()
        if product is not None:
            left_out |= {product.weight_index}
        for index in row.data if row.data is not None else range(len(node.inputs)):
            if index >= len(node.inputs) or index in left_out:
                continue
            value = node.inputs[index]
            array = constant(value)
            names: tuple[str, ...] = () if value is None else (value.name or "",)
            if array is None:
                data.append(index)
            elif (
                row.role is Role.ARITHMETIC and (array.size == 1 or self._table.everywhere) and np.isfinite(array).all()
            ):
                constants.append(index)
            else:
                return Reason(QuantCode.CONSTANT_OPERAND, values=names)
            if value is None or value.dtype != ir.DataType.FLOAT:
                dtype = "unknown" if value is None or value.dtype is None else value.dtype.name
                return Reason(QuantCode.INPUT_TYPE, (dtype,), names)
        moved = row.role is Role.MOVEMENT or row.gate is Gate.RESULT  # levels stay what they are
        clamp = None if moved else _absorbed_clamp(node, self._table)
        site = QuantSite(node, row, tuple(data), tuple(constants), product, clamp)
        names = tuple(value.name or "" for value in (*site.operands(), *site.results))
        return next((self._float_values[name] for name in names if name in self._float_values), site)

    def _fused_operands(self, node: ir.Node) -> frozenset[int]:
        """Return the inputs that contractions make for `node` alone, but the first if there is no other input."""
        found = frozenset(
            index
            for index, value in enumerate(node.inputs)
            if value is not None
            and (producer := value.producer()) is not None
            and (row := self._table.row(producer)) is not None
            and row.role is Role.CONTRACTION
            and only_use(value) is not None
        )
        return found - {min(found)} if len(found) == len(node.inputs) else found

    def _reason_against_weight(self, node: ir.Node, row: Row, index: int, product: Contraction | None) -> Reason | None:
        """Return why the int8 kernel cannot take the constant input `index` as weight; None where it can."""
        weight = node.inputs[index]
        array = constant(weight)
        assert weight is not None
        assert array is not None
        if row.rank is not None and array.ndim != row.rank:
            return Reason(QuantCode.WEIGHT_RANK, (array.ndim, row.rank))
        if not np.isfinite(array).all():
            return Reason(QuantCode.WEIGHT_NOT_FINITE)
        if product is None or product.weight_axis is None:
            return Reason(QuantCode.WEIGHT_AXIS)
        if weight not in self._of_one_op:
            self._of_one_op[weight] = len({(use.node.op_type, use.idx) for use in weight.uses()}) == 1
        shared = not self._of_one_op[weight]
        return Reason(QuantCode.WEIGHT_OF_OTHER_OP, values=(weight.name or "",)) if shared else None


def _reason_against(node: ir.Node, row: Row) -> Reason | None:
    """Return why the int8 kernel of an op does not take a node; None where it does."""
    if row.wide:
        return Reason(QuantCode.KEPT_WIDE, (row.wide,))
    for name, wanted in row.attributes.items():
        attribute = node.attributes.get(name)
        if attribute is not None and not np.all(np.asarray(attribute.value) == wanted):
            return Reason(QuantCode.ATTRIBUTE, (name, wanted))
    if row.outputs and len([value for value in node.outputs if value.name]) > row.outputs:
        return Reason(QuantCode.SECOND_OUTPUT)
    return reason_against_line(node, row)


def _absorbed_clamp(node: ir.Node, table: Int8Table) -> ir.Node | None:
    """Return the clamp that alone reads the output of `node`. Zero must lie inside it: zero is always a level."""
    use = only_use(node.outputs[0])
    limits = None if use is None or use[1] else clamp_limits(use[0], table)
    return use[0] if use is not None and limits is not None and limits[0] <= 0.0 <= limits[1] else None


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
