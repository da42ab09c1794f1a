"""Types of outputs that are maps, which the IR cannot represent: removed on opening, restored on saving."""

from __future__ import annotations

import pathlib

import onnx

MAP_TYPES = "onnxslim.map_types"


def remove_map_types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Clear the types of outputs that are maps, or sequences of maps, and return them by name.

    Classifiers of ai.onnx.ml have such outputs. The IR cannot represent these types; ONNX Runtime infers them.
    """
    removed = {}
    for value in graph.output:
        kind = value.type.sequence_type.elem_type if value.type.HasField("sequence_type") else value.type
        if kind.HasField("map_type"):
            removed[value.name] = onnx.TypeProto.FromString(value.type.SerializeToString())
            value.ClearField("type")
    return removed


def restore_map_types(path: pathlib.Path, types: dict[str, onnx.TypeProto]) -> None:
    """Give the outputs of the file at `path` the types that `remove_map_types` returned."""
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    for value in proto.graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])
    path.write_bytes(proto.SerializeToString())
