"""Writes a plan into the graph: weights and types in half precision, and casts where float32 begins and ends."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import as_tensor, constant
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.parameters import op_of

from .formats import HalfFormat, as_half
from .operands import is_float
from .plan import HalfPlan
from .storage import float_weights
from .table import OpFacts


class HalfWriter:
    """Converts one model in place.

    Args:
        model: The model; the types of its values are known.
        plan: Which nodes run in half precision.
        half: The format.
        masks: Values whose large negative numbers are cut.
        facts: What is known of ops.
    """

    def __init__(
        self, model: ir.Model, plan: HalfPlan, half: HalfFormat, masks: Collection[ir.Value], facts: OpFacts
    ) -> None:
        self._model, self._plan, self._half = model, plan, half
        self._masks, self._facts = masks, facts
        self._editor = Editor(model)
        self._cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._casts: set[ir.Node] = set()

    def write(self, stored: Collection[ir.Value], *, io: bool) -> None:
        """Convert nodes and weights.

        Args:
            stored: Float32 weights that are stored in half precision whoever reads them.
            io: Convert the float32 inputs and outputs of the model as well.
        """
        made = self._plan.half_values
        for value in made:
            self._set_type(value)
        for node in self._plan.half:
            self._set_result_type(node)
        weights = set(float_weights(self._model))
        for graph in main_graphs(self._model):
            for value in [value for value in graph.initializers.values() if value in weights]:
                self._convert_weight(value, graph, value in stored)
        if io:
            for value in self._model.graph.inputs:
                if is_float(value) and not value.is_initializer():
                    self._set_type(value)
                    made.add(value)
        for node, operands in self._plan.half.items():
            for index in operands.inputs:
                read = node.inputs[index]
                if read is not None and is_float(read):
                    node.replace_input_with(index, self._as(read, self._half.onnx_type))
        for value in made:
            self._cast_for_float_readers(value)
        self._outputs(made, io)
        self._model.graph.sort()

    def _set_type(self, value: ir.Value) -> None:
        value.type = ir.TensorType(self._half.onnx_type)

    def _reads_half(self, node: ir.Node, index: int) -> bool:
        operands = self._plan.half.get(node)
        return operands is not None and index in operands.inputs

    def _set_result_type(self, node: ir.Node) -> None:
        """Set the attribute that says the type of the result, of nodes that have one."""
        name = self._facts.result_type.get(op_of(node))
        if name is None or not self._plan.half[node].outputs:
            return
        if name != "value":
            node.attributes[name] = ir.AttrInt64(name, self._half.onnx_type.value)
            return
        given = node.attributes.get(name)
        array = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
        tensor = as_tensor(as_half(array, self._half, cut=node.outputs[0] in self._masks))
        node.attributes[name] = ir.AttrTensor(name, tensor)

    def _convert_weight(self, value: ir.Value, graph: ir.Graph, stored: bool) -> None:
        """Store a weight in half precision where its readers take it so, or where it is worth a Cast."""
        uses = list(value.uses())
        halves = [use for use in uses if self._reads_half(use.node, use.idx)]
        floats = [use for use in uses if not self._reads_half(use.node, use.idx)]
        if not uses or (not halves and not stored):
            return
        array = constant(value)
        assert array is not None, "it is a constant"
        converted = as_half(array, self._half, cut=value in self._masks)
        if floats and not stored:  # both are needed, and the one in float32 as it is
            twin = self._editor.initializer(f"{value.name}_{self._half.name}", converted, graph)
            for use in halves:
                use.node.replace_input_with(use.idx, twin)
            return
        value.const_value = as_tensor(converted, value.name)
        self._set_type(value)
        if floats:
            cast = self._add_cast(value, ir.DataType.FLOAT, graph)
            for use in floats:
                use.node.replace_input_with(use.idx, cast)

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return `value` in another type: one Cast for all readers."""
        key = value, dtype
        if key not in self._cast:
            maker = value.producer()
            graph = maker.graph if maker is not None else value.graph
            assert isinstance(graph, ir.Graph), "it is in the model"
            self._cast[key] = self._add_cast(value, dtype, graph)
        return self._cast[key]

    def _add_cast(self, value: ir.Value, dtype: ir.DataType, graph: ir.Graph) -> ir.Value:
        suffix = "float32" if dtype is ir.DataType.FLOAT else self._half.name
        node = ir.node("Cast", [value], {"to": dtype.value}, name="")
        output = node.outputs[0]
        output.name = self._editor.name(f"{value.name}_{suffix}")
        output.type, output.shape = ir.TensorType(dtype), value.shape
        self._casts.add(node)
        maker = value.producer()
        if maker is not None and maker.graph is graph:
            graph.insert_after(maker, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        return output

    def _cast_for_float_readers(self, value: ir.Value) -> None:
        """Let nodes that take float32 read a Cast of a value in half precision; outputs are not looked at."""
        for use in list(value.uses()):
            if use.node not in self._casts and not self._reads_half(use.node, use.idx):
                use.node.replace_input_with(use.idx, self._as(value, ir.DataType.FLOAT))

    def _outputs(self, made: Collection[ir.Value], io: bool) -> None:
        """Give the outputs of all graphs the types that they had, or those of the main graph half precision."""
        for graph in main_graphs(self._model):
            main = graph is self._model.graph
            casts: dict[ir.Value, ir.Value] = {}
            for index, value in enumerate(list(graph.outputs)):
                if value in made:
                    wanted = None if main and io else ir.DataType.FLOAT
                else:
                    wanted = self._half.onnx_type if main and io and is_float(value) else None
                if wanted is None:
                    continue
                if value not in casts:
                    casts[value] = self._add_cast(value, wanted, graph)
                graph.outputs[index] = casts[value]
            if main:
                for value, cast in casts.items():
                    self._take_name(cast, value)

    def _take_name(self, cast: ir.Value, value: ir.Value) -> None:
        """Let the Cast of an output have its name, by which users ask for it."""
        name, value.name = value.name, self._editor.name(f"{value.name}_inner")
        cast.name = name
