"""Opens ``--data``: recognizes its form, and fits it to the model's inputs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from onnxslim.data.files import FileCache, locate, read_npy, read_npz
from onnxslim.data.function import import_function, names_function
from onnxslim.data.images import SUFFIXES, open_images
from onnxslim.data.samples import Samples, Source
from onnxslim.data.sources import FunctionSource, TableSequence
from onnxslim.data.table import LazyArray, fit_table
from onnxslim.errors import DataError
from onnxslim.runtime.session import TensorSpec

FORMS = "give an .npz, a folder of .npz, .npy or images, a URL of one of these, or module:function"


def open_samples(
    spec: str | os.PathLike[str] | Mapping[str, npt.ArrayLike] | Samples,
    inputs: Sequence[TensorSpec],
    *,
    preprocess: str | None = None,
) -> Samples:
    """Return samples for a model with `inputs`. Headers are read and fitted at once, arrays when needed.

    Args:
        spec: One of

            - an .npz with arrays named like the inputs, samples along the first axis, and optionally ``labels``; see
              `onnxslim.data.table.fit_table` for ranks, scaled storage (``<input>.scale``, ``<input>.offset``) and
              fixed batch sizes;
            - a folder of .npz, read in the order of their names; or of .npy (also a single one), for models with one
              input;
            - a folder of images, with `preprocess`; if they are in subfolders, the index of a subfolder among the
              sorted names is the label;
            - any of these at an fsspec URL;
            - ``module:function``, called without arguments for every reading, which yields dicts;
            - a mapping of arrays, or open samples.
        inputs: `Session.inputs` of the model.
        preprocess: For images: ``size=224x224:mean=...:std=...`` (see `onnxslim.data.preprocess`), or
            ``module:function`` from a ``PIL.Image.Image`` to an array.

    Raises:
        DataError: The source does not exist, cannot be read, or does not fit the inputs.
        BadOptionValue: `preprocess` or ``module:function`` is invalid.
    """
    if isinstance(spec, Samples):
        return spec
    if isinstance(spec, Mapping):
        where = "the arrays given"
        table = fit_table({str(name): LazyArray.of(array) for name, array in spec.items()}, inputs, where)
        return _samples(TableSequence.of([table]), "arrays in memory")
    text = os.fspath(spec)
    if names_function(text) and not pathlib.Path(text).exists():
        return Samples(FunctionSource(import_function(text, "--data"), inputs, text), text)  # counted when needed
    filesystem, path = locate(text)
    if not filesystem.isdir(path):
        return _samples(_open_files(filesystem, [path], inputs, single=False), text)
    return _open_folder(filesystem, path, inputs, preprocess, text)


def _samples(source: Source, name: str) -> Samples:
    samples = Samples(source, name)
    if samples.count == 0:
        raise DataError(
            f"{source.count} samples do not fill a batch",
            where=name,
            hint=f"the model takes {source.layout.batch} at a time",
        )
    return samples


def _open_folder(
    filesystem: Any, folder: str, inputs: Sequence[TensorSpec], preprocess: str | None, name: str
) -> Samples:
    files = [path for path in sorted(filesystem.find(folder)) if not pathlib.PurePosixPath(path).name.startswith(".")]
    by_kind: dict[str, list[str]] = {"npz": [], "npy": [], "images": []}
    for path in files:
        suffix = pathlib.PurePosixPath(path).suffix.lower()
        kind = "images" if suffix in SUFFIXES else suffix.removeprefix(".")
        if kind in by_kind:
            by_kind[kind].append(path)
    present = [kind for kind, paths in by_kind.items() if paths]
    if len(present) != 1:
        contents = f"holds {' and '.join(present)}" if present else "holds neither .npz, .npy nor images"
        raise DataError(f"the folder {contents}", where=name, hint="give a folder of one kind of files")
    paths = by_kind[present[0]]
    if present[0] != "images":
        return _samples(_open_files(filesystem, paths, inputs, single=True), name)
    images = open_images(filesystem, folder, paths, inputs, preprocess)
    title = f"{name} ({len(images.classes)} subfolders as labels)" if images.classes else name
    return _samples(images, title)


def _open_files(filesystem: Any, paths: Sequence[str], inputs: Sequence[TensorSpec], *, single: bool) -> TableSequence:
    """Return the tables of array files; `single`: a file may hold one sample without batch axis."""
    cache, tables = FileCache(), []
    for path in paths:
        suffix = pathlib.PurePosixPath(path).suffix.lower()
        if suffix == ".npz":
            arrays = read_npz(filesystem, path, cache)
        elif suffix == ".npy" and len(inputs) == 1:
            arrays = {inputs[0].name: read_npy(filesystem, path, cache)}
        elif suffix == ".npy":
            raise DataError(
                f"an .npy feeds one input, and the model has {len(inputs)}", where=path, hint="use .npz for several"
            )
        else:
            raise DataError(f"nobody knows how to read a {suffix or 'nameless'} file", where=path, hint=FORMS)
        tables.append(fit_table(arrays, inputs, path, single=single))
    return TableSequence.of(tables)
