"""Opens a model that is written as ONNX text, whose weights may have a type and a shape and no elements yet.

The syntax is that of onnx.parser (onnx/docs/Syntax.md). A value that is declared with a type and fixed sizes, that no
node makes and nobody feeds, is a weight: zeros, until a training draws it.
"""

from __future__ import annotations

import math
import os
import pathlib
import tempfile

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxslim.errors import ModelNotFound, ModelUnreadable, ModelUnsupported, OnnxslimError
from onnxslim.model.opening import open_model

SUFFIX = ".onnxtxt"
LARGEST = 1 << 31
"""Bytes of weights without elements: a text of a line must not take all memory."""


def is_architecture(path: str | os.PathLike[str]) -> bool:
    """Whether a file is ONNX text, by its name."""
    return pathlib.Path(path).suffix.lower() == SUFFIX


def open_architecture(path: str | os.PathLike[str]) -> ir.Model:
    """Return the model of a file of ONNX text in canonical form, its weights without elements being zeros.

    Raises:
        ModelNotFound: The file does not exist.
        ModelUnreadable: It is no ONNX text, or no valid model.
        ModelUnsupported: The weights would take too much memory; and as `open_model` does.
    """
    path = pathlib.Path(path)
    try:
        proto = onnx.parser.parse_model(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound("no such file", where=path, hint="check the path") from error
    except (OSError, ValueError) as error:
        raise ModelUnreadable(f"cannot be read: {error}", where=path, hint="check the file") from error
    except onnx.parser.ParseError as error:
        what = " ".join(str(error).split())
        raise ModelUnreadable(f"this is no ONNX text: {what}", where=path, hint="onnx.printer writes it") from error
    try:
        _add_weights(proto.graph)
        with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
            whole = pathlib.Path(folder) / "model.onnx"
            onnx.save(proto, whole)
            return open_model(whole)
    except OnnxslimError as error:
        error.where = str(path)
        raise


def _add_weights(graph: onnx.GraphProto) -> None:
    """Add an initializer for each value that is declared, read by a node, and made by none."""
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    missing = [value for value in graph.value_info if value.name in read - made]
    sizes = [tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim) for value in missing]
    types = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type or 1) for value in missing]
    if sum(math.prod(size) * dtype.itemsize for size, dtype in zip(sizes, types, strict=True)) > LARGEST:
        raise ModelUnsupported("its weights take more than 2 GiB", hint="give a model file with weights")
    for value, size, dtype in zip(missing, sizes, types, strict=True):
        if min(size, default=1) < 1:
            raise ModelUnreadable(f"the weight {value.name!r} has no fixed sizes", hint="write them: float[16,3,3,3] w")
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(size, dtype), value.name))
        graph.value_info.remove(value)
