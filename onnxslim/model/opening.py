"""Opens a file, looks at whether it is a model and whole, and brings it into canonical form."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import google.protobuf.message
import onnx
import onnx_ir as ir

from onnxslim.errors import ExternalDataError, ModelNotFound, ModelUnreadable, ModelUnsupported
from onnxslim.model.form import DEFAULT_DOMAINS, canonicalize, mark_sparse
from onnxslim.model.maps import MAP_TYPES, set_map_types_aside
from onnxslim.model.weights import external_tensors
from onnxslim.sparse import densify, densify_constant

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
    _check_versions(proto, path)
    sparse = {name for graph in _graphs(proto.graph) for name in densify(graph)}
    for node in (node for function in proto.functions for node in function.node):
        densify_constant(node)
        for graph in _graphs_in(node):
            densify(graph)
    map_types = set_map_types_aside(proto.graph)
    try:
        model = ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, ir.serde.SerdeError) as error:
        raise ModelUnreadable(
            f"this is no valid ONNX model: {_first_line(error)}", where=path, hint="check it with onnx.checker"
        ) from error
    for tensor in external_tensors(model):
        tensor.base_dir = str(path.absolute().parent)
        _check_external(tensor, path)
    canonicalize(model, inline=inline)
    for name in sparse & model.graph.initializers.keys():
        mark_sparse(model.graph.initializers[name])
    model.graph.meta[MAP_TYPES] = map_types
    return model


def _read(path: pathlib.Path) -> onnx.ModelProto:
    try:
        if path.is_dir():
            raise ModelNotFound("this is a folder, not a model", where=path, hint="name the .onnx file inside it")
        if path.stat().st_size == 0:
            raise ModelUnreadable("the file is empty", where=path, hint="export or download the model again")
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise ModelNotFound("no such file", where=path, hint="check the path") from error
    except OSError as error:
        raise ModelUnreadable(f"cannot be read: {error.strerror}", where=path) from error
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


def _check_external(tensor: ir.ExternalTensor, path: pathlib.Path) -> None:
    folder = path.absolute().parent
    file = folder / tensor.location
    if not file.resolve().is_relative_to(folder.resolve()) or os.path.isabs(tensor.location):
        raise ExternalDataError(
            f"the weights {tensor.name!r} lie outside the model's folder: {tensor.location}",
            where=path,
            hint="copy the files of the weights beside the model (links out of the folder are refused, too)",
        )
    if not file.is_file():
        raise ExternalDataError(
            f"its weights are missing: {tensor.location}", where=path, hint="copy that file beside the model"
        )
    if (tensor.offset or 0) + tensor.nbytes > file.stat().st_size:
        raise ExternalDataError(
            f"its weights are cut short: {tensor.location} ends before {tensor.name!r} does",
            where=path,
            hint="copy or download that file again",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
