"""Opens a model, brings it into canonical form, and saves it whole or not at all.

Canonical form is what every pass may rely on:

- nodes are topologically sorted;
- the default operator domain is written ``""``, never ``"ai.onnx"``;
- constants are initializers: a ``Constant`` node becomes one, in subgraphs too;
- a sparse initializer is a dense one;
- a dimension of -1, as some exporters write, is an unknown one;
- outputs that are maps, or sequences of maps, have no type;
- no initializer is a graph input in models older than IR version 4, where each had to be. Since IR version 4 an
  initializer that is also an input is a default that the caller may override; it stays an input, and is no constant.

`save_model` undoes this on a copy: what was a Constant node and is still there becomes one again, and old models get
their inputs back in the old order. Local functions, nested subgraphs, nodes of other domains, metadata, names and
dynamic dimensions pass through untouched.

Sources: ONNX IR specification (docs/IR.md), sections "Graphs", "External Tensor Data" and "Optional Inputs".
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import google.protobuf.message
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir

from onnxslim.errors import (
    ExternalDataError,
    ModelNotFound,
    ModelUnreadable,
    ModelUnsupported,
    OutputError,
)
from onnxslim.nesting import every_graph, main_graphs, nested_graphs, nodes_within
from onnxslim.sparse import SPARSE, densify, sparsify

OLDEST_OPSET = 1
OLDEST_NUMPY_OPSET = 7
"""Older operator sets define Add, Mul and Gemm with other broadcasting rules: what passes know does not hold there, so
models of them are opened and saved, and little is done to them (`onnxslim.pipeline.interface.Pass.oldest_opset`)."""
NEWEST_OPSET = onnx.defs.onnx_opset_version()

SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights above which external data is written: protobuf ends at 2 GiB, and names and nodes need room."""

FORM = "onnxslim.form"
MAP_TYPES = "onnxslim.map_types"
CONSTANT_NODE = "onnxslim.constant_node"
DEFAULT_DOMAINS = ("ai.onnx",)


@dataclasses.dataclass(frozen=True)
class Form:
    """What `restored` must know of the file that a model came from."""

    ir_version: int
    inputs: tuple[str, ...]
    interface: dict[str, ir.Shape | None]
    """The shapes of inputs and outputs as declared: inference may learn more, the interface stays."""
    external: bool
    """The weights lay in files of their own."""
    value_info: bool
    """The file told the shapes of the values inside it."""


def open_model(path: str | os.PathLike[str]) -> ir.Model:
    """Open an ONNX file and return it in canonical form.

    Weights in external files are memory-mapped, and read where they are needed.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is empty, truncated, or no ONNX model.
        ModelUnsupported: Its opset or IR version is outside the range that we handle.
        ExternalDataError: A file of weights is missing, too short, or outside the model's folder.
    """
    path = pathlib.Path(path)
    proto = _read(path)
    _check_versions(proto, path)
    for graph in _graphs(proto.graph):
        densify(graph)
    map_types = _set_map_types_aside(proto.graph)
    try:
        model = ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, ir.serde.SerdeError) as error:
        raise ModelUnreadable(
            f"this is no valid ONNX model: {_first_line(error)}", where=path, hint="check it with onnx.checker"
        ) from error
    for tensor in external_tensors(model):
        tensor.base_dir = str(path.absolute().parent)
        _check_external(tensor, path)
    canonicalize(model)
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
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from _graphs(inner)


def _set_map_types_aside(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Clear the types of outputs that are maps, or sequences of maps, and return them by name.

    Classifiers of ai.onnx.ml end in such outputs. The IR has no word for these types, ONNX Runtime infers them.
    """
    aside = {}
    for value in graph.output:
        kind = value.type.sequence_type.elem_type if value.type.HasField("sequence_type") else value.type
        if kind.HasField("map_type"):
            aside[value.name] = onnx.TypeProto.FromString(value.type.SerializeToString())
            value.ClearField("type")
    return aside


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield every tensor of the model whose bytes lie in a file of their own."""
    for graph in every_graph(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.data.values():
                if isinstance(attribute.value, ir.ExternalTensor):
                    yield attribute.value


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


def canonicalize(model: ir.Model) -> None:
    """Bring `model` into canonical form, in place. What undoes it is kept in the metadata of its graph."""
    model.graph.meta[FORM] = Form(
        ir_version=model.ir_version,
        inputs=tuple(value.name or "" for value in model.graph.inputs),
        interface={value.name or "": _copied(value.shape) for value in _interface(model)},
        external=next(external_tensors(model), None) is not None,
        value_info=any(value.type is not None for value in _inner_values(model) if value.const_value is None),
    )
    for value in _interface(model):
        if value.shape is not None and -1 in value.shape:
            value.shape = ir.Shape([None if size == -1 else size for size in value.shape])
    if model.ir_version < 4:
        model.ir_version = 4
        model.graph.inputs[:] = [value for value in model.graph.inputs if not value.is_initializer()]
    for domain in DEFAULT_DOMAINS:
        if domain in model.opset_imports:
            model.opset_imports[""] = model.opset_imports.pop(domain)
    for node in nodes_within(model.graph):
        if node.domain in DEFAULT_DOMAINS:
            node.domain = ""
    for graph in main_graphs(model):
        if not _is_sorted(graph):
            graph.sort()
        for node in list(graph):
            _lift(node, graph)


def _is_sorted(graph: ir.Graph) -> bool:
    """Whether what reads comes after what it reads, as in most files; False, too, where graphs are nested in it."""
    seen: set[ir.Node | None] = {None}
    for node in graph:
        if any(nested_graphs(node)) or not all(v is None or v.producer() in seen for v in node.inputs):
            return False
        seen.add(node)
    return True


def _interface(model: ir.Model) -> tuple[ir.Value, ...]:
    return (*model.graph.inputs, *model.graph.outputs)


def _copied(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """Yield what is neither input nor output of a graph: what nodes make, and constants."""
    for graph in main_graphs(model):
        every = (*graph.initializers.values(), *(output for node in graph for output in node.outputs))
        yield from (value for value in every if not (value.is_graph_input() or value.is_graph_output()))


def _lift(node: ir.Node, graph: ir.Graph) -> None:
    """Make an initializer of a Constant node."""
    if node.op_type != "Constant" or node.domain or node.outputs[0].is_graph_output():
        return
    if "sparse_value" in node.attributes or len(node.attributes) != 1:
        return
    output = node.outputs[0]
    held = node.attributes.get("value")  # most of them; what asks onnx_ir takes ten times as long
    tensor = held.value if held is not None else ir.convenience.get_const_tensor(output)
    if tensor is None:
        return
    value = ir.Value(
        name=output.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    value.meta[CONSTANT_NODE] = (node.name or "", next(iter(node.attributes.values())), tensor)
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    graph.register_initializer(value)


def release_constants(model: ir.Model) -> int:
    """Forget which initializers were Constant nodes, so that they stay initializers. Returns how many there were."""
    marked = [
        value
        for graph in main_graphs(model)
        for value in graph.initializers.values()
        if value.meta.pop(CONSTANT_NODE, None) is not None
    ]
    return len(marked)


def restored(model: ir.Model) -> ir.Model:
    """Return a copy of `model` with the canonical form undone. Weights are shared, not copied."""
    result = model.clone()
    form: Form | None = model.graph.meta.get(FORM)
    for graph in main_graphs(result):
        for value in reversed([v for v in graph.initializers.values() if CONSTANT_NODE in v.meta]):
            _lower(value, graph)
    if form is None:
        return result
    for value in _interface(result):
        value.shape = _copied(form.interface.get(value.name or "", value.shape))
    for value in _inner_values(result):
        if value.const_value is not None or not form.value_info:  # a constant says its own type and shape
            value.type = value.shape = None
    if form.ir_version < 4 == result.ir_version:
        result.ir_version = form.ir_version
        places = {name: place for place, name in enumerate(form.inputs)}
        for value in result.graph.initializers.values():  # an input must say its type and shape
            tensor = value.const_value
            if tensor is not None:
                value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        every = [*result.graph.inputs, *result.graph.initializers.values()]
        result.graph.inputs[:] = sorted(every, key=lambda value: places.get(value.name or "", len(places)))
    return result


def _lower(value: ir.Value, graph: ir.Graph) -> None:
    """Make a Constant node of an initializer, in front of all nodes."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or value.is_graph_output() or isinstance(tensor, ir.ExternalTensor):
        return
    name, attribute, old = value.meta[CONSTANT_NODE]
    if tensor is not old:
        attribute = ir.AttrTensor("value", tensor)
    node = ir.Node("", "Constant", [], [attribute], name=name)
    output = node.outputs[0]
    output.type, output.shape = value.type, value.shape
    value.replace_all_uses_with(output)
    del graph.initializers[value.name or ""]
    output.name = value.name
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, of subgraphs too; strings, whose bytes are not known, count as none."""
    return sum(
        value.const_value.nbytes
        for graph in main_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype is not ir.DataType.STRING
    )


def file_bytes(path: str | os.PathLike[str], model: ir.Model | None = None) -> int:
    """Return the bytes of a model on disk, its external data included.

    Args:
        path: The file.
        model: What was opened from it, to save opening it here.
    """
    path = pathlib.Path(path)
    tensors = external_tensors(open_model(path) if model is None else model)
    return path.stat().st_size + sum(file.stat().st_size for file in {path.parent / each.location for each in tensors})


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Undo the canonical form on a copy and write it to `path`, whole or not at all.

    Weights go to ``<name>.data`` beside it where they did so before, or where one file cannot hold them. Files are
    written into a hidden folder beside the target and renamed into place.

    Raises:
        OutputError: The folder is missing or read-only, the disk is full, or the target holds weights that `model`
            still reads.
    """
    with saving_model(model, path):
        pass


@contextlib.contextmanager
def saving_model(model: ir.Model, path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Do what `save_model` does, and let the caller look at the file before it takes its place.

    Yields:
        The file, in the hidden folder, which holds nothing but it and its weights. Nothing is left where the caller
        raises.

    Raises:
        OutputError: As `save_model` does.
    """
    path = pathlib.Path(path).absolute()
    form = model.graph.meta.get(FORM)
    external = (form is not None and form.external) or weight_bytes(model) > SINGLE_FILE_LIMIT
    data = path.with_name(path.name + ".data")
    targets = (path, data) if external else (path,)
    for tensor in external_tensors(model):
        if pathlib.Path(tensor.path).resolve() in [target.resolve() for target in targets]:
            raise OutputError(
                "the weights of the input lie in this file, and inputs are never changed",
                where=tensor.path,
                hint="choose another name for the output",
            )
    with writing_beside(path) as folder:
        ir.save(restored(model), folder / path.name, format="protobuf", external_data=data.name if external else None)
        if model.graph.meta.get(MAP_TYPES):
            _put_map_types_back(folder / path.name, model.graph.meta[MAP_TYPES])
        sparse = {name for name, value in model.graph.initializers.items() if SPARSE in value.meta}
        if sparse and not external:
            sparsify(folder / path.name, sparse)
        yield folder / path.name
        if external and (folder / data.name).exists():
            path.unlink(missing_ok=True)  # never an old model beside new weights
            os.replace(folder / data.name, data)
        os.replace(folder / path.name, path)


def _put_map_types_back(path: pathlib.Path, types: dict[str, onnx.TypeProto]) -> None:
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    for value in proto.graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])
    path.write_bytes(proto.SerializeToString())


@contextlib.contextmanager
def writing_beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a hidden folder beside `path` to write into; it is removed in any case.

    Raises:
        OutputError: Nothing can be written there.
    """
    folder = None
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot be written: there is no folder {path.parent}", where=path, hint="make it first, or choose another"
        )
    try:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield folder
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="is the folder there and writable, and is there room on the disk?",
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
