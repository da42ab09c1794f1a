"""A folder of images as samples; the names of its subfolders are the classes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from onnxslim.arrays import Array, Indices
from onnxslim.data.files import opened
from onnxslim.data.preprocess import EXAMPLE, pillow, preprocessor
from onnxslim.data.samples import Batch, BatchLayout
from onnxslim.data.table import LazyArray, fit_table
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runtime.session import TensorSpec

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclasses.dataclass(frozen=True)
class Images:
    """Image files as samples, decoded one at a time when they are read."""

    filesystem: Any
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    """Sorted names of the subfolders; the index of a name is its label. Empty: no labels."""
    spec: TensorSpec
    prepare: Callable[[Any], Array]

    @property
    def layout(self) -> BatchLayout:
        """The fixed batch size of the model, if any, and whether there are classes."""
        size = self.spec.shape[0] if self.spec.shape else None
        return BatchLayout(size if isinstance(size, int) else None, labelled=bool(self.classes))

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.paths)

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:
        """Yield the images at `indices` (None: all), one at a time, since their sizes may differ."""
        for index in range(self.count) if indices is None else indices:
            path = self.paths[index]
            arrays = {self.spec.name: LazyArray.of(self._decode(path))}
            if self.classes:
                arrays["labels"] = LazyArray.of(np.array([self.classes.index(pathlib.PurePosixPath(path).parent.name)]))
            yield fit_table(arrays, (self.spec,), path, single=True).read(np.zeros(1, np.int64))

    def _decode(self, path: str) -> Array:
        image_module = pillow()
        with opened(self.filesystem, path) as file:
            try:
                with image_module.open(file) as image:
                    return self.prepare(image)
            except (BadOptionValue, DataError):
                raise
            except Exception as error:  # Pillow's decoders and the user's function: any exception
                hint = "open it with another program, or take it out of the folder"
                raise DataError(f"the image cannot be read: {error}", where=path, hint=hint) from error


def open_images(
    filesystem: Any, folder: str, paths: Sequence[str], inputs: Sequence[TensorSpec], preprocess: str | None
) -> Images:
    """Return the images at `paths` as samples; if all are in subfolders of `folder`, these are the classes.

    Raises:
        DataError: The model has more than one input, Pillow is missing, or `preprocess` is None.
        BadOptionValue: `preprocess` is invalid.
    """
    pillow()
    if len(inputs) != 1:
        hint = "use .npz, or module:function"
        raise DataError(f"images feed one input, and the model has {len(inputs)}", where=folder, hint=hint)
    if preprocess is None:
        raise DataError("nobody said how images become inputs", where=folder, hint=EXAMPLE)
    parents = {str(pathlib.PurePosixPath(path).parent) for path in paths}
    root = str(pathlib.PurePosixPath(folder))
    grouped = all(str(pathlib.PurePosixPath(parent).parent) == root for parent in parents)
    classes: tuple[str, ...] = ()
    if grouped:  # a class without images keeps its index, so that labels agree between folders
        entries = filesystem.ls(folder, detail=True)
        names = {pathlib.PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory"}
        classes = tuple(sorted(name for name in names if not name.startswith(".")))
    return Images(filesystem, tuple(sorted(paths)), classes, inputs[0], preprocessor(preprocess, inputs[0]))
