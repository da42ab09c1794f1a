"""Sparse initializers: the IR does not know them, so they are dense while a model is open."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

SPARSE = "onnxslim.sparse"
"""In the metadata of an initializer: write it as a sparse one where that takes fewer bytes."""


def densify(graph: onnx.GraphProto) -> None:
    """Replace sparse initializers, which the IR does not know, by dense ones. ONNX IR spec, "SparseTensorProto"."""
    for sparse in graph.sparse_initializer:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if indices.ndim == 1:  # linear positions, or one row of coordinates for each value
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        graph.initializer.append(onnx.numpy_helper.from_array(dense, sparse.values.name))
    del graph.sparse_initializer[:]


def sparsify(path: pathlib.Path, names: set[str]) -> None:
    """Write initializers as sparse ones, with linear indices, where that is smaller. ONNX IR, "SparseTensorProto"."""
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    dense = []
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor) if tensor.name in names else None
        places = None if array is None else np.flatnonzero(array)
        if array is None or places is None or places.size * (places.itemsize + array.itemsize) >= array.nbytes:
            dense.append(tensor)
            continue
        values = onnx.numpy_helper.from_array(array.reshape(-1)[places], tensor.name)
        indices = onnx.numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}_indices")
        proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, array.shape))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(dense)
    path.write_bytes(proto.SerializeToString())
