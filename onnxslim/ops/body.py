"""Ops in terms of other ops: as `onnxslim.ops.bodies` declares them, or as the function in their schema has it."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxslim.model.constants import constant, is_constant_node
from onnxslim.model.schemas import find_schema
from onnxslim.ops import bodies
from onnxslim.ops.binding import dimensions
from onnxslim.ops.parameters import op_of, schema_default
from onnxslim.ops.signatures import OpName
from onnxslim.ops.site import Body, Declined, NodeSite


@functools.cache
def declared_bodies() -> Mapping[OpName, Body]:
    """Return the bodies that the files of `onnxslim.ops.bodies` declare."""
    modules = [importlib.import_module(f"{bodies.__name__}.{m.name}") for m in pkgutil.iter_modules(bodies.__path__)]
    return {op: body for module in modules for op, body in module.BODIES.items()}


def find_body(node: ir.Node, version: int) -> Body | None:
    """Return what builds a node of other ops; None where there is nothing of the kind."""
    return declared_bodies().get(op_of(node)) or (schema_body if _function(node, version) is not None else None)


def schema_body(site: NodeSite) -> Sequence[ir.Value | None]:
    """Build the function that the schema of an op gives for it (ONNX specification, docs/Operators.md: Function)."""
    function = _function(site.node, site.version)
    assert function is not None
    built: dict[str, ir.Value | None] = dict.fromkeys([*function.input, ""])
    built.update(zip(function.input, site.node.inputs, strict=False))
    _build(site, function.node, built)
    results = zip(function.output, site.node.outputs, strict=False)
    return [built.get(name) if output.name else None for name, output in results]


def _build(site: NodeSite, nodes: Iterable[onnx.NodeProto], built: dict[str, ir.Value | None]) -> None:
    """Build the nodes of a function, or of a branch of it; `built` says what its names are."""
    for inner in nodes:
        if is_constant_node(inner):
            built[inner.output[0]] = _constant(site, inner)
        elif any(attribute.HasField("g") or attribute.graphs for attribute in inner.attribute):
            _build_branch(site, inner, built)
        else:
            inputs = [built[name] for name in inner.input]
            attributes = {written.name: _attribute(site, written) for written in inner.attribute}
            outputs = site.ops(inner.op_type, *inputs, count=len(inner.output), domain=inner.domain, **attributes)
            if any(shape is None or None in shape for shape in map(dimensions, outputs)):
                raise Declined("the function that ONNX gives for it does not hold, or no sizes follow from it")
            built.update(zip(inner.output, outputs, strict=True))


def _build_branch(site: NodeSite, inner: onnx.NodeProto, built: dict[str, ir.Value | None]) -> None:
    """Build the branch that is taken: sizes decide, as a rule, and these are known."""
    branches = {written.name: written.g for written in inner.attribute}
    condition = built[inner.input[0]] if branches.keys() == {"then_branch", "else_branch"} else None
    known = None if condition is None else constant(condition)
    if known is None:
        raise Declined("its function has loops, or branches that hang on more than sizes")
    branch = branches["then_branch" if known.item() else "else_branch"]
    _build(site, branch.node, built)
    built.update((name, built[value.name]) for name, value in zip(inner.output, branch.output, strict=True))


def _constant(site: NodeSite, inner: onnx.NodeProto) -> ir.Value:
    (written,) = inner.attribute
    value = _attribute(site, written)
    if value is None:
        raise Declined(f"its function reads the attribute {written.ref_attr_name}, which it does not have")
    made = ir.Node("", inner.op_type, [], [ir.Attr(written.name, value.type, value.value)])
    tensor = ir.convenience.get_const_tensor(made.outputs[0])
    if tensor is None:
        raise Declined("its function holds no numbers")
    return site.build.constant(tensor.numpy())


def _attribute(site: NodeSite, written: onnx.AttributeProto) -> ir.Attr | None:
    """Return an attribute of a node in a function: as it is there, or that of the node that the function stands for."""
    if not written.ref_attr_name:
        return ir.serde.deserialize_attribute(written)
    own = site.node.attributes.get(written.ref_attr_name)
    if own is not None:
        return ir.Attr(written.name, own.type, own.value)
    default = schema_default(op_of(site.node), written.ref_attr_name, site.version)
    return None if default is None else ir.convenience.convert_attribute(written.name, default)


def _function(node: ir.Node, version: int) -> onnx.FunctionProto | None:
    """Return the function of an op's schema that holds at an operator set, or None."""
    schema: Any = find_schema(node.domain, node.op_type, version)  # its stubs leave functions out
    if schema is None:
        return None
    text = b""
    if schema.has_function:
        since = [number for number in schema.function_opset_versions if number <= version]
        text = schema.get_function_with_opset_version(max(since)) if since else b""
    elif schema.has_context_dependent_function:
        since = [number for number in schema.context_dependent_function_opset_versions if number <= version]
        told = ir.to_proto(node).SerializeToString(), [_type(value) for value in node.inputs]
        text = schema.get_context_dependent_function_with_opset_version(max(since), *told) if since else b""
    return onnx.FunctionProto.FromString(text) if text else None


def _type(value: ir.Value | None) -> bytes:
    """Return the type and shape of an operand as onnx writes it."""
    proto = onnx.TypeProto()
    if value is not None and value.type is not None:
        ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
    text: bytes = proto.SerializeToString()
    return text
