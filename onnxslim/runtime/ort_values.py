"""Conversion between ONNX Runtime and arrays of element types that numpy lacks.

ONNX Runtime's Python interface supports arrays of numpy's own types only. For bfloat16, float8 and int4, which numpy
has from ``ml_dtypes``, an ``OrtValue`` is made from raw bytes, and read from its address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.ort import onnxruntime

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
"""Type name of ONNX Runtime -> (type of arrays, ONNX type)."""

PACKED = frozenset({ir.DataType.INT4, ir.DataType.UINT4})
"""Types with two elements per byte, the first in the lower half (ONNX specification, "TensorProto.DataType")."""


def to_runtime(array: Array, kind: str) -> onnxruntime.OrtValue:
    """Return an array, of a numpy type or one in `ML_DTYPES`, as an ``OrtValue`` of ONNX Runtime's type `kind`."""
    array = np.ascontiguousarray(array).reshape(np.shape(array))  # ascontiguousarray turns scalars into vectors
    if kind not in ML_DTYPES:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    dtype, onnx_type = ML_DTYPES[kind]
    data = array.astype(dtype, copy=False).view(np.uint16 if dtype.itemsize == 2 else np.uint8)
    if onnx_type in PACKED:
        flat = np.append(data.reshape(-1), np.zeros(data.size % 2, np.uint8)) & 15
        packed = np.zeros(data.shape, np.uint8)  # gives the shape; ONNX Runtime reads half of the bytes
        packed.reshape(-1)[: flat.size // 2] = flat[::2] | flat[1::2] << 4
        data = packed
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(data, int(onnx_type))


def from_runtime(value: onnxruntime.OrtValue) -> Any:
    """Return an ``OrtValue`` as an array; ONNX Runtime raises an error if it is not a tensor."""
    kind = value.data_type()
    if kind not in ML_DTYPES:
        return value.numpy()
    dtype, onnx_type = ML_DTYPES[kind]
    shape = tuple(value.shape())
    size = value.tensor_size_in_bytes()
    if not size:
        return np.zeros(shape, dtype)
    data = np.array(np.ctypeslib.as_array(ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint8)), (size,)))
    if onnx_type in PACKED:
        data = np.stack([data & 15, data >> 4], axis=1).reshape(-1)[: int(np.prod(shape, dtype=np.int64))]
        if onnx_type is ir.DataType.INT4:
            data = (data ^ 8).view(np.int8) - np.int8(8)
        return data.astype(dtype).reshape(shape)
    return data.view(dtype).reshape(shape)
