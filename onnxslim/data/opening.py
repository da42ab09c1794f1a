"""Opens ``--data``: recognizes its form, and fits it to the model's inputs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from onnxslim.data.files import FileCache, locate, read_npy, read_npz
from onnxslim.data.function import guarded, import_function, module_file, names_function
from onnxslim.data.images import SUFFIXES, open_images
from onnxslim.data.samples import Samples, Source
from onnxslim.data.sources import FunctionSource, TableSequence
from onnxslim.data.table import LazyArray, fit_table
from onnxslim.errors import DataError, OnnxslimError
from onnxslim.extensions import Extension, Group, broken, extension_names, find_extension, load_extension
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
            - ``name:location``, which the source `name` of another distribution opens (`onnxslim.extensions`);
            - a mapping of arrays, or open samples.
        inputs: `Session.inputs` of the model.
        preprocess: For images: ``size=224x224:mean=...:std=...`` (see `onnxslim.data.preprocess`), or
            ``module:function`` from a ``PIL.Image.Image`` to an array.

    Raises:
        DataError: The source does not exist, cannot be read, or does not fit the inputs.
        BadOptionValue: `preprocess` or ``module:function`` is invalid.
    """
    if isinstance(spec, Samples | Mapping):
        return _as_samples(spec, inputs, "arrays in memory")
    text = os.fspath(spec)
    named = named_source(text)
    if named is None:
        own = find_extension(Group.SOURCES, _recognise(text))
        assert own is not None, "it is declared"
        return _as_samples(load_extension(Group.SOURCES, own)(text, inputs, preprocess), inputs, text)
    extension, location = named
    open_source = load_extension(Group.SOURCES, extension)
    where = f"the source {extension.name} of {extension.distribution}"
    try:
        return _as_samples(guarded(open_source, where)(location, inputs, preprocess), inputs, text)
    except OnnxslimError:
        raise
    except Exception as error:  # foreign code may raise any exception
        raise broken(Group.SOURCES, extension, f"it raised {type(error).__name__}: {error}") from error


def named_source(text: str) -> tuple[Extension, str] | None:
    """Return the source of another distribution that ``name:location`` names, and the location; None if it is none."""
    name, colon, location = text.partition(":")
    if not colon or name not in extension_names(Group.SOURCES) or pathlib.Path(text).exists() or module_file(text):
        return None
    extension = find_extension(Group.SOURCES, name)
    return None if extension is None or extension.ours else (extension, location)


def _as_samples(opened: Any, inputs: Sequence[TensorSpec], name: str) -> Samples:
    """Return what a source gave as samples: it may be samples, arrays by name, or a function that yields these."""
    if isinstance(opened, Samples):
        return opened
    if isinstance(opened, Mapping):
        arrays = {str(key): LazyArray.of(array) for key, array in opened.items()}
        return _samples(TableSequence.of([fit_table(arrays, inputs, "the arrays given")]), name)
    if callable(opened):
        return Samples(FunctionSource(guarded(opened, f"--data {name}"), inputs, name), name)
    hint = "it must return arrays by name, a function that yields such arrays, or onnxslim.Samples"
    raise DataError(f"the source gives {type(opened).__name__}", where=name, hint=hint)


def _recognise(text: str) -> str:
    """Return the name of the source of ours that opens what `text` names."""
    if names_function(text) and not pathlib.Path(text).exists():
        return "function"
    filesystem, path = locate(text)
    return "images" if filesystem.isdir(path) and "images" in _files_by_kind(filesystem, path, text) else "arrays"


def open_function(location: str, inputs: Sequence[TensorSpec], preprocess: str | None) -> Samples:
    """Return the samples that a function of the user, ``module:function``, yields.

    Raises:
        BadOptionValue: There is no such function.
        DataError: What it yields does not fit the inputs.
    """
    function = import_function(location, "--data")
    return Samples(FunctionSource(function, inputs, location), location)  # counted when needed


def open_arrays(location: str, inputs: Sequence[TensorSpec], preprocess: str | None) -> Samples:
    """Return the samples of an array file, or of all those in a folder.

    Raises:
        DataError: There are no such files, or they do not fit the inputs.
    """
    filesystem, path = locate(location)
    if not filesystem.isdir(path):
        return _samples(_open_files(filesystem, [path], inputs, single=False), location)
    (paths,) = _files_by_kind(filesystem, path, location).values()
    return _samples(_open_files(filesystem, paths, inputs, single=True), location)


def open_image_folder(location: str, inputs: Sequence[TensorSpec], preprocess: str | None) -> Samples:
    """Return the images of a folder as samples; names of subfolders are labels.

    Raises:
        DataError: There are none, or they do not fit the inputs.
        BadOptionValue: `preprocess` is invalid.
    """
    filesystem, folder = locate(location)
    paths = _files_by_kind(filesystem, folder, location).get("images", [])
    images = open_images(filesystem, folder, paths, inputs, preprocess)
    title = f"{location} ({len(images.classes)} subfolders as labels)" if images.classes else location
    return _samples(images, title)


def _files_by_kind(filesystem: Any, folder: str, name: str) -> dict[str, list[str]]:
    """Return the files of a folder, which are all of one kind, under that kind: ``npz``, ``npy`` or ``images``.

    Raises:
        DataError: It holds none, or several kinds.
    """
    by_kind: dict[str, list[str]] = {}
    for path in sorted(filesystem.find(folder)):
        file = pathlib.PurePosixPath(path)
        kind = "images" if file.suffix.lower() in SUFFIXES else file.suffix.lower().removeprefix(".")
        if kind in ("npz", "npy", "images") and not file.name.startswith("."):
            by_kind.setdefault(kind, []).append(path)
    if len(by_kind) != 1:
        present = [kind for kind in ("npz", "npy", "images") if kind in by_kind]
        contents = f"holds {' and '.join(present)}" if present else "holds neither .npz, .npy nor images"
        raise DataError(f"the folder {contents}", where=name, hint="give a folder of one kind of files")
    return by_kind


def _samples(source: Source, name: str) -> Samples:
    samples = Samples(source, name)
    if samples.count == 0:
        hint = f"the model takes {source.layout.batch} at a time"
        raise DataError(f"{source.count} samples do not fill a batch", where=name, hint=hint)
    return samples


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
            hint = "use .npz for several"
            raise DataError(f"an .npy feeds one input, and the model has {len(inputs)}", where=path, hint=hint)
        else:
            raise DataError(f"nobody knows how to read a {suffix or 'nameless'} file", where=path, hint=FORMS)
        tables.append(fit_table(arrays, inputs, path, single=single))
    return TableSequence.of(tables)
