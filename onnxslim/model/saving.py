"""Saves a model atomically.

A separate file of weights has their hash in its name: the old model refers to the old weights until the one rename
that replaces it, and weights that are no longer referred to are removed afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.errors import OnnxslimError, OutputError
from onnxslim.model.compressed import SUFFIX, compress, decompress, is_compressed
from onnxslim.model.form import FORM, OriginalForm, restored
from onnxslim.model.mapped import in_memory
from onnxslim.model.maps import MAP_TYPES, restore_map_types
from onnxslim.model.nesting import every_graph
from onnxslim.model.opening import open_model
from onnxslim.model.sparse import SPARSE, sparsify
from onnxslim.model.weights import tensors_of, weight_bytes
from onnxslim.model.writing import Placement, followed, placing

SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights above which external data is written: protobuf is limited to 2 GiB, including names and nodes."""

INLINE_BYTES = 256
"""Bytes up to which a weight stays in the model file when external data is written."""

DIGITS = 12
"""Number of hexadecimal digits of the hash in the name of a file of weights."""


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Undo the canonical form on a copy, and write it atomically to `path`.

    Weights go to ``<name>.<hash>.data`` beside it if they were external before, or do not fit into one file. Files are
    written into a hidden folder beside the target, opened again, and renamed into place. Links are followed, and the
    permissions of a replaced file are kept; a new file has those of the file that `model` was opened from. A path that
    ends with ``.zst`` is written compressed, weights included.

    Raises:
        OutputError: The folder is missing or read-only, the disk is full, the target is not a file, or the written
            model does not open.
    """
    with placing() as placement:
        stage_model(model, path, placement)


def stage_model(
    model: ir.Model, path: str | os.PathLike[str], placement: Placement, *, source: pathlib.Path | None = None
) -> pathlib.Path:
    """Write a model like `save_model`, but leave the renaming to `placement`, together with its other files.

    Args:
        model: The model to write.
        path: Final path of the model.
        placement: The files that are renamed together.
        source: A file of the same model, whose bytes are copied if there is no external data.

    Returns:
        The written file, in a hidden folder whose files are the model and its weights, not compressed.

    Raises:
        OutputError: As in `save_model`.
    """
    path = pathlib.Path(path)
    form: OriginalForm | None = model.graph.meta.get(FORM)
    packed = is_compressed(path)
    external = (bool(form is not None and form.external) and not packed) or weight_bytes(model) > SINGLE_FILE_LIMIT
    target = followed(path)
    if external and packed:
        raise OutputError(
            "the weights of this model need a file of their own, and a compressed model is one file",
            where=path,
            hint=f"choose a name that does not end with {SUFFIX}",
        )
    if external and path.is_symlink():
        raise OutputError(
            "is a link, and the weights of this model, in a file of their own, would not be found beside it",
            where=path,
            hint=f"name the file that it points to: {target}",
        )
    folder = placement.folder(path)
    file = folder / "model.onnx"
    data = None
    try:
        if source is not None and not external and not (form is not None and form.external):
            decompress(source, file) if is_compressed(source) else shutil.copyfile(source, file)
        else:
            written = restored(model)
            data = _externalize(written, folder, target.name) if external else None
            if not external:
                _internalize(written)
            ir.save(written, file, format="protobuf")
            if model.graph.meta.get(MAP_TYPES):
                restore_map_types(file, model.graph.meta[MAP_TYPES])
            sparse = {name for name, value in model.graph.initializers.items() if SPARSE in value.meta}
            if sparse and not external:
                sparsify(file, sparse)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="is there room on the disk?",
        ) from error
    _check_written(file, path)
    mode = None if form is None else form.mode
    if data is not None:
        placement.place(data, target.with_name(data.name), mode=mode)
    placement.place(_packed(file, path) if packed else file, path, mode=mode)
    input_files = frozenset() if form is None else form.external
    kept = None if data is None else data.name
    placement.after.append(lambda: _remove_unused(target, kept, input_files))
    return file


def written_file(file: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Return what lies at `path` in the end, where `stage_model` returned `file`: the same, or its compressed copy."""
    return file.with_name("packed") / f"{file.name}{SUFFIX}" if is_compressed(path) else file


def _packed(file: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Return a compressed copy of a written model, in a folder of its own beside it."""
    result = written_file(file, path)
    try:
        result.parent.mkdir()
        compress(file, result)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}", where=path, hint="is there room on the disk?"
        ) from error
    return result


def _externalize(model: ir.Model, folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Move the weights of `model`, including local functions and attributes, into a file in `folder`; return it, if
    any. `name` is the final name of the file of the model."""
    values = [value for graph in every_graph(model) for value in graph.initializers.values()]
    moved = [value for value in values if value.const_value is not None and _is_external(value.const_value)]
    attributes = [
        (node, key, attribute)
        for graph in every_graph(model)
        for node in graph
        for key, attribute in node.attributes.items()
        if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors_of(attribute))
    ]
    tensors = [value.const_value for value in moved if value.const_value is not None]
    tensors += [tensor for _, _, attribute in attributes for tensor in tensors_of(attribute)]
    for value in values:
        if isinstance(value.const_value, ir.ExternalTensor) and not _is_external(value.const_value):
            value.const_value = in_memory(value.const_value)
    if not tensors:
        return None
    written = ir.external_data.convert_tensors_to_external(tensors, folder, "weights")
    data = folder / f"{name}.{_digest(folder / 'weights')}.data"
    os.rename(folder / "weights", data)
    external = (
        ir.ExternalTensor(
            data.name, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name, base_dir=folder
        )
        for tensor in written
    )
    for value in moved:
        value.const_value = next(external)
    for node, key, attribute in attributes:
        replaced = [next(external) for _ in tensors_of(attribute)]
        single = attribute.type is ir.AttributeType.TENSOR
        node.attributes[key] = ir.AttrTensor(key, replaced[0]) if single else ir.AttrTensors(key, replaced)
    return data


def _internalize(model: ir.Model) -> None:
    """Read the weights of `model` that lie in files of their own, including local functions and attributes."""
    for graph in every_graph(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = in_memory(value.const_value)
        for node in graph:
            for key, attribute in list(node.attributes.items()):
                tensors = list(tensors_of(attribute))
                if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
                    inner = [*map(in_memory, tensors)]
                    single = attribute.type is ir.AttributeType.TENSOR
                    node.attributes[key] = ir.AttrTensor(key, inner[0]) if single else ir.AttrTensors(key, inner)


def _is_external(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype is not ir.DataType.STRING and tensor.nbytes > INLINE_BYTES


def _digest(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def _check_written(file: pathlib.Path, path: pathlib.Path) -> None:
    """Check that the written file is a valid model with all its weights."""
    try:
        open_model(file)
    except OnnxslimError as error:
        raise OutputError(
            f"what was written does not open, so it was thrown away: {error.what}",
            where=path,
            hint="this is a bug in onnxslim; please report it, with the model if you can",
        ) from error


def weight_files(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the files beside `path` whose names are those of its files of weights."""
    name = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{{DIGITS}}}\.data")
    with contextlib.suppress(OSError):
        yield from (file for file in path.parent.iterdir() if name.fullmatch(file.name) and file.is_file())


def _remove_unused(path: pathlib.Path, kept: str | None, input_files: frozenset[pathlib.Path]) -> None:
    """Remove the weights of earlier models at `path`, except `kept` and those of the input model (`input_files`)."""
    for file in weight_files(path):
        if file.name != kept and file.resolve() not in input_files:
            with contextlib.suppress(OSError):
                file.unlink()
