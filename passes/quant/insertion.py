"""Multiplications in front of products, where nothing else can bring factors of channels in.

What a transformer's products read comes from a normalisation that a residual addition reads as well, or from an
activation that is not homogeneous: its wide channels are those that int8 loses most by (Xiao et al., "SmoothQuant:
accurate and efficient post-training quantization for large language models", ICML 2023). A factor for each channel
moves them into the weights; it is one small operation in float, where the tensor is float already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.rescaling import Rescaling
from onnxslim.model.edit import Editor

from .plan import QuantPlan
from .sensitivity import PartErrors

SHARE = 0.02
"""Of the error, that a tensor must bring."""


@dataclasses.dataclass(frozen=True)
class Insertion:
    """A multiplication behind a value, in front of some of its readers."""

    axis: int
    """The axis of the channels, from the last on: -1, -2, ..."""
    size: int
    """How many channels there are."""
    readers: tuple[str, ...]
    """The nodes that read the product, by the names of their first outputs."""

    def insert(self, model: ir.Model, name: str) -> str:
        """Multiply a value of the main graph by ones, in place; return the name of the result."""
        graph, editor = model.graph, Editor(model)
        nodes = [node for node in graph if node.outputs[0].name in self.readers]
        value = next(value for node in nodes for value in node.inputs if value is not None and value.name == name)
        ones = np.ones((self.size, *[1] * (-1 - self.axis)), np.float32)
        made = ir.node("Mul", [value, editor.initializer(f"{name}_factors", ones)], name="")
        graph.insert_before(nodes[0], made)
        output = made.outputs[0]
        output.name, output.type, output.shape = editor.name(f"{name}_scaled"), value.type, value.shape
        for node in nodes:
            for index, operand in enumerate(node.inputs):
                if operand is value:
                    node.replace_input_with(index, output)
        return output.name


def costly(places: Mapping[str, Insertion], errors: PartErrors) -> dict[str, Insertion]:
    """Return those that are worth their time: behind values that bring a share of the error by themselves."""
    return {name: place for name, place in places.items() if errors.tensors.get(name, 0.0) > SHARE * errors.total}


def insertions(found: Rescaling, plan: QuantPlan, fixed: Collection[str] = ()) -> dict[str, Insertion]:
    """Return the values behind which a multiplication can be inserted, by name: they are made in float, products in
    int8 read them, whose weights can take factors back, and they have no factors as it is.

    Args:
        found: Of a copy of the model.
        plan: Of the model.
        fixed: Values that are read as they are, by name.
    """
    made = {*fixed, *(value.name for site in plan.sites for value in site.results)}
    grouped = {group.source.name for group in plan.groups}
    sites = {site.key for site in plan.sites if site.product is not None}
    readers: dict[tuple[str, int, int], list[str]] = {}
    for node, contraction in found.contractions.items():
        value, axis, key = contraction.data, contraction.data_axis, node.outputs[0].name or ""
        rank = len(value.shape or ())
        outside = key in sites and value.name in grouped - made and not value.is_graph_input()
        if outside and contraction.channels > 1 and found.of(value, axis) is None:
            size = contraction.groups * contraction.channels
            readers.setdefault((value.name or "", axis - rank, size), []).append(key)
    return {name: Insertion(axis, size, tuple(keys)) for (name, axis, size), keys in readers.items()}
