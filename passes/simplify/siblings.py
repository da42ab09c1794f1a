"""Merges matrix products and convolutions that share an input into one, and splits what it makes.

    q = MatMul (x, a)  k = MatMul (x, b)    ->    t = MatMul (x, [a b])  q, k = Split (t)

One large product uses caches and threads better than some small ones. A Split copies what it splits, so that this pays
for products with much to do, and not for all: the pass does it only when asked to. No rule can say it: there may be any
number of siblings.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, take_over
from onnxslim.model.nesting import main_graphs

SPLIT_SIZES_ARE_INPUT = 13
"""Since this opset."""


def merge_siblings(model: ir.Model) -> int:
    """Merge products and convolutions that share an input, and differ only in constants. Returns how many went."""
    opset = model.opset_imports.get("", 0)
    editor = Editor(model)
    return sum(_merge(editor, graph, opset) for graph in main_graphs(model))


def _merge(editor: Editor, graph: ir.Graph, opset: int) -> int:
    families: dict[Hashable, list[Contraction]] = {}
    for layer in contractions(graph):
        key = _key(layer)
        if key is not None:
            families.setdefault(key, []).append(layer)
    count = 0
    for layers in families.values():
        if len(layers) > 1:
            _join(editor, graph, layers, opset)
            count += len(layers) - 1
    return count


def _key(layer: Contraction) -> Hashable | None:
    """Return what siblings have in common, or None for a layer that can have none."""
    node, weight, bias = layer.node, layer.weight.const_value, _bias(layer)
    read = {layer.data, layer.weight, bias}
    if weight is None or layer.weight_axis is None or _result_axis(layer) is None:
        return None
    if not layer.plain or layer.groups != 1:
        return None
    if any(value is not None and value not in read for value in node.inputs) or len(node.outputs) != 1:
        return None
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    if bias is not None and ((array := constant(bias)) is None or array.shape != (layer.outputs,)):
        return None
    if not layer.window and len(weight.shape) != 2:
        return None
    sizes = [None if index == layer.weight_axis else size for index, size in enumerate(weight.shape)]
    attributes = sorted((name, attribute.type, repr(attribute.value)) for name, attribute in node.attributes.items())
    return node.op_identifier(), layer.data, layer.weight_index, tuple(sizes), weight.dtype, bias is None, *attributes


def _bias(layer: Contraction) -> ir.Value | None:
    return None if layer.own_bias is None else layer.own_bias.value


def _result_axis(layer: Contraction) -> int | None:
    """Return the axis of the result along which outputs lie, counted from the end where runs of axes precede it."""
    dimensions = layer.fitted.signature.outputs[0].dimensions
    index = next((i for i, dimension in enumerate(dimensions) if set(layer.result) <= set(dimension.factors)), None)
    if index is None:
        return None
    return index - len(dimensions) if any(dimension.ellipsis for dimension in dimensions[:index]) else index


def _join(editor: Editor, graph: ir.Graph, layers: list[Contraction], opset: int) -> None:
    first, node, name = layers[0], layers[0].node, layers[0].node.outputs[0].name
    weight_axis, result_axis = first.weight_axis, _result_axis(first)
    assert weight_axis is not None, "or it would be no sibling"
    assert result_axis is not None, "or it would be no sibling"
    axes = {first.weight_index: weight_axis}
    if first.bias_index is not None and _bias(first) is not None:
        axes[first.bias_index] = 0
    inputs = list(node.inputs)
    for index, axis in axes.items():
        arrays = [array for layer in layers if (array := constant(layer.node.inputs[index])) is not None]
        value = node.inputs[index]
        label = "" if value is None else value.name
        inputs[index] = editor.initializer(f"{label}/siblings", np.concatenate(arrays, axis=axis), graph)
    merged = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        name=editor.name(f"{node.name or name}/siblings"),
    )
    merged.outputs[0].name = editor.name(f"{name}/siblings")
    sizes = [layer.outputs for layer in layers]
    read, attributes = [merged.outputs[0]], [ir.AttrInt64("axis", result_axis)]
    if opset >= SPLIT_SIZES_ARE_INPUT:
        read.append(editor.initializer(f"{name}/sizes", np.array(sizes, np.int64), graph))
    else:
        attributes.append(ir.AttrInt64s("split", sizes))
    split = ir.Node("", "Split", read, attributes, num_outputs=len(layers), name=editor.name(f"{merged.name}/split"))
    graph.insert_before(node, [merged, split])
    for layer, new in zip(layers, split.outputs, strict=True):
        take_over(new, layer.node.outputs[0])
        graph.remove(layer.node, safe=True)
