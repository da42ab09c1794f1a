"""Activations that are rounded to levels, as floats: between QuantizeLinear and DequantizeLinear nothing is rounded.

What lies outside the levels is cut off as before. It must be: a Relu in front of a QuantizeLinear whose levels end at
zero is often left out, because quantization does the same.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.quantized import level_ends
from onnxslim.arrays import Array
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has, having

from .forms import float_form

LAYOUT, SOFTMAX_OPSET = "channels_last", "opset"
"""Attributes that the ops of floats do not have: the axis of the channels, and which Softmax it is."""
UNARY_INPUTS = 4
"""At least: the levels, their scale and zero point, the scale of the result."""
LEVELS_SCALE_ZERO = ("levels", "scale", "zero point")
"""What quantization on the way makes of its one input."""
NEW_SOFTMAX = 13
"""Softmax works along one axis since this opset."""


def spread_unary(model: ir.Model) -> int:
    """Give ops of one operand of integers, and those that join any number, a form of floats; return how many."""
    editor, count = Editor(model), 0
    for graph in main_graphs(model):
        for node in list(graph):
            op_type = float_form("unary", node)
            if op_type is not None and len(node.inputs) >= UNARY_INPUTS and not attribute(node, LAYOUT):
                if attribute(node, SOFTMAX_OPSET) not in (None, *range(NEW_SOFTMAX, 100)):
                    continue
                own = [given for name, given in node.attributes.items() if name not in (LAYOUT, SOFTMAX_OPSET)]
                result = node.inputs[3], node.inputs[4] if len(node.inputs) > 4 else None
                operands = [_dequantized(editor, graph, node, *node.inputs[:3])]
                _quantized(editor, graph, node, ir.Node("", op_type, operands, own), *result)
                count += 1
            elif (op_type := float_form("joined", node)) is not None and len(node.inputs) % 3 == 2:
                parts = [node.inputs[index : index + 3] for index in range(2, len(node.inputs), 3)]
                operands = [_dequantized(editor, graph, node, *part) for part in parts]
                made = ir.Node("", op_type, operands, list(node.attributes.values()))
                _quantized(editor, graph, node, made, *node.inputs[:2])
                count += 1
    return count


def _dequantized(
    editor: Editor, graph: ir.Graph, node: ir.Node, levels: ir.Value | None, *parameters: ir.Value | None
) -> ir.Value:
    made = ir.Node("", "DequantizeLinear", [levels, *parameters], name="")
    made.outputs[0].name = editor.name(f"{levels.name if levels else ''}/float")
    graph.insert_before(node, made)
    return made.outputs[0]


def _quantized(
    editor: Editor, graph: ir.Graph, node: ir.Node, made: ir.Node, scale: ir.Value | None, zero: ir.Value | None
) -> None:
    """Put `made` and a QuantizeLinear in the place of `node`."""
    old = node.outputs[0]
    made.name, made.outputs[0].name = node.name, editor.name(f"{old.name}/float")
    levels = ir.Node("", "QuantizeLinear", [made.outputs[0], scale, zero], name="")
    graph.insert_before(node, [made, levels])
    new = levels.outputs[0]
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = old.name
    graph.remove(node, safe=True)


class Floats:
    """Follows levels from where floats become levels to where they become floats again, through what moves them."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._editor = Editor(model)
        self.removed = 0
        """DequantizeLinear nodes that went."""

    def run(self) -> int:
        """Let everything read floats that read floats made of levels made of floats; return how many pairs went."""
        for graph in main_graphs(self._model):
            for node in having([graph], Trait.QUANTIZES):
                scale, zero = _parameters(node)
                if scale is not None and zero is not None and self._is_read(node.outputs[0]):
                    self._follow(node.outputs[0], self._clipped(graph, node, scale, zero), scale, zero)
            for node in list(graph):
                if len(node.inputs) == 1 and len(node.outputs) == len(LEVELS_SCALE_ZERO):
                    self._follow_dynamic(node)
            for node in having([graph], Trait.DEQUANTIZES):
                self._follow_stored(graph, node)
        return self.removed

    def _is_read(self, levels: ir.Value) -> bool:
        """Whether a DequantizeLinear reads them somewhere, itself or behind nodes that move them."""
        for use in levels.uses():
            if use.idx == 0 and has(use.node, Trait.DEQUANTIZES):
                return True
            goes_on = has(use.node, Trait.MOVEMENT) or level_ends(use.node) is not None
            if use.idx == 0 and goes_on and any(map(self._is_read, use.node.outputs)):
                return True
        return False

    def _clipped(self, graph: ir.Graph, node: ir.Node, scale: Array, zero: Array) -> ir.Value:
        """Return the input of a QuantizeLinear, cut off where its levels end."""
        info = np.iinfo(zero.dtype)
        return self._cut(graph, node, node.inputs[0], (info.min, info.max), scale, zero)

    def _cut(
        self,
        graph: ir.Graph,
        node: ir.Node,
        source: ir.Value | None,
        ends: tuple[int, int],
        scale: Array,
        zero: Array,
    ) -> ir.Value:
        """Return a value cut off where levels end, by a node behind another one."""
        reals = [np.asarray((np.float64(end) - zero) * scale, scale.dtype) for end in ends]
        made = ir.Node("", "Clip", [source, *(self._editor.initializer("level", end, graph) for end in reals)], name="")
        value = made.outputs[0]
        value.name = self._editor.name(f"{source.name if source else ''}/clipped")
        if source is not None:
            value.type, value.shape = source.type, source.shape
        graph.insert_after(node, made)
        return value

    def _rescaled(
        self, node: ir.Node, floats: ir.Value, made: tuple[Array, Array], read: tuple[Array, Array]
    ) -> ir.Value:
        """Return what levels that were made with one scale and zero point stand for on another, in front of `node`."""
        (scale, zero), (own_scale, own_zero) = made, read
        widened = self._with_number(node, "Mul", floats, np.float64(own_scale) / np.float64(scale))
        offset = (np.float64(zero) - np.float64(own_zero)) * np.float64(own_scale)
        return self._with_number(node, "Add", widened, offset)

    def _with_number(self, node: ir.Node, op_type: str, floats: ir.Value, number: np.float64) -> ir.Value:
        graph = node.graph
        assert graph is not None
        scale = constant(node.inputs[1])
        assert scale is not None
        operand = self._editor.initializer("level", np.asarray(number, scale.dtype), graph)
        made = ir.Node("", op_type, [floats, operand], name="")
        graph.insert_before(node, made)
        value = made.outputs[0]
        value.name = self._editor.name(f"{node.outputs[0].name}/rescaled")
        value.type, value.shape = floats.type, floats.shape
        return value

    def _follow(self, levels: ir.Value, floats: ir.Value, scale: Array, zero: Array) -> None:
        """Let the readers of `levels` read `floats`, where they make the same floats of them or only move them."""
        for use in tuple(levels.uses()):
            node = use.node
            if use.idx != 0:
                continue
            if has(node, Trait.DEQUANTIZES):
                own_scale, own_zero = _parameters(node)
                if _same(own_scale, scale) and _same(own_zero, zero):
                    self._replace(node, floats)
                elif own_scale is not None and own_zero is not None and _rescalable(scale, own_scale):
                    self._replace(node, self._rescaled(node, floats, (scale, zero), (own_scale, own_zero)))
            elif node.graph is not None and (ends := level_ends(node)) is not None and self._is_read(node.outputs[0]):
                self._follow(node.outputs[0], self._cut(node.graph, node, floats, ends, scale, zero), scale, zero)
            elif has(node, Trait.MOVEMENT) and node.graph is not None and any(map(self._is_read, node.outputs)):
                moved = ir.Node(
                    node.domain,
                    node.op_type,
                    [floats, *node.inputs[1:]],
                    list(node.attributes.values()),
                    num_outputs=len(node.outputs),
                    name=self._editor.name(f"{node.name or node.op_type}/float"),
                )
                node.graph.insert_after(node, moved)
                for old, new in zip(node.outputs, moved.outputs, strict=True):
                    new.name = self._editor.name(f"{old.name}/float") if old.name else ""
                    new.shape, new.type = old.shape, floats.type
                    self._follow(old, new, scale, zero)

    def _follow_dynamic(self, node: ir.Node) -> None:
        """Follow levels whose scale and zero point are made with them: they cover what there is; nothing is cut off."""
        for use in tuple(node.outputs[0].uses()):
            reader = use.node
            if use.idx == 0 and has(reader, Trait.DEQUANTIZES) and list(reader.inputs[1:]) == list(node.outputs[1:]):
                self._replace(reader, node.inputs[0])

    def _follow_stored(self, graph: ir.Graph, node: ir.Node) -> None:
        """Follow stored levels that are moved, as the rows of a table are, to where they become floats."""
        scale, zero = _parameters(node)
        value, moved = node.inputs[0], False
        while value is not None and (producer := value.producer()) is not None and has(producer, Trait.MOVEMENT):
            value, moved = producer.inputs[0], True
        levels = constant(value)
        if not moved or value is None or levels is None or scale is None or zero is None:
            return
        floats = ((levels.astype(np.float32) - zero.astype(np.float32)) * scale).astype(scale.dtype)
        self._follow(value, self._editor.initializer(f"{value.name}/float", floats, graph), scale, zero)

    def _replace(self, node: ir.Node, floats: ir.Value | None) -> None:
        assert floats is not None
        old = node.outputs[0]
        if old.is_graph_output():  # the output of a model keeps its name
            identity = ir.Node("", "Identity", [floats], name="")
            assert node.graph is not None
            node.graph.insert_before(node, identity)
            floats = identity.outputs[0]
            floats.type, floats.shape = old.type, old.shape
            old.replace_all_uses_with(floats, replace_graph_outputs=True)
            old.name, floats.name = self._editor.name(f"{old.name}/rounded"), old.name
        else:
            old.replace_all_uses_with(floats)
        self.removed += 1
        if node.graph is not None:
            node.graph.remove(node, safe=True)


def _parameters(node: ir.Node) -> tuple[Array | None, Array | None]:
    """Return the scale and the zero point of a node where they are one constant number each, be it repeated."""
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros((), np.uint8)
    if scale is None or zero is None or zero.dtype.kind not in "iu":
        return None, None
    if any(array.size == 0 or (array != array.flat[0]).any() for array in (scale, zero)):
        return None, None
    return np.asarray(scale.flat[0]), np.asarray(zero.flat[0])


def _rescalable(made: Array, read: Array) -> bool:
    """Whether what is made on a scale can be told in numbers that are read on another."""
    with np.errstate(all="ignore"):
        factor = np.float64(read) / np.float64(made)
    return made.dtype == read.dtype and bool(np.isfinite(factor.astype(made.dtype)) and made > 0)


def _same(one: Array | None, other: Array) -> bool:
    return one is not None and one.dtype == other.dtype and bool(one == other)
