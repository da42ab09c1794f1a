"""Recognises models that are quantized already, by the patterns of `quantized.toml`."""

from __future__ import annotations

import fnmatch
import functools
import importlib.resources
import sys
from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.model.nesting import nodes_within

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@functools.cache
def quantized_ops() -> Mapping[str, tuple[str, ...]]:
    """Return the patterns of op types by domain."""
    file = importlib.resources.files(__package__) / "quantized.toml"
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return {domain: tuple(patterns) for domain, patterns in content["ops"].items()}


def quantized_nodes(model: ir.Model) -> Counter[str]:
    """Count the nodes that show that `model` is quantized, by op type; subgraphs and local functions included."""
    patterns = quantized_ops()
    found: Counter[str] = Counter()
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in nodes_within(graph):
            if any(fnmatch.fnmatchcase(node.op_type, pattern) for pattern in patterns.get(node.domain, ())):
                found[node.op_type] += 1
    return found
