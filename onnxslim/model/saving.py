"""Saves a model, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.errors import OutputError
from onnxslim.model.form import FORM, restored
from onnxslim.model.maps import MAP_TYPES, put_map_types_back
from onnxslim.model.weights import external_tensors, weight_bytes
from onnxslim.model.writing import writing_beside
from onnxslim.sparse import SPARSE, sparsify

SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights above which external data is written: protobuf ends at 2 GiB, and names and nodes need room."""


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
            put_map_types_back(folder / path.name, model.graph.meta[MAP_TYPES])
        sparse = {name for name, value in model.graph.initializers.items() if SPARSE in value.meta}
        if sparse and not external:
            sparsify(folder / path.name, sparse)
        yield folder / path.name
        if external and (folder / data.name).exists():
            path.unlink(missing_ok=True)  # never an old model beside new weights
            os.replace(folder / data.name, data)
        os.replace(folder / path.name, path)
