"""Element types that numpy lacks: how arrays of them go into ONNX Runtime, and come back.

ONNX Runtime's Python interface takes and gives arrays of numpy's own types. For the others (bfloat16, float8, int4;
numpy knows them by ``ml_dtypes``) it makes an ``OrtValue`` over raw bytes, and tells where the bytes of one lie.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.ort import onnxruntime

Array = npt.NDArray[Any]

ML_DTYPES: Mapping[str, tuple[np.dtype[Any], ir.DataType]] = {
    f"tensor({name})": (np.dtype(kind), ir.DataType[name.upper()])
    for name, kind in {
        "bfloat16": ml_dtypes.bfloat16,
        "float8e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "float8e5m2": ml_dtypes.float8_e5m2,
        "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
        "int4": ml_dtypes.int4,
        "uint4": ml_dtypes.uint4,
    }.items()
}
"""By ONNX Runtime's name: the type of the arrays, and ONNX's word for it."""

PACKED = frozenset({ir.DataType.INT4, ir.DataType.UINT4})
"""Types of which two elements share a byte, the first in its lower half (ONNX spec, "TensorProto.DataType")."""


def to_runtime(array: Array, kind: str) -> onnxruntime.OrtValue:
    """Return an array as ONNX Runtime takes it.

    Args:
        array: Of a type in `ML_DTYPES`, or one of numpy's own.
        kind: ONNX Runtime's name of the type.
    """
    array = np.ascontiguousarray(array).reshape(np.shape(array))  # it makes vectors of scalars
    if kind not in ML_DTYPES:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    dtype, word = ML_DTYPES[kind]
    held = array.astype(dtype, copy=False).view(np.uint16 if dtype.itemsize == 2 else np.uint8)
    if word in PACKED:
        flat = np.append(held.reshape(-1), np.zeros(held.size % 2, np.uint8)) & 15
        packed = np.zeros(held.shape, np.uint8)  # ONNX Runtime takes the shape from here, and reads half of the bytes
        packed.reshape(-1)[: flat.size // 2] = flat[::2] | flat[1::2] << 4
        held = packed
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(held, int(word))


def from_runtime(value: onnxruntime.OrtValue) -> Any:
    """Return the tensor that ONNX Runtime gave as an array; it raises where that is no tensor."""
    kind = value.data_type()
    if kind not in ML_DTYPES:
        return value.numpy()
    dtype, word = ML_DTYPES[kind]
    shape = tuple(value.shape())
    size = value.tensor_size_in_bytes()
    if not size:
        return np.zeros(shape, dtype)
    data = np.array(np.ctypeslib.as_array(ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint8)), (size,)))
    if word in PACKED:
        data = np.stack([data & 15, data >> 4], axis=1).reshape(-1)[: int(np.prod(shape, dtype=np.int64))]
        if word is ir.DataType.INT4:
            data = (data ^ 8).view(np.int8) - np.int8(8)
        return data.astype(dtype).reshape(shape)
    return data.view(dtype).reshape(shape)
