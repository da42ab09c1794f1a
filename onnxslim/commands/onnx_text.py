"""Nodes as ONNX text on one line each: ``y = Conv <kernel_shape = [3, 3]> (x, w[64,3,3,3])``.

The syntax is that of onnx.printer but for constants: they carry their sizes, and what they hold where that is short.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

SHORT = 6
"""Constants and lists with at most so many elements are written out."""

Naming = Callable[[str], str]
"""What to write for the name of a value; the same for the same name."""


def op_title(node: ir.Node) -> str:
    """Return the op type of a node, behind its domain where that is not ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def node_text(node: ir.Node, naming: Naming = str) -> str:
    """Return a node as a line of text, its values renamed by `naming`; of subgraphs it tells the number of nodes."""
    outputs = ", ".join(naming(output.name or "") if output.name else "" for output in node.outputs).rstrip(", ")
    attributes = ", ".join(f"{name} = {attribute_text(node.attributes[name])}" for name in sorted(node.attributes))
    inputs = ", ".join("" if value is None else value_text(value, naming) for value in node.inputs)
    return f"{outputs} = {op_title(node)}{f' <{attributes}>' if attributes else ''} ({inputs})"


def value_text(value: ir.Value, naming: Naming = str) -> str:
    """Return a value: its name, and of a constant its sizes and, where they are few, its elements."""
    name, tensor = naming(value.name or ""), value.const_value
    if tensor is None:
        return name
    sizes = [size if isinstance(size, int) else str(size) for size in tensor.shape]
    if math.prod(size for size in sizes if isinstance(size, int)) > SHORT or len(sizes) > 1:
        return f"{name}[{','.join(map(str, sizes))}]"
    return f"{name}{{{', '.join(_element(element) for element in tensor.numpy().reshape(-1))}}}"


def attribute_text(attribute: ir.Attr) -> str:
    """Return the value of an attribute."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    value = attribute.value
    if isinstance(value, ir.Graph):
        return f"{{{len(list(value))} nodes}}"
    if isinstance(value, ir.TensorProtocol):
        shape = ",".join(map(str, value.shape))
        if value.size > SHORT:
            return f"{value.dtype.name.lower()}[{shape}]"
        elements = ", ".join(_element(element) for element in value.numpy().reshape(-1))
        return f"{value.dtype.name.lower()}[{shape}] {{{elements}}}"
    if isinstance(value, list | tuple):
        items = [_element(element) for element in value[:SHORT]] + (["..."] if len(value) > SHORT else [])
        return f"[{', '.join(items)}]"
    return _element(value)


def _element(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float | np.floating):
        return f"{float(value):g}"
    return str(value)


def numbering() -> Naming:
    """Return a naming that calls values %1, %2, ... in the order in which they are met."""
    known: dict[str, str] = {}
    return lambda name: known.setdefault(name, f"%{len(known) + 1}")
