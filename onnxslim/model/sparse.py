"""Sparse initializers, which the IR does not support: they are dense while a model is open."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from onnxslim.errors import ModelUnreadable
from onnxslim.model.constants import is_constant_node

LARGEST_BYTES = 512 << 20
"""Limit of the dense size of a sparse tensor, since a few bytes in a file can claim any size."""

SPARSE = "onnxslim.model.sparse"
"""Key of the metadata of an initializer that is written as sparse if that takes fewer bytes."""


def densify(graph: onnx.GraphProto, folder: pathlib.Path) -> list[str]:
    """Replace the sparse initializers and Constant nodes of `graph` by dense ones; return the names of their values.

    External data is in `folder`. Source: ONNX IR specification, "SparseTensorProto".

    Raises:
        ModelUnreadable: Indices are outside the shape, or the dense tensor exceeds `LARGEST_BYTES`.
    """
    names = [sparse.values.name for sparse in graph.sparse_initializer]
    graph.initializer.extend(_dense(sparse, folder) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    return names + [node.output[0] for node in graph.node if densify_constant(node, folder)]


def densify_constant(node: onnx.NodeProto, folder: pathlib.Path) -> bool:
    """Replace the sparse value of a Constant node by a dense one; return whether it had one."""
    if not is_constant_node(node):
        return False
    for attribute in node.attribute:
        if attribute.name == "sparse_value" and attribute.HasField("sparse_tensor"):
            attribute.CopyFrom(onnx.helper.make_attribute("value", _dense(attribute.sparse_tensor, folder)))
            return True
    return False


def _dense(sparse: onnx.SparseTensorProto, folder: pathlib.Path) -> onnx.TensorProto:
    values, indices = (
        onnx.numpy_helper.to_array(tensor, base_dir=str(folder)) for tensor in (sparse.values, sparse.indices)
    )
    shape, count = tuple(sparse.dims), math.prod(sparse.dims)
    reason = None
    if min(shape, default=0) < 0 or count * values.itemsize > LARGEST_BYTES:
        reason = f"its shape {list(shape)} takes more than {LARGEST_BYTES >> 20} MiB"
    elif (
        values.ndim != 1
        or indices.dtype != np.int64
        or indices.shape not in (values.shape, (*values.shape, len(shape)))
    ):
        reason = f"{values.shape} values and {indices.shape} indices do not go together"
    elif indices.size and (indices.min() < 0 or (indices >= (count if indices.ndim == 1 else np.array(shape))).any()):
        reason = f"an index lies outside its shape {list(shape)}"
    if reason is not None:
        raise ModelUnreadable(
            f"the sparse tensor {sparse.values.name!r} cannot be read: {reason}",
            hint="export or download the model again",
        )
    dense = np.zeros(shape, values.dtype)
    if indices.ndim == 1:  # linear positions; otherwise one row of coordinates per value
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def sparsify(path: pathlib.Path, names: set[str]) -> None:
    """Write initializers as sparse, with linear indices, if that is smaller. Source: ONNX IR, "SparseTensorProto"."""
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    dense = []
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor) if tensor.name in names else None
        positions = None if array is None else np.flatnonzero(array)
        if array is None or positions is None or positions.size * (positions.itemsize + array.itemsize) >= array.nbytes:
            dense.append(tensor)
            continue
        values = onnx.numpy_helper.from_array(array.reshape(-1)[positions], tensor.name)
        indices = onnx.numpy_helper.from_array(positions.astype(np.int64), f"{tensor.name}_indices")
        proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, array.shape))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(dense)
    path.write_bytes(proto.SerializeToString())
