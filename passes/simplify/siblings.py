"""Merges matrix products and convolutions that share an input into one, and splits what it makes.

    q = MatMul (x, a)  k = MatMul (x, b)    ->    t = MatMul (x, [a b])  q, k = Split (t)

One large product uses caches and threads better than some small ones. A Split copies what it splits, so that this pays
for products with much to do, and not for all: the pass does it only when asked to. No rule can say it: there may be any
number of siblings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, take_over
from onnxslim.model.nesting import main_graphs


@dataclasses.dataclass(frozen=True)
class _Shared:
    """How ops of a kind are joined."""

    weight: int
    """The axis of the weight along which outputs lie."""
    result: int
    """The axis of the result along which they lie."""


KINDS: Mapping[str, _Shared] = {"MatMul": _Shared(-1, -1), "Gemm": _Shared(-1, -1), "Conv": _Shared(0, 1)}
SPLIT_SIZES_ARE_INPUT = 13
"""Since this opset."""


def merge_siblings(model: ir.Model) -> int:
    """Let MatMul, Gemm and Conv that share an input, and differ only in constants, be one. Returns how many went."""
    opset = model.opset_imports.get("", 0)
    editor = Editor(model)
    return sum(_merge(editor, graph, opset) for graph in main_graphs(model))


def _merge(editor: Editor, graph: ir.Graph, opset: int) -> int:
    families: dict[Hashable, list[ir.Node]] = {}
    for node in graph:
        key = _key(node)
        if key is not None:
            families.setdefault(key, []).append(node)
    count = 0
    for family in families.values():
        if len(family) > 1:
            _join(editor, graph, family, opset)
            count += len(family) - 1
    return count


def _key(node: ir.Node) -> Hashable | None:
    """Return what siblings have in common, or None for what has none."""
    if node.op_type not in KINDS or node.domain or len(node.inputs) < 2 or node.inputs[0] is None:
        return None
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    weight = node.inputs[1]
    if weight is None or weight.is_graph_input() or weight.const_value is None or weight.shape is None:
        return None
    sizes = list(weight.shape)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if (node.op_type != "Conv" and len(sizes) != 2) or attributes.get("group", 1) != 1:
        return None
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        return None  # each would have its own
    axis = _weight_axis(node)
    sizes[axis] = -1
    bias = _bias(node)
    if bias is not None and (constant(bias) is None or bias.shape is None or len(bias.shape) != 1):
        return None
    if bias is not None and bias.shape is not None and weight.shape is not None and bias.shape[0] != weight.shape[axis]:
        return None
    told = tuple(sorted((name, tuple(v) if isinstance(v, (list, tuple)) else v) for name, v in attributes.items()))
    return (node.op_type, node.inputs[0], tuple(sizes), weight.dtype, bias is None, told)


def _weight_axis(node: ir.Node) -> int:
    turned = node.attributes.get("transB")
    return 0 if turned is not None and turned.as_int() else KINDS[node.op_type].weight


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _join(editor: Editor, graph: ir.Graph, family: list[ir.Node], opset: int) -> None:
    first, axis = family[0], _weight_axis(family[0])
    places = [1] if _bias(first) is None else [1, 2]
    joined = []
    for place in places:
        arrays = [array for node in family if (array := constant(node.inputs[place])) is not None]
        whole = np.concatenate(arrays, axis=axis if place == 1 else 0)
        joined.append(editor.initializer(f"{first.inputs[place].name}/siblings", whole, graph))  # type: ignore[union-attr]  # known, or it would be no sibling
    weights = [array for node in family if (array := constant(node.inputs[1])) is not None]
    sizes = [int(array.shape[axis]) for array in weights]
    name = first.outputs[0].name
    merged = ir.Node(
        "",
        first.op_type,
        [first.inputs[0], *joined],
        list(first.attributes.values()),
        name=editor.name(f"{first.name or name}/siblings"),
    )
    merged.outputs[0].name = editor.name(f"{name}/siblings")
    inputs, attributes = [merged.outputs[0]], [ir.AttrInt64("axis", KINDS[first.op_type].result)]
    if opset >= SPLIT_SIZES_ARE_INPUT:
        inputs.append(editor.initializer(f"{name}/sizes", np.array(sizes, np.int64), graph))
    else:
        attributes.append(ir.AttrInt64s("split", sizes))
    split = ir.Node("", "Split", inputs, attributes, num_outputs=len(family), name=editor.name(f"{merged.name}/split"))
    graph.insert_before(first, [merged, split])
    for node, new in zip(family, split.outputs, strict=True):
        take_over(new, node.outputs[0])
        graph.remove(node, safe=True)
