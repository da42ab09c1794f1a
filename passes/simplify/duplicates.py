"""Merges what is there twice: equal initializers, and nodes that compute the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.fold import may_evaluate
from onnxslim.arrays import Array
from onnxslim.model.constants import constant
from onnxslim.model.edit import note_same
from onnxslim.model.nesting import every_graph, main_graphs, nested_graphs
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.match import default_of

PREFIX_BYTES = 4096
"""Read of every initializer first; whole ones are read only where that much is equal."""


def merge_equal_initializers(model: ir.Model) -> int:
    """Let initializers with equal contents be one, within each graph. Returns how many went.

    Vectors of floats stay apart: biases and scales are often equal by accident (zeros, ones), and passes that shrink or
    quantize them one by one would then find them tied. Weights are read one after another, and hashed, not kept.
    """
    return sum(_merge_initializers(graph) for graph in main_graphs(model))


def _merge_initializers(graph: ir.Graph) -> int:
    alike: dict[Hashable, list[ir.Value]] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or not value.uses():
            continue
        floats = tensor.dtype.is_floating_point()
        if floats and tensor.shape.rank() == 1 and tensor.size > 1:
            continue
        alike.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
    count = 0
    for whole in (False, True):
        groups: dict[Hashable, list[ir.Value]] = {}
        for key, values in alike.items():
            for value in values if len(values) > 1 else ():
                groups.setdefault((key, _digest(value, whole)), []).append(value)
        alike = groups
    for values in alike.values():
        for value in values[1:]:
            value.replace_all_uses_with(values[0])
            del graph.initializers[value.name or ""]
            count += 1
    return count


def _digest(value: ir.Value, whole: bool) -> bytes:
    array = constant(value)
    if array is None:
        return b""
    if array.dtype.kind in "OSU":
        return repr(array.tolist()).encode()
    if array.size > PREFIX_BYTES and _is_filled(array):
        return (value.name or "").encode()  # a large constant of one value is equal to others by accident
    data: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.blake2b((data if whole else data[:PREFIX_BYTES]).data).digest()


def _is_filled(array: Array) -> bool:
    first = array.reshape(-1)[:PREFIX_BYTES]
    return bool(np.all(first == first[0]))


def merge_equal_nodes(model: ir.Model) -> int:
    """Let nodes of one graph that have the same op, attributes and inputs be one. Returns how many went.

    Random ops stay apart, and so do ops with subgraphs, ops of other domains, and quantizers. (The pass of onnx_ir
    merges Bernoulli and quantizers, and does not look into subgraphs.)
    """
    opset = model.opset_imports.get("", 0)
    return sum(_merge_nodes(graph, opset) for graph in every_graph(model))


def _merge_nodes(graph: ir.Graph, opset: int) -> int:
    seen: dict[Hashable, ir.Node] = {}
    merged: list[tuple[str, str]] = []
    count = 0
    for node in list(graph):
        key = _key(node, opset)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is node:
            continue
        if any(output.is_graph_output() for output in node.outputs):
            continue  # it gives an output its name: nothing would be saved but a copy
        for old, new in zip(node.outputs, first.outputs, strict=True):
            old.replace_all_uses_with(new)
            merged.append((old.name or "", new.name or ""))
            new.type = new.type or old.type
            new.shape = new.shape or old.shape
        graph.remove(node, safe=True)
        count += 1
    note_same(graph, merged)
    return count


def _key(node: ir.Node, opset: int) -> Hashable | None:
    """Return what is equal for nodes that compute the same; None for nodes that are never merged.

    An attribute that is written out at its default is as good as none.
    """
    # Execution providers expect each op to have quantizers of its own.
    if not may_evaluate(node) or has(node, Trait.QUANTIZES) or any(nested_graphs(node)):
        return None
    attributes: list[tuple[Hashable, ...]] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref():
            attributes.append((name, "@", attribute.ref_attr_name))
        elif attribute.type is ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            attributes.append((name, str(tensor.dtype), tensor.shape.numpy(), tensor.tobytes()))
        else:
            value, usual = attribute.value, default_of(node, name, opset)
            if usual is not None and usual.value == value:
                continue
            attributes.append((name, attribute.type, tuple(value) if isinstance(value, (list, tuple)) else value))
    made = tuple(bool(output.name) for output in node.outputs)  # an output without a name cannot be read
    key = (node.op_type, tuple(id(value) for value in node.inputs), made, tuple(attributes))
    try:
        hash(key)
    except TypeError:
        return None
    return key
