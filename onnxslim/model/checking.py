"""Checks of the tensors, names and order of a file, before anything relies on them.

A broken file is refused here, with node, name and reason, so later code need not check again.
Source: ONNX IR specification (docs/IR.md), sections "Graphs", "External Tensor Data"; onnx.proto, "TensorProto".
"""

from __future__ import annotations

import functools
import graphlib
import itertools
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import onnx
import onnx_ir as ir

from onnxslim.errors import ExternalDataError, ModelUnreadable
from onnxslim.model.constants import is_constant_node
from onnxslim.model.nesting import every_graph, nodes_within, read_values

HINT = "export or download the model again"
TYPES = {dtype.value for dtype in ir.DataType} - {ir.DataType.UNDEFINED.value}
GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
Tensors = Iterator[tuple[str, onnx.TensorProto]]


def check_tensors(proto: onnx.ModelProto, folder: pathlib.Path) -> None:
    """Check that every tensor of a file has a type, a shape, and the number of bytes that they require.

    Args:
        proto: The file; types that ONNX does not know, and documentation that is not UTF-8, are removed.
        folder: Where the file lies.

    Raises:
        ModelUnreadable: A tensor has not; a Constant has no value; a name is not UTF-8; an attribute outside of a
            function refers to one of a function.
        ExternalDataError: The bytes of a tensor are missing, truncated, or outside the model's folder.
    """
    for value in proto.graph.input:
        if not _has_known_type(value):
            raise ModelUnreadable(f"the input {value.name!r} has no element type that ONNX knows", hint=HINT)
    _check_references(proto.graph)
    in_functions = (_node_tensors(function.node) for function in proto.functions)
    for place, tensor in itertools.chain(_graph_tensors(proto.graph), *in_functions):
        _check_tensor(place, tensor, folder)


def _check_references(graph: onnx.GraphProto) -> None:
    """Check that names are UTF-8, and that no attribute outside of a function refers to one of a function."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if not _has_known_type(value):
            value.ClearField("type")
    for node in graph.node:
        # protobuf returns text that is not UTF-8 as bytes
        if not isinstance(node.doc_string, str):
            node.ClearField("doc_string")  # nothing depends on it
        texts = (node.op_type, node.domain, node.name, *node.input, *node.output)
        broken = next((text for text in texts if not isinstance(text, str)), None)
        if broken is not None:
            raise ModelUnreadable(f"a node has a name or an operator that is no UTF-8: {broken[:60]!r}", hint=HINT)
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                raise ModelUnreadable(
                    f"the attribute {attribute.name!r} of {describe_node(node)} refers to an attribute of a function, "
                    "and lies in none",
                    hint=HINT,
                )
        for inner in nested_protos(node):
            _check_references(inner)


def _has_known_type(value: onnx.ValueInfoProto) -> bool:
    return not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type in TYPES


def _graph_tensors(graph: onnx.GraphProto) -> Tensors:
    for tensor in graph.initializer:
        yield f"the initializer {tensor.name!r}", tensor
    for sparse in graph.sparse_initializer:
        yield from _parts(f"the sparse initializer {sparse.values.name!r}", sparse)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Tensors:
    for node in nodes:
        if is_constant_node(node):
            _check_constant(node)
        for attribute in node.attribute:
            kind = attribute.type
            if kind in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
                continue  # the usual types
            place = f"the attribute {attribute.name!r} of {describe_node(node)}"
            if attribute.HasField("t"):
                yield place, attribute.t
            for tensor in attribute.tensors:
                yield place, tensor
            if attribute.HasField("sparse_tensor"):
                yield from _parts(place, attribute.sparse_tensor)
            for sparse in attribute.sparse_tensors:
                yield from _parts(place, sparse)
            for graph in (attribute.g, *attribute.graphs) if kind in GRAPHS else ():
                yield from _graph_tensors(graph)


def _parts(place: str, sparse: onnx.SparseTensorProto) -> Tensors:
    yield f"{place} (values)", sparse.values
    yield f"{place} (indices)", sparse.indices


def nested_protos(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in the attributes of `node`, without those nested in them."""
    for attribute in node.attribute:
        if attribute.type in GRAPHS:
            yield from (attribute.g, *attribute.graphs)


def describe_node(node: ir.Node | onnx.NodeProto) -> str:
    """Return the description of a node in error messages."""
    return f"the node {node.name!r} ({node.op_type})" if node.name else f"a node without a name ({node.op_type})"


@functools.cache
def declared_attributes(domain: str, op_type: str, version: int) -> tuple[Mapping[str, int], frozenset[str]]:
    """Return the types of the attributes of an op, numbers of `onnx.AttributeProto.AttributeType`, by name; and the
    names of the required ones."""
    declared = onnx.defs.get_schema(op_type, version, domain).attributes
    types = {name: formal.type.value for name, formal in declared.items()}  # type: ignore[attr-defined]  # an enumeration
    return types, frozenset(name for name, formal in declared.items() if formal.required)


def _check_constant(node: onnx.NodeProto) -> None:
    kinds = [(attribute.name, attribute.type) for attribute in node.attribute]
    types, _ = declared_attributes("", node.op_type, onnx.defs.onnx_opset_version())
    if len(kinds) != 1 or types.get(kinds[0][0]) != kinds[0][1]:
        names = ", ".join(repr(name) for name, _ in kinds) or "none"
        raise ModelUnreadable(f"{describe_node(node)} holds no constant: its attributes are {names}", hint=HINT)


def _check_tensor(place: str, tensor: onnx.TensorProto, folder: pathlib.Path) -> None:
    if tensor.data_type not in TYPES:
        raise ModelUnreadable(f"{place} has no element type that ONNX knows", hint=HINT)
    if any(size < 0 for size in tensor.dims):
        raise ModelUnreadable(f"{place} has a negative size: {list(tensor.dims)}", hint=HINT)
    kind, count = ir.DataType(tensor.data_type), math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(place, tensor, folder)
    elif tensor.HasField("raw_data"):
        expected = 0 if kind is ir.DataType.STRING else math.ceil(count * kind.bitwidth / 8)
        if expected != (found := len(tensor.raw_data)):
            raise ModelUnreadable(
                f"{place} has {found:,} bytes, and its shape {list(tensor.dims)} and type {kind.name.lower()} take "
                f"{expected:,}",
                hint=HINT,
            )
    elif (found := len(getattr(tensor, onnx.helper.tensor_dtype_to_field(kind)))) not in _possible(kind, count):
        raise ModelUnreadable(
            f"{place} has {found:,} numbers, and its shape {list(tensor.dims)} takes {count:,}", hint=HINT
        )


def _possible(kind: ir.DataType, count: int) -> tuple[int, ...]:
    """Return the possible numbers of entries of `count` elements: two per complex element, fewer if bits are packed."""
    if kind.name.startswith("COMPLEX"):
        return (2 * count,)
    if kind is not ir.DataType.STRING and kind.bitwidth < 8:
        return (count, math.ceil(count * kind.bitwidth / 8))
    return (count,)


def _check_external(place: str, tensor: onnx.TensorProto, folder: pathlib.Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise ExternalDataError(f"{place} does not say where its bytes lie", hint=HINT)
    kind, numbers = ir.DataType(tensor.data_type), [entries.get("offset") or "0", entries.get("length") or "0"]
    if kind is ir.DataType.STRING or not all(number.isascii() and number.isdigit() for number in numbers):
        reason = "strings cannot lie there" if kind is ir.DataType.STRING else f"its place is {' and '.join(numbers)}"
        raise ExternalDataError(f"{place} cannot be read from {location}: {reason}", hint=HINT)
    offset, length = map(int, numbers)
    file = folder / location
    if os.path.isabs(location) or not file.resolve().is_relative_to(folder.resolve()):
        raise ExternalDataError(
            f"{place} lies outside the model's folder: {location}",
            hint="copy the files of the weights beside the model (links out of the folder are refused, too)",
        )
    if not file.is_file():
        raise ExternalDataError(f"its weights are missing: {location}", hint="copy that file beside the model")
    if file.stat().st_nlink > 1:
        # onnx and onnx_ir refuse such files on reading: the other name may be outside of the folder
        raise ExternalDataError(
            f"its weights have a second name, which may lie elsewhere (a hard link): {location}",
            hint="make that file a copy of its own",
        )
    expected = math.ceil(math.prod(tensor.dims) * kind.bitwidth / 8)
    if length and length != expected:
        raise ExternalDataError(
            f"{place} has {length:,} bytes in {location}, and its shape and type take {expected:,}", hint=HINT
        )
    if offset + expected > file.stat().st_size:
        raise ExternalDataError(
            f"its weights are cut short: {location} ends before {place} does",
            hint="copy or download that file again",
        )


def check_names(model: ir.Model) -> None:
    """Check that every value that is read has a producer, and that operator sets in use have a version.

    Raises:
        ModelUnreadable: A node or an output reads a value without a producer; the version of ONNX's own operator set
            is missing; the graph has no output.
    """
    if not model.graph.outputs:
        raise ModelUnreadable("the graph has no outputs", hint="name what it is to compute, and export it")
    for graph in every_graph(model):
        for node in graph:
            for value in node.inputs:
                if value is not None and _has_no_producer(value):
                    raise ModelUnreadable(f"{describe_node(node)} reads {value.name!r}, which nothing makes", hint=HINT)
        for value in graph.outputs:
            if _has_no_producer(value):
                raise ModelUnreadable(f"the output {value.name!r} is made by nothing", hint=HINT)
    if {"", "ai.onnx"} & model.opset_imports.keys():
        return
    for node in nodes_within(model.graph):
        if not node.domain:
            raise ModelUnreadable(
                f"{describe_node(node)} is one of ONNX's own operators, and the file does not say of which version",
                hint="add the opset to opset_import, as it was when the model was exported",
            )


def _has_no_producer(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()


def check_order(graph: ir.Graph) -> None:
    """Check that the nodes of `graph` form no cycle. A node reads the values that its subgraphs read.

    Raises:
        ModelUnreadable: They form a cycle.
    """
    producers = {
        node: {maker for value in read_values(node) if (maker := value.producer()) is not None and maker.graph is graph}
        for node in graph
    }
    try:
        graphlib.TopologicalSorter(producers).prepare()
    except graphlib.CycleError as error:
        producer, node = error.args[1][:2]
        names = {value.name for value in read_values(node)}
        read = next(output.name for output in producer.outputs if output.name in names)
        raise ModelUnreadable(
            f"{describe_node(node)} reads {read!r}, which is made from what that node makes: a circle", hint=HINT
        ) from error
