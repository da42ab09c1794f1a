"""Opens a file, looks at whether it is a model and whole, and brings it into canonical form."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator

import google.protobuf.message
import onnx
import onnx_ir as ir

from onnxslim.errors import ModelNotFound, ModelUnreadable, ModelUnsupported, OnnxslimError
from onnxslim.model.checking import check_names, check_order, check_tensors
from onnxslim.model.form import DEFAULT_DOMAINS, canonicalize, is_sorted, mark_sparse
from onnxslim.model.mapped import share_maps
from onnxslim.model.maps import MAP_TYPES, set_map_types_aside
from onnxslim.model.nesting import every_graph
from onnxslim.model.schemas import check_signatures
from onnxslim.model.sparse import densify, densify_constant
from onnxslim.model.weights import external_tensors
from onnxslim.model.writing import is_utf8

OLDEST_OPSET = 1
OLDEST_NUMPY_OPSET = 7
"""Older operator sets define Add, Mul and Gemm with other broadcasting rules: what passes know does not hold there, so
models of them are opened and saved, and little is done to them (`onnxslim.pipeline.interface.Pass.oldest_opset`)."""
NEWEST_OPSET = onnx.defs.onnx_opset_version()


def open_model(path: str | os.PathLike[str], *, inline: bool = True) -> ir.Model:
    """Open an ONNX file and return it in canonical form.

    Weights in external files are memory-mapped, and read where they are needed.

    Args:
        path: The file.
        inline: Inline local functions; False keeps them, as calls.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is empty, truncated, or no ONNX model.
        ModelUnsupported: Its opset or IR version is outside the range that we handle.
        ExternalDataError: A file of weights is missing, too short, or outside the model's folder.
    """
    path = pathlib.Path(path)
    proto = _read(path)
    with _naming(path):
        _check_versions(proto, path)
        check_tensors(proto, path)
        sparse = {name for inner in _graphs(proto.graph) for name in densify(inner, path)}
        for node in (node for function in proto.functions for node in function.node):
            densify_constant(node, path)
            for inner in _graphs_in(node):
                densify(inner, path)
        _say_types_once(proto.graph)
        map_types = set_map_types_aside(proto.graph)
        model = ir.from_proto(proto)
        for tensor in external_tensors(model):
            tensor.base_dir = str(path.absolute().parent)
        share_maps(model)
        check_names(model, path)
        for graph in every_graph(model):
            if not is_sorted(graph):
                check_order(graph, path)
        canonicalize(model, inline=inline, mode=stat.S_IMODE(path.stat().st_mode))
        check_signatures(model, path)
        for name in sparse & model.graph.initializers.keys():
            mark_sparse(model.graph.initializers[name])
        model.graph.meta[MAP_TYPES] = map_types
    return model


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turn whatever a file makes the parts of opening raise into one error that tells the innermost cause."""
    try:
        yield
    except (OnnxslimError, MemoryError):
        raise
    except Exception as error:  # a file can be wrong in more ways than onnx and onnx_ir have exceptions for
        raise ModelUnreadable(
            f"this is no valid ONNX model: {innermost(error)}", where=path, hint="check it with onnx.checker"
        ) from error


def innermost(error: BaseException) -> str:
    """Return the first line of what was raised first, before it was wrapped."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _say_types_once(graph: onnx.GraphProto) -> None:
    """Let an output that is an input have the type of that input, as it has in ONNX Runtime: a value has one type."""
    inputs = {value.name: value for value in graph.input}
    for value in graph.output:
        if value.name in inputs:
            value.type.CopyFrom(inputs[value.name].type)


def _read(path: pathlib.Path) -> onnx.ModelProto:
    try:
        if path.is_dir():
            raise ModelNotFound("this is a folder, not a model", where=path, hint="name the .onnx file inside it")
        if not path.is_file() and path.exists():
            raise ModelUnreadable("this is a device or a pipe, not a file", where=path, hint="save it as a file first")
        if not is_utf8(path):
            raise ModelUnreadable("its path is no UTF-8, and ONNX Runtime takes no other", where=path, hint="rename it")
        if path.stat().st_size == 0:
            raise ModelUnreadable("the file is empty", where=path, hint="export or download the model again")
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise ModelNotFound("no such file", where=path, hint="check the path") from error
    except OSError as error:
        raise ModelUnreadable(
            f"cannot be read: {error.strerror or error}", where=path, hint="check the file"
        ) from error
    except ValueError as error:  # a path with a zero byte
        raise ModelNotFound(f"no such file: {error}", where=path, hint="check the path") from error
    except google.protobuf.message.DecodeError as error:
        raise ModelUnreadable(
            "this is not an ONNX model, or it is truncated", where=path, hint="export or download the model again"
        ) from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelUnreadable("the file holds no ONNX graph", where=path, hint="is this an ONNX model at all?")
    return proto


def _check_versions(proto: onnx.ModelProto, path: pathlib.Path) -> None:
    if proto.training_info:
        raise ModelUnsupported(
            "the model carries training graphs, which cannot be kept", where=path, hint="export it for inference"
        )
    for entry in proto.opset_import:
        if entry.domain in ("", *DEFAULT_DOMAINS) and not OLDEST_OPSET <= entry.version <= NEWEST_OPSET:
            raise ModelUnsupported(
                f"opset {entry.version} is outside the range {OLDEST_OPSET} to {NEWEST_OPSET}",
                where=path,
                hint="bring it into range with onnx.version_converter, or install a newer onnx",
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and every graph nested in it."""
    yield graph
    for node in graph.node:
        yield from _graphs_in(node)


def _graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield every graph nested in `node`."""
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            yield from _graphs(inner)


def file_bytes(path: str | os.PathLike[str], model: ir.Model | None = None) -> int:
    """Return the bytes of a model on disk, its external data included.

    Args:
        path: The file.
        model: What was opened from it, to save opening it here.
    """
    path = pathlib.Path(path)
    tensors = external_tensors(open_model(path) if model is None else model)
    return path.stat().st_size + sum(file.stat().st_size for file in {path.parent / each.location for each in tensors})
