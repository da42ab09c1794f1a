"""The parameters of an op: attributes with the defaults of their operator set, and inputs that are no data."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import onnx
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.schemas import find_schema
from onnxslim.ops.fact import Element, Unknowable, elements_of
from onnxslim.ops.signatures import OpName

Attribute = int | float | str | Sequence[int]


class NodeReader(Protocol):
    """A node whose parameters are read; of an input, what is known before the model runs."""

    @property
    def node(self) -> ir.Node:
        """The node."""
        ...

    @property
    def version(self) -> int:
        """The operator set of the node's domain."""
        ...

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        ...

    def elements(self, index: int) -> tuple[Element, ...] | None:
        """Return the elements of an input, None for each that is not known; None where not even their number is."""
        ...


def read(site: NodeReader, name: str, default: Any = None) -> Any:
    """Return an attribute of a node, or what its operator set takes for it, or `default`.

    Raises:
        Unknowable: It is a parameter of the local function that the node is in.
    """
    if default is not None and name not in site.node.attributes:
        return default
    return attribute(site.node, name, site.version)


def entries(site: NodeReader, name: str, index: int) -> tuple[Element, ...] | None:
    """Return numbers that are an attribute in older operator sets and the input `index` in newer ones: None for each
    that is not known, None where there are none, or not even their number is known.

    Raises:
        Unknowable: The attribute is a parameter of the local function that the node is in.
    """
    if name in site.node.attributes:
        value = read(site, name)
        return (value,) if isinstance(value, (int, float)) else tuple(value)
    return site.elements(index) if site.has(index) else None


def integers(site: NodeReader, name: str, index: int) -> tuple[int, ...] | None:
    """Return integers that are an attribute in older operator sets and the input `index` in newer ones; None where
    there are none.

    Raises:
        Unknowable: They are computed when the model runs.
    """
    elements = entries(site, name, index)
    if elements is None and not site.has(index):
        return None
    if elements is None or not all(isinstance(element, int) for element in elements):
        raise Unknowable
    return elements  # type: ignore[return-value]  # checked one line up


def attribute(node: ir.Node, name: str, opset: int | None = None) -> Attribute | None:
    """Return an attribute of `node`, the default of its operator set (`opset`, or that of its graph), None where there
    is neither.

    Raises:
        Unknowable: It is a parameter of the local function that the node is in.
    """
    written = node.attributes.get(name)
    if written is None:
        return schema_default(op_of(node), name, opset_of(node) if opset is None else opset)
    if written.is_ref():
        raise Unknowable
    value: Attribute = written.value
    return value


def op_of(node: ir.Node) -> OpName:
    """Return (domain, op type)."""
    return node.domain, node.op_type


def opset_of(node: ir.Node) -> int:
    """Return the operator set of a node's domain; the newest where its graph does not say."""
    version = node.graph.opset_imports.get(node.domain) if node.graph is not None else None
    return version or (1 if node.domain else onnx.defs.onnx_opset_version())


@functools.cache
def schema_default(op: OpName, name: str, opset: int) -> Attribute | None:
    """Return the default that the schema of an op gives to an attribute, or None."""
    schema = find_schema(*op, opset)
    declared = schema.attributes.get(name) if schema is not None else None
    if declared is None or declared.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float, str)) else tuple(value)


def known_elements(value: ir.Value | None) -> tuple[Element, ...] | None:
    """Return what is known of the elements of a vector of numbers that is computed out of constants and others: None
    for each that is not known, None where not even their number is."""
    array = constant(value)
    if array is not None:
        return elements_of(array) if array.dtype.kind in "iufb" else (None,) * array.size
    if value is None:
        return None
    node = value.producer()
    if node is not None and op_of(node) == ("", "Concat"):
        parts = [known_elements(part) for part in node.inputs]
        return None if None in parts else tuple(element for part in parts for element in part or ())
    size = value.shape[0] if value.shape is not None and len(value.shape) == 1 else None
    return (None,) * size if isinstance(size, int) and size >= 0 else None


def describe(node: ir.Node) -> str:
    """Return what messages call the node: its op and its name, or that of its first output."""
    name = node.name or next((value.name for value in node.outputs if value.name), None)
    return f"{node.op_type} {name}"
