"""Outputs that are maps: the IR has no word for their types, so they are set aside while a model is open."""

from __future__ import annotations

import pathlib

import onnx

MAP_TYPES = "onnxslim.map_types"


def set_map_types_aside(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Clear the types of outputs that are maps, or sequences of maps, and return them by name.

    Classifiers of ai.onnx.ml end in such outputs. The IR has no word for these types, ONNX Runtime infers them.
    """
    aside = {}
    for value in graph.output:
        kind = value.type.sequence_type.elem_type if value.type.HasField("sequence_type") else value.type
        if kind.HasField("map_type"):
            aside[value.name] = onnx.TypeProto.FromString(value.type.SerializeToString())
            value.ClearField("type")
    return aside


def put_map_types_back(path: pathlib.Path, types: dict[str, onnx.TypeProto]) -> None:
    """Give the outputs of the file at `path` the types that `set_map_types_aside` took from them."""
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    for value in proto.graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])
    path.write_bytes(proto.SerializeToString())
