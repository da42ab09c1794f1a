"""What a model computes, as one text that does not depend on the names of inner values or on the order of nodes."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

from onnxslim.ops.traits import Trait, has


def canonical_form(model: ir.Model) -> str:
    """Return one line for each node of the main graph, sorted, and one for each output.

    Weights of floats count by type and shape: in another order of rules they were rounded in another order.
    """
    values: dict[ir.Value | None, str] = {None: "-"}
    lines = _of_graph(model.graph, values)
    return "\n".join([*sorted(lines), *(f"{value.name} = {values[value]}" for value in model.graph.outputs)])


def _of_graph(graph: ir.Graph, values: dict[ir.Value | None, str]) -> list[str]:
    for place, value in enumerate(graph.inputs):
        values[value] = f"input {place}"
    for value in graph.initializers.values():
        if value not in values and value.const_value is not None:
            tensor = value.const_value
            content = "" if tensor.dtype.is_floating_point() else _digest(repr(tensor.numpy().tolist()))
            values[value] = f"{tensor.dtype}{list(tensor.shape)}{content}"
    lines = []
    for node in graph:
        told = []
        for name, attribute in sorted(node.attributes.items()):
            if attribute.type is ir.AttributeType.GRAPH:
                inner = attribute.as_graph()
                body = sorted(_of_graph(inner, values))
                told.append(f"{name}={_digest(repr(body))} -> {[values[value] for value in inner.outputs]}")
            elif attribute.type is ir.AttributeType.TENSOR:
                told.append(f"{name}={attribute.as_tensor().numpy().tolist()}")
            else:
                told.append(f"{name}={attribute.value}")
        inputs = [values[value] for value in node.inputs]
        if has(node, Trait.COMMUTATIVE):
            inputs.sort()
        line = f"{node.domain}.{node.op_type} <{', '.join(told)}> ({', '.join(inputs)})"
        lines.append(line if len(line) < 400 else f"{node.op_type} {_digest(line)}")
        for place, output in enumerate(node.outputs):
            values[output] = f"{node.op_type}.{place} {_digest(line)}"
    return lines


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
