"""Recognizes models that are quantized already, by the ops that `quantized.toml` lists."""

from __future__ import annotations

import fnmatch
import importlib.resources
from collections import Counter

import onnx_ir as ir

from onnxslim.model.nesting import every_graph
from onnxslim.toml import tomllib


def count_quantized(model: ir.Model) -> Counter[str]:
    """Count the nodes that show that `model` is quantized, by op type; subgraphs and local functions included."""
    file = importlib.resources.files(__package__) / "quantized.toml"
    patterns = tomllib.loads(file.read_text(encoding="utf-8"))["ops"]
    nodes = (node for graph in every_graph(model) for node in graph)
    return Counter(
        node.op_type
        for node in nodes
        if any(fnmatch.fnmatchcase(node.op_type, pattern) for pattern in patterns.get(node.domain, ()))
    )
