"""Keeps the large weights of a model in a temporary file for a while.

All copies of the model share them there, and ONNX Runtime maps them from it where nothing is packed: a session takes no
memory for them that the system cannot take back, where it copies weights that it is handed. Where the folder for
temporary files lies in memory itself, the variable TMPDIR names another one.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.model.form import CONSTANT_NODE
from onnxslim.model.mapped import MappedFile, SpilledTensor, copied, in_memory
from onnxslim.model.nesting import every_graph, main_graphs

SMALLEST = 1 << 16
"""Bytes of a weight that is spilled."""
ROOM = 3
"""There must be room on the disk for so many times what is spilled."""


@contextlib.contextmanager
def spilled(model: ir.Model) -> Iterator[None]:
    """Keep the large weights of a model that lie in memory in a temporary file while the body runs.

    They stay in memory where there is too little room on the disk, or where weights lie in files of their own already.
    What is needed afterwards goes through `read_in` first, at the end of the body.
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        with contextlib.suppress(OSError):  # they stay in memory
            _spill(model, folder)
        yield


def _spill(model: ir.Model, folder: str) -> None:
    values = [value for graph in main_graphs(model) for value in graph.initializers.values()]
    tensors = {value: value.const_value for value in values if value.const_value is not None}
    chosen = {value: tensor for value, tensor in tensors.items() if _is_spilled(value, tensor)}
    size = sum(tensor.nbytes for tensor in chosen.values())
    in_files = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors.values())
    if not chosen or in_files or shutil.disk_usage(folder).free < ROOM * size:
        return
    distinct = {id(tensor): tensor for tensor in chosen.values()}  # several initializers may be one
    written = ir.external_data.convert_tensors_to_external([*distinct.values()], folder, "weights")
    file = MappedFile(pathlib.Path(folder, "weights"))
    _ = file.content  # mapped now, it can be read where the folder is gone
    for tensor, external in zip(distinct.values(), written, strict=True):
        external.doc_string = tensor.doc_string
        external.metadata_props.update(tensor.metadata_props)
    by_id = {key: SpilledTensor(external, file) for key, external in zip(distinct, written, strict=True)}
    for value, tensor in chosen.items():
        value.const_value = by_id[id(tensor)]
    _detach(model)


def read_in(model: ir.Model) -> None:
    """Read the weights of a model that were spilled."""
    read: dict[int, ir.TensorProtocol] = {}
    for graph in main_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, SpilledTensor):
                value.const_value = read.setdefault(id(tensor), in_memory(tensor))


def _detach(model: ir.Model) -> None:
    """Copy the tensors that are left of a file that was read: each holds all of what was read as long as it lives."""
    for graph in every_graph(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            value.const_value = _detached(tensor)
            name, attribute, stored = value.meta.get(CONSTANT_NODE, ("", None, None))
            if stored is tensor:  # else it is another one by now, and is written as such
                if attribute.type is ir.AttributeType.TENSOR:
                    doc = attribute.doc_string
                    attribute = ir.AttrTensor(attribute.name, value.const_value, doc_string=doc)
                value.meta[CONSTANT_NODE] = (name, attribute, value.const_value)
        for node in graph:
            for key, attribute in list(node.attributes.items()):
                if not attribute.is_ref() and attribute.type is ir.AttributeType.TENSOR:
                    copy = _detached(attribute.as_tensor())
                    node.attributes[key] = ir.AttrTensor(key, copy, doc_string=attribute.doc_string)


def _detached(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return tensor if isinstance(tensor, ir.ExternalTensor) or tensor.dtype is ir.DataType.STRING else copied(tensor)


def _is_spilled(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype is not ir.DataType.STRING and tensor.nbytes >= SMALLEST and CONSTANT_NODE not in value.meta
