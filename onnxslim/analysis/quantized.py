"""Finds out whether a model is quantized already, how, and how many of its layers."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib.resources
from collections import Counter
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxslim.model.constants import constant, constant_tensor
from onnxslim.model.nesting import every_graph, nodes_within
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has
from onnxslim.toml import tomllib

WEIGHT_ONLY = "weight-only"
"""The scheme of layers in QDQ form whose data are floats."""
STATIC = "QDQ"
LEAST_AXES = 2
"""Weights have this many axes; what has fewer is a bias, or an operand that is one number."""


@dataclasses.dataclass(frozen=True)
class QuantizedLayers:
    """Layers with stored weights that are quantized alike."""

    scheme: str
    """``QDQ`` (static), ``QOperator``, ``dynamic``, ``packed``, or ``weight-only``: QDQ whose data are floats."""
    weight_bits: int
    activation_bits: int | None
    """None: its data are floats."""
    count: int


@functools.cache
def _schemes() -> Mapping[str, Mapping[str, list[str]]]:
    file = importlib.resources.files(__package__) / "quantized.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


@functools.cache
def scheme_of(domain: str, op_type: str) -> str | None:
    """Return the scheme that an op belongs to; None where it computes on floats."""
    for scheme, patterns in _schemes().items():
        if any(fnmatch.fnmatchcase(op_type, pattern) for pattern in patterns.get(domain, ())):
            return scheme
    return None


def count_quantized(model: ir.Model) -> Counter[str]:
    """Count the nodes that show that `model` is quantized, by op type; subgraphs and local functions included."""
    nodes = (node for graph in every_graph(model) for node in graph)
    return Counter(node.op_type for node in nodes if scheme_of(node.domain, node.op_type) is not None)


def quantized_layers(model: ir.Model) -> tuple[QuantizedLayers, ...]:
    """Return how the layers of the main graph and those nested in it are quantized, the most frequent way first."""
    found = Counter(described for node in nodes_within(model.graph) for described in _described(node))
    return tuple(QuantizedLayers(*key, count) for key, count in found.most_common())


def _described(node: ir.Node) -> Iterator[tuple[str, int, int | None]]:
    """Yield scheme, bits of the weight and bits of the data of a node that has a quantized weight."""
    scheme = scheme_of(node.domain, node.op_type)
    if scheme == STATIC:
        return
    if scheme is None:  # floats, maybe made of integers right before it
        levels = [_levels(value) for value in node.inputs]
        weight = next((kind for kind in levels if kind is not None and kind[1]), None)
        if weight is None:
            return
        data = next((kind[0] for kind in levels if kind is not None and not kind[1]), None)
        yield (WEIGHT_ONLY if data is None else STATIC), weight[0], data
        return
    stored = [value.dtype for value in node.inputs if _is_weight(value) and value is not None]
    integers = [kind.bitwidth for kind in stored if kind is not None and kind.is_integer()]
    if not integers:
        return
    bits = attribute(node, "bits")
    source = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    floats = scheme == "packed" or source is None or not source.is_integer()
    data = 8 if scheme == "dynamic" else None if floats else source.bitwidth if source is not None else None
    yield scheme, bits if isinstance(bits, int) else min(integers), data


def level_ends(node: ir.Node) -> tuple[int, int] | None:
    """Return the lowest and the highest level that a node leaves of integers; None where it does not cut them off at
    constants."""
    if not has(node, Trait.CLAMPS):
        return None
    ends = [constant(value) for value in node.inputs[1:]]
    known = [int(end.reshape(-1)[0]) for end in ends if end is not None and end.dtype.kind in "iu"]
    return (known[0], known[1]) if len(known) == 2 and known[0] <= known[1] else None


def _is_weight(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and len(tensor.shape) >= LEAST_AXES


def _levels(value: ir.Value | None) -> tuple[int, bool] | None:
    """Return the bits of the levels that a value is made of, and whether they are a stored weight; None: floats."""
    node = None if value is None else value.producer()
    if node is None or not has(node, Trait.DEQUANTIZES):
        return None
    source = node.inputs[0]
    conversion = None if source is None else source.producer()
    if conversion is not None and has(conversion, Trait.CONVERTS):  # of what is stored in fewer bits
        source = conversion.inputs[0]
    producer = None if source is None else source.producer()
    cut = None if producer is None else level_ends(producer)
    if cut is not None:
        return (cut[1] - cut[0]).bit_length(), False
    if source is None or source.dtype is None:
        return None
    stored = constant_tensor(source) is not None
    if stored and not _is_weight(source):
        return None
    return source.dtype.bitwidth, stored
