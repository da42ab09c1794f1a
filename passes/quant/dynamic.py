"""Dynamic quantization: int8 weights, and activations whose scale is found while the model runs, so without samples.

A product becomes DynamicQuantizeLinear and MatMulInteger, scaled back; ONNX Runtime makes one kernel of it, or of the
products that read the same activations one for each and one quantization for all. Recurrences become the kernel that
the target names.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.analysis.cost import macs_by_value
from onnxslim.analysis.gemm import spread
from onnxslim.analysis.linear_layer import label
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, become, drop_unused, take_over
from onnxslim.ops.parameters import attribute
from onnxslim.pipeline.interface import Change, Context, LayerChange, Note, left_alone, remark
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection
from onnxslim.runtime.provider import load_provider, reading_table

from .codes import QuantCode
from .layer_bits import bits_change, share_in_int8
from .saturation import Saturation
from .weight_only.stored import SMALLEST, turn, turn_back
from .weights import QuantizedWeight, quantize_weight

DYNAMIC_OPSET = 11
"""DynamicQuantizeLinear is there since opset 11."""
BITS = 8


@dataclasses.dataclass(frozen=True)
class DynamicRow:
    """How a provider runs an op with int8 weights and activations that are quantized as it runs."""

    op_type: str
    becomes: tuple[str, ...]
    """What its optimizer makes of what is written, or what is written."""
    domain: str = ""
    """The domain of the op that is written; empty: the ops of ONNX itself are."""
    recurrent: bool = False
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What these must be, where the node has them."""


@functools.cache
def load_dynamic_rows(provider: str) -> Mapping[str, DynamicRow]:
    """Return the ops that `provider` runs so, by op type.

    Raises:
        ExtensionError: It comes from another distribution, and its table cannot be read.
    """
    with reading_table(provider, "dynamic"):
        content = load_provider(provider).dynamic.items()
        return {
            op_type: DynamicRow(op_type, **{**columns, "becomes": tuple(columns["becomes"])})
            for op_type, columns in content
        }


@dataclasses.dataclass(frozen=True)
class DynamicSettings:
    """The options of the pass that concern dynamic quantization."""

    saturation: Saturation
    per_channel: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]


def quantize_dynamically(model: ir.Model, settings: DynamicSettings, provider: str, context: Context) -> Change:
    """Give products and recurrences of `model` int8 weights, in place, or say why not."""
    rows = load_dynamic_rows(provider)
    if not rows:
        return Change(False, (left_alone("model", Reason(QuantCode.NOTHING_DYNAMIC, (provider,))),))
    infer_shapes(model)
    working, notes = model, list[Note]()
    if model.graph.opset_imports[""] < DYNAMIC_OPSET:
        newer = upgraded(model)
        if isinstance(newer, Reason):
            return Change(False, (left_alone("model", newer),))
        working = newer
        notes.append(remark("model", f"opset {newer.graph.opset_imports['']}", "DynamicQuantizeLinear is there"))
    selection = Selection(settings.include, settings.exclude, working, context.original)
    notes += selection.unmatched()
    spread(working, lambda node: not selection.against(node))
    copies = turn(working)
    macs = macs_by_value(working, {name: np.shape(array) for name, array in context.samples.first().items()})
    writer = _DynamicWriter(working, settings)
    products = {found.node: found for found in contractions(working.graph, unranked=True) if found.weight_index == 1}
    left: list[Note] = []
    layers: list[LayerChange] = []
    for node in list(working.graph):
        row = None if node.domain else rows.get(node.op_type)
        if row is None:
            if any(found is node for found in products):
                left.append(left_alone(label(node), Reason(QuantCode.NO_DYNAMIC_KERNEL, (node.op_type, provider))))
            continue
        reason = selection.against(node) or _against(node, row, products.get(node))
        if reason is not None:
            left.append(left_alone(label(node), reason))
            continue
        work = macs.get(node.outputs[0].name or "", 0)
        layers.append(bits_change(node, BITS, work))
        if row.recurrent:
            writer.write_recurrence(node, row)
        else:
            writer.write_product(products[node])
    if not layers:
        return Change(False, (left_alone("model", Reason(QuantCode.NOTHING_QUANTIZABLE, ("",))), *notes, *left))
    turn_back(working, copies)
    drop_unused(working.graph)
    working.graph.sort()
    if working is not model:
        become(model, working)
    done = [Note(layer.layer, "int8, activations as they come") for layer in layers]
    return Change(True, (*share_in_int8(layers, macs), *notes, *done, *left), tuple(layers))


def _against(node: ir.Node, row: DynamicRow, product: Contraction | None) -> Reason | None:
    """Return why a node stays float; None where it need not."""
    for name, wanted in row.attributes.items():
        if attribute(node, name) not in (None, wanted):
            return Reason(QuantCode.ATTRIBUTE, (name, wanted))
    weights = [node.inputs[index] for index in ((1, 2) if row.recurrent else (1,))]
    arrays = [constant(weight) for weight in weights]
    for weight, array in zip(weights, arrays, strict=True):
        if array is None or weight is None or not weight.is_initializer():
            return Reason(QuantCode.WEIGHT_COMPUTED)
        if weight.dtype is not ir.DataType.FLOAT:
            return Reason(QuantCode.INPUT_TYPE, ("" if weight.dtype is None else weight.dtype.name,))
        if not np.isfinite(array).all():
            return Reason(QuantCode.WEIGHT_NOT_FINITE)
        if array.size < SMALLEST:
            return Reason(QuantCode.TOO_SMALL, (array.size, SMALLEST))
    if row.recurrent:
        return None
    rank = arrays[0].ndim if arrays[0] is not None else 0
    if rank != 2 or product is None or product.weight_axis is None or not product.plain:
        return Reason(QuantCode.WEIGHT_RANK, (rank, 2)) if rank != 2 else Reason(QuantCode.WEIGHT_AXIS)
    return None


class _DynamicWriter:
    """Writes products and recurrences with int8 weights into a model, in place."""

    def __init__(self, model: ir.Model, settings: DynamicSettings) -> None:
        self._model, self._graph, self._settings = model, model.graph, settings
        self._editor = Editor(model)
        self._quantized: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = {}

    def write_product(self, product: Contraction) -> None:
        """Put integers in the place of a product of rows by a weight."""
        node, data = product.node, product.data
        bias = product.own_bias
        summand = None if bias is None else bias.value
        levels, weight_scale = self._weight(product)
        if data not in self._quantized:
            self._quantized[data] = self._quantize(data)
        integers, scale, zero_point = self._quantized[data]
        made = self._add("MatMulInteger", [integers, levels, zero_point], {}, ir.DataType.INT32)
        converted = self._add("Cast", [made], {"to": ir.DataType.FLOAT.value}, ir.DataType.FLOAT)
        both = self._add("Mul", [scale, weight_scale], {}, ir.DataType.FLOAT)
        result = self._add("Mul", [converted, both], {}, ir.DataType.FLOAT)
        if summand is not None:
            result = self._add("Add", [result, summand], {}, ir.DataType.FLOAT)
        take_over(result, node.outputs[0])
        maker = result.producer()
        assert maker is not None, "a node makes it"
        self._graph.remove(node, safe=True)
        maker.name = node.name

    def write_recurrence(self, node: ir.Node, row: DynamicRow) -> None:
        """Put the kernel for int8 weights in the place of a recurrence."""
        parts = [self._recurrent_weight(node.inputs[index]) for index in (1, 2)]
        inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
        inputs[1:3] = [levels for levels, _, _ in parts]
        inputs += [value for _, *others in parts for value in others]
        attributes = [entry for name, entry in node.attributes.items() if name not in row.attributes]
        (becomes,) = row.becomes
        made = ir.Node(row.domain, becomes, inputs, attributes, num_outputs=len(node.outputs), name=node.name)
        self._model.opset_imports.setdefault(row.domain, 1)
        self._graph.insert_before(node, made)
        for new, old in zip(made.outputs, node.outputs, strict=True):
            take_over(new, old)
        self._graph.remove(node, safe=True)

    def _weight(self, product: Contraction) -> tuple[ir.Value, ir.Value]:
        """Return the levels of a weight, shape [columns, outputs], and its scales."""
        weight, axis = product.weight, product.weight_axis
        array = constant(weight)
        assert axis is not None
        assert array is not None
        if (weight, axis) not in self._weights:
            quantized = self._int8(array, axis)
            levels = quantized.levels if axis else np.ascontiguousarray(quantized.levels.T)
            self._weights[weight, axis] = (
                self._editor.initializer(f"{weight.name}_int8", levels),
                self._editor.initializer(f"{weight.name}_scale", quantized.scale),
            )
        return self._weights[weight, axis]

    def _recurrent_weight(self, weight: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return the levels of a weight [directions, outputs, columns] turned, its scales and its zero points."""
        array = constant(weight)
        assert weight is not None
        assert array is not None
        made = [self._int8(direction, 0) for direction in array]
        levels = np.stack([np.ascontiguousarray(part.levels.T) for part in made])
        scale = np.stack([part.scale for part in made])
        return (
            self._editor.initializer(f"{weight.name}_int8", levels),
            self._editor.initializer(f"{weight.name}_scale", scale.reshape(len(made), -1) if scale.ndim > 1 else scale),
            self._editor.constant("zero_", np.zeros(scale.shape, np.int8)),
        )

    def _int8(self, array: Any, axis: int) -> QuantizedWeight:
        return quantize_weight(
            array.astype(np.float32, copy=False),
            axis,
            packing="plain",
            saturation=self._settings.saturation,
            per_channel=self._settings.per_channel,
        )

    def _quantize(self, data: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        node = ir.node("DynamicQuantizeLinear", [data], num_outputs=3, name="")
        self._graph.append(node)
        kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
        for output, kind in zip(node.outputs, kinds, strict=True):
            output.name, output.type = self._editor.numbered("d"), ir.TensorType(kind)
        integers, scale, zero_point = node.outputs
        return integers, scale, zero_point

    def _add(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any], dtype: ir.DataType
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name="")
        self._graph.append(node)
        node.outputs[0].name, node.outputs[0].type = self._editor.numbered("d"), ir.TensorType(dtype)
        return node.outputs[0]
