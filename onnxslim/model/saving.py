"""Saves a model, whole or not at all.

Weights in a file of their own lie under a name that carries their hash: the old model goes on finding the old weights
until the one rename that puts the new model into its place, and what nobody reads any more is removed after that.
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
from onnxslim.model.form import FORM, OriginalForm, restored
from onnxslim.model.maps import MAP_TYPES, put_map_types_back
from onnxslim.model.nesting import every_graph
from onnxslim.model.opening import open_model
from onnxslim.model.sparse import SPARSE, sparsify
from onnxslim.model.weights import weight_bytes
from onnxslim.model.writing import Placement, followed, placing

SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights above which external data is written: protobuf ends at 2 GiB, and names and nodes need room."""

SMALLEST_APART = 256
"""Bytes of the largest weight that stays in the file where others lie in a file of their own."""

DIGITS = 12
"""Of the hash in the name of a file of weights."""


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Undo the canonical form on a copy and write it to `path`, whole or not at all.

    Weights go to ``<name>.<hash>.data`` beside it where they lay in files of their own before, or where one file cannot
    hold them. Files are written into a hidden folder beside the target, opened again, and renamed into place. A link is
    followed, and the permissions of the file that is replaced are kept; a new file gets those of the file that `model`
    came from.

    Raises:
        OutputError: The folder is missing or read-only, the disk is full, the target is no file, or what was written
            does not open.
    """
    with placing() as placement:
        stage_model(model, path, placement)


def stage_model(
    model: ir.Model, path: str | os.PathLike[str], placement: Placement, *, source: pathlib.Path | None = None
) -> pathlib.Path:
    """Do what `save_model` does, and let `placement` put it into its place together with what else belongs to it.

    Args:
        model: What to write.
        path: Where it shall lie.
        placement: Renames it.
        source: A file that holds `model` already: its bytes are copied, where they lie in that file alone.

    Returns:
        The file, in a hidden folder, which holds nothing but it and its weights.

    Raises:
        OutputError: As `save_model` does.
    """
    path = pathlib.Path(path)
    form: OriginalForm | None = model.graph.meta.get(FORM)
    external = bool(form is not None and form.external) or weight_bytes(model) > SINGLE_FILE_LIMIT
    target = followed(path)
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
        if source is not None and not external:
            shutil.copyfile(source, file)
        else:
            data = _write(restored(model), file, target.name if external else None)
            if model.graph.meta.get(MAP_TYPES):
                put_map_types_back(file, model.graph.meta[MAP_TYPES])
            sparse = {name for name, value in model.graph.initializers.items() if SPARSE in value.meta}
            if sparse and not external:
                sparsify(file, sparse)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="is there room on the disk?",
        ) from error
    _open_again(file, path)
    mode = None if form is None else form.mode
    if data is not None:
        placement.place(data, target.with_name(data.name), mode=mode)
    placement.place(file, path, mode=mode)
    read = frozenset() if form is None else form.external
    kept = None if data is None else data.name
    placement.after.append(lambda: _remove_unread(target, kept, read))
    return file


def _write(model: ir.Model, file: pathlib.Path, name: str | None) -> pathlib.Path | None:
    """Write `model` to `file`; where `name` is the name that the file will have, its weights beside it.

    Returns:
        The file of the weights, if there is one.
    """
    data = None if name is None else _externalize(model, file.parent, name)
    ir.save(model, file, format="protobuf")
    return data


def _externalize(model: ir.Model, folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Move the weights of `model` into a file in `folder`, those that local functions and attributes hold, too."""
    values = [value for graph in every_graph(model) for value in graph.initializers.values()]
    held = [value for value in values if value.const_value is not None and _goes_apart(value.const_value)]
    attributes = [
        (node, key, attribute)
        for graph in every_graph(model)
        for node in graph
        for key, attribute in node.attributes.items()
        if any(isinstance(tensor, ir.ExternalTensor) for tensor in _tensors(attribute))
    ]
    tensors = [value.const_value for value in held if value.const_value is not None]
    tensors += [tensor for _, _, attribute in attributes for tensor in _tensors(attribute)]
    for value in values:
        if isinstance(value.const_value, ir.ExternalTensor) and not _goes_apart(value.const_value):
            value.const_value = _in_memory(value.const_value)
    if not tensors:
        return None
    written = ir.external_data.convert_tensors_to_external(tensors, folder, "weights")
    data = folder / f"{name}.{_digest(folder / 'weights')}.data"
    os.rename(folder / "weights", data)
    apart = iter([_named(tensor, data) for tensor in written])
    for value in held:
        value.const_value = next(apart)
    for node, key, attribute in attributes:
        moved = [next(apart) for _ in _tensors(attribute)]
        single = attribute.type is ir.AttributeType.TENSOR
        node.attributes[key] = ir.AttrTensor(key, moved[0]) if single else ir.AttrTensors(key, moved)
    return data


def _tensors(attribute: ir.Attr) -> list[ir.TensorProtocol]:
    if attribute.is_ref():
        return []
    if attribute.type is ir.AttributeType.TENSOR:
        return [attribute.as_tensor()]
    return list(attribute.as_tensors()) if attribute.type is ir.AttributeType.TENSORS else []


def _goes_apart(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype is not ir.DataType.STRING and tensor.nbytes > SMALLEST_APART


def _in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    (loaded,) = ir.external_data.convert_tensors_from_external([tensor])
    return loaded


def _named(tensor: ir.ExternalTensor, data: pathlib.Path) -> ir.ExternalTensor:
    """Return `tensor` as one whose bytes lie in `data`."""
    return ir.ExternalTensor(
        data.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        base_dir=data.parent,
    )


def _digest(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def _open_again(file: pathlib.Path, path: pathlib.Path) -> None:
    """Check that what was written is a whole model, its names and its weights included."""
    try:
        open_model(file)
    except OnnxslimError as error:
        raise OutputError(
            f"what was written does not open, so it was thrown away: {error.what}",
            where=path,
            hint="this is a bug in onnxslim; please report it, with the model if you can",
        ) from error


def weight_files(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the files beside `path` that have the names which files of its weights have."""
    name = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{{DIGITS}}}\.data")
    with contextlib.suppress(OSError):
        yield from (file for file in path.parent.iterdir() if name.fullmatch(file.name) and file.is_file())


def _remove_unread(path: pathlib.Path, kept: str | None, read: frozenset[pathlib.Path]) -> None:
    """Remove weights that earlier models at `path` had; not those that the input reads."""
    for file in weight_files(path):
        if file.name != kept and file.resolve() not in read:
            with contextlib.suppress(OSError):
                file.unlink()
