"""Opens a model file: reads it, checks that it is complete and valid, and brings it into canonical form."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import stat
from collections.abc import Iterator

import google.protobuf.message
import onnx
import onnx_ir as ir

from onnxslim.errors import ModelNotFound, ModelUnreadable, ModelUnsupported, OnnxslimError
from onnxslim.model.checking import check_names, check_order, check_tensors, nested_protos
from onnxslim.model.compressed import compressed_bytes, is_compressed, load, plain_bytes
from onnxslim.model.form import DEFAULT_DOMAIN, canonicalize, is_sorted, mark_sparse
from onnxslim.model.mapped import share_maps
from onnxslim.model.maps import MAP_TYPES, remove_map_types
from onnxslim.model.nesting import every_graph
from onnxslim.model.schemas import check_signatures
from onnxslim.model.sparse import densify, densify_constant
from onnxslim.model.weights import external_tensors
from onnxslim.model.writing import is_utf8
from onnxslim.printable import printable

OLDEST_OPSET = 1
OLDEST_NUMPY_OPSET = 7
"""Older operator sets define Add, Mul and Gemm with other broadcasting rules, which passes do not support: such models
are opened and saved, and most passes skip them (`onnxslim.pipeline.interface.Pass.oldest_opset`)."""
NEWEST_OPSET = onnx.defs.onnx_opset_version()


def open_model(path: str | os.PathLike[str], *, inline: bool = True) -> ir.Model:
    """Return the model of an ONNX file in canonical form.

    Weights in external files are memory-mapped, and read when needed.

    Args:
        path: The file; one whose name ends with ``.zst`` is decompressed in memory (`onnxslim.model.compressed`).
        inline: Inline local functions; False keeps their calls.

    Raises:
        ModelNotFound: The file does not exist.
        ModelUnreadable: The file is empty, truncated, or not a valid ONNX model.
        ModelUnsupported: The opset or IR version is out of range, or the model has training graphs.
        ExternalDataError: A file of weights is missing, too short, or outside the model's folder.
    """
    path = pathlib.Path(path)
    with _file_errors(path):
        proto, folder = _read(path), path.absolute().parent
        _check_versions(proto)
        check_tensors(proto, folder)
        sparse = {name for inner in _graphs(proto.graph) for name in densify(inner, folder)}
        for node in (node for function in proto.functions for node in function.node):
            densify_constant(node, folder)
            for inner in itertools.chain(*map(_graphs, nested_protos(node))):
                densify(inner, folder)
        _unify_types(proto.graph)
        map_types = remove_map_types(proto.graph)
        model = ir.from_proto(proto)
        for tensor in external_tensors(model):
            tensor.base_dir = str(folder)
        share_maps(model)
        check_names(model)
        for graph in every_graph(model):
            if not is_sorted(graph):
                check_order(graph)
        canonicalize(model, inline=inline, mode=stat.S_IMODE(path.stat().st_mode))
        check_signatures(model)
        for name in sparse & model.graph.initializers.keys():
            mark_sparse(model.graph.initializers[name])
        model.graph.meta[MAP_TYPES] = map_types
    return model


@contextlib.contextmanager
def _file_errors(path: pathlib.Path) -> Iterator[None]:
    """Add the file to errors of the body; turn any other exception into one of ours, with the innermost cause."""
    try:
        yield
    except MemoryError:
        raise
    except OnnxslimError as error:
        error.where = error.where or printable(str(path))
        raise
    except Exception as error:  # onnx and onnx_ir raise any exception for an invalid file
        raise ModelUnreadable(
            f"this is no valid ONNX model: {innermost(error)}", where=path, hint="check it with onnx.checker"
        ) from error


def innermost(error: BaseException) -> str:
    """Return the type and the first line of the innermost exception in a chain of causes."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _unify_types(graph: onnx.GraphProto) -> None:
    """Give an output that is also an input the type of the input, as ONNX Runtime does: a value has one type."""
    inputs = {value.name: value for value in graph.input}
    for value in graph.output:
        if value.name in inputs:
            value.type.CopyFrom(inputs[value.name].type)


def _read(path: pathlib.Path) -> onnx.ModelProto:
    try:
        if path.is_dir():
            raise ModelNotFound("this is a folder, not a model", hint="name the .onnx file inside it")
        if not path.is_file() and path.exists():
            raise ModelUnreadable("this is a device or a pipe, not a file", hint="save it as a file first")
        if not is_utf8(path):
            raise ModelUnreadable("its path is no UTF-8, and ONNX Runtime takes no other", hint="rename it")
        if path.stat().st_size == 0:
            raise ModelUnreadable("the file is empty", hint="export or download the model again")
        if is_compressed(path):
            proto = onnx.load_from_string(load(path), format="protobuf")
        else:
            proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise ModelNotFound("no such file", hint="check the path") from error
    except OSError as error:
        raise ModelUnreadable(f"cannot be read: {error.strerror or error}", hint="check the file") from error
    except ValueError as error:  # the path contains a zero byte
        raise ModelNotFound(f"no such file: {error}", hint="check the path") from error
    except google.protobuf.message.DecodeError as error:
        raise ModelUnreadable(
            "this is not an ONNX model, or it is truncated", hint="export or download the model again"
        ) from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelUnreadable("the file holds no ONNX graph", hint="is this an ONNX model at all?")
    return proto


def _check_versions(proto: onnx.ModelProto) -> None:
    if proto.training_info:
        raise ModelUnsupported(
            "the model carries training graphs, which cannot be kept", hint="export it for inference"
        )
    for entry in proto.opset_import:
        if entry.domain in ("", DEFAULT_DOMAIN) and not OLDEST_OPSET <= entry.version <= NEWEST_OPSET:
            raise ModelUnsupported(
                f"opset {entry.version} is outside the range {OLDEST_OPSET} to {NEWEST_OPSET}",
                hint="bring it into range with onnx.version_converter, or install a newer onnx",
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and every graph nested in it."""
    yield graph
    for node in graph.node:
        for inner in nested_protos(node):
            yield from _graphs(inner)


def file_bytes(path: str | os.PathLike[str], model: ir.Model | None = None) -> int:
    """Return the bytes of a model on disk, including external data; `model` is the one of this file, if it is open. A
    compressed file counts as what is in it."""
    path = pathlib.Path(path)
    return plain_bytes(path) + sum(file.stat().st_size for file in _weight_files(path, model))


def download_bytes(path: str | os.PathLike[str], model: ir.Model | None = None) -> int:
    """Return the bytes of a model once its files are compressed, as `file_bytes` counts them."""
    path = pathlib.Path(path)
    return sum(map(compressed_bytes, (path, *_weight_files(path, model))))


def _weight_files(path: pathlib.Path, model: ir.Model | None) -> set[pathlib.Path]:
    tensors = external_tensors(open_model(path) if model is None else model)
    return {path.parent / tensor.location for tensor in tensors}
