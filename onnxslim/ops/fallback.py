"""Asks onnx itself about ops that have no inference rule here, one node at a time."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.shape_inference
import onnx_ir as ir

from onnxslim.model.constants import constant_tensor, tensor_bytes
from onnxslim.model.schemas import find_schema
from onnxslim.ops.fact import Fact, NodeFacts, Unknowable
from onnxslim.ops.symbols import Expression, Size, parse

SMALL_BYTES = 4096
"""Constants up to this size are shown to onnx: they may be sizes."""


def ask_onnx(site: NodeFacts, opsets: Mapping[str, int]) -> tuple[Fact, ...]:
    """Return what onnx infers of a node.

    Raises:
        Unknowable: onnx does not know the op, or cannot infer anything.
    """
    node = site.node
    schema = find_schema(node.domain, node.op_type, site.version)
    if schema is None:
        raise Unknowable
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value, fact in zip(node.inputs, site.facts, strict=True):
        if value is None or fact is None or not value.name:
            continue
        if fact.other is None and fact.dtype is None:
            raise Unknowable
        types[value.name] = type_proto(fact)
        tensor = constant_tensor(value)
        if tensor is not None and tensor_bytes(tensor) <= SMALL_BYTES:
            data[value.name] = ir.serde.serialize_tensor(tensor)
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.to_proto(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        )
        return tuple(
            fact_of_proto(inferred[output.name], site, index) if output.name in inferred else Fact()
            for index, output in enumerate(node.outputs)
        )
    except Exception as error:  # whatever the checks of onnx raise about this node; or a type that the IR has not
        raise Unknowable from error


def type_proto(fact: Fact) -> onnx.TypeProto:
    """Return the type of a fact as onnx writes it."""
    if fact.other is not None:
        proto: onnx.TypeProto = ir.serde.serialize_type(fact.other)
        return proto
    shape = None if fact.shape is None else [str(size) if isinstance(size, Expression) else size for size in fact.shape]
    return onnx.helper.make_tensor_type_proto(int(fact.dtype or 0), shape)


def fact_of_proto(proto: onnx.TypeProto, site: NodeFacts, output: int) -> Fact:
    """Return what onnx says of an output; a size that it does not know is that of this output alone."""
    if not proto.HasField("tensor_type"):
        return Fact(other=ir.serde.deserialize_type_proto_for_type(proto))
    tensor = proto.tensor_type
    # Where the rank of an input is not known, onnx leaves an empty shape for outputs of some ops (Attention): none.
    unranked = any(fact is not None and fact.shape is None for fact in site.facts)
    if not tensor.HasField("shape") or (unranked and not tensor.shape.dim):
        return Fact(ir.DataType(tensor.elem_type))
    sizes: list[Size] = []
    for axis, size in enumerate(tensor.shape.dim):
        if size.HasField("dim_value"):
            sizes.append(size.dim_value)
        else:
            sizes.append(parse(size.dim_param) if size.dim_param else site.unknown(axis, output))
    return Fact(ir.DataType(tensor.elem_type), tuple(sizes))
