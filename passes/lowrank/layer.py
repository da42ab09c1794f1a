"""Finds the layers that may be split: products with a stored weight, and why the others are left alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.linear_layer import Contraction, contractions
from onnxslim.model.constants import constant
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.pipeline.selection import EVERYTHING, Selection

Array = npt.NDArray[np.float64]

COLUMNS = 4608
"""Layers with more weights for each output are left alone: their second moments take over 170 MB."""
SMALLEST = 4096
"""Weights with fewer elements hardly ever hold what is worth a node more."""
UNPADDED = "VALID"
"""The automatic padding of convolutions that is none."""


@dataclasses.dataclass(frozen=True)
class Bias:
    """A constant vector that is added to what a layer gives."""

    node: ir.Node
    index: int
    own: bool
    """It is an input of the layer itself; else of an Add behind it."""

    def held(self, size: int) -> Array:
        """Return what it is, zeros where there is none yet; shape [size]."""
        array = constant(self.node.inputs[self.index]) if self.index < len(self.node.inputs) else None
        return np.zeros(size) if array is None else array.astype(np.float64).ravel()


@dataclasses.dataclass(frozen=True)
class WeightUse:
    """One node that multiplies by the weight of a layer."""

    node: ir.Node
    data: ir.Value
    data_axis: int
    output_axis: int
    bias: Bias | None


@dataclasses.dataclass(frozen=True)
class WeightLayer:
    """A weight, and all nodes that multiply by it; they do it alike."""

    name: str
    sites: tuple[WeightUse, ...]
    weight: ir.Value
    weight_index: int
    transposed: bool
    """The stored matrix has its outputs first. Windows always do."""
    kernel: tuple[int, ...]
    """The sizes of the window; empty for products of matrices."""
    inputs: int
    """Channels of the data."""
    outputs: int

    @property
    def columns(self) -> int:
        """How many weights each output has."""
        return self.inputs * math.prod(self.kernel)

    @property
    def parameters(self) -> int:
        """Elements of the weight."""
        return self.columns * self.outputs

    @property
    def node(self) -> ir.Node:
        """The first node."""
        return self.sites[0].node

    def matrix(self) -> Array:
        """Return the weight, shape [columns, outputs], the columns as (channel, *kernel)."""
        array = constant(self.weight)
        assert array is not None
        wide: Array = array.astype(np.float64)
        if self.kernel:
            return wide.reshape(self.outputs, self.columns).T
        return wide.T if self.transposed else wide

    def setting(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """Return an attribute that holds one number, or two, for each axis of the window."""
        value = attribute(self.node, name)
        return tuple(int(each) for each in value) if isinstance(value, (tuple, list)) and value else tuple(default)

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps between windows."""
        return self.setting("strides", [1] * len(self.kernel))

    @property
    def dilations(self) -> tuple[int, ...]:
        """Steps within a window."""
        return self.setting("dilations", [1] * len(self.kernel))

    @property
    def pads(self) -> tuple[int, ...]:
        """Zeros in front of each axis, then behind each."""
        none = [0] * 2 * len(self.kernel)
        return tuple(none) if attribute(self.node, "auto_pad") == UNPADDED else self.setting("pads", none)


Shape = tuple[bool, tuple[int, ...], int, int]
"""(transposed, kernel, inputs, outputs)."""


def _of_matmul(contraction: Contraction) -> Shape | str:
    array = contraction.weight.const_value
    assert array is not None
    if len(array.shape) != 2:
        return f"its weight has {len(array.shape)} axes"
    summed = contraction.letters.index(contraction.over[0])
    sizes = contraction.sizes
    return summed == 1, (), sizes[summed], sizes[1 - summed]


def _of_gemm(contraction: Contraction) -> Shape | str:
    if contraction.weight_index != 1:
        return "its weight is the left factor"
    node = contraction.node
    if any(attribute(node, name) != 1.0 for name in ("alpha", "beta")):
        return "it scales its result (alpha, beta)"
    return _of_matmul(contraction)


def _of_convolution(contraction: Contraction) -> Shape | str:
    if attribute(contraction.node, "group") != 1:
        return "its channels are grouped: the groups are factors already"
    if attribute(contraction.node, "auto_pad") not in ("NOTSET", UNPADDED):
        return "its padding depends on the size of the image (auto_pad)"
    array = contraction.weight.const_value
    assert array is not None
    outputs, inputs, *kernel = array.shape.numpy()
    return True, tuple(kernel), inputs, outputs


SHAPES: dict[tuple[str, str], Callable[[Contraction], Shape | str]] = {
    ("", "MatMul"): _of_matmul,
    ("", "Gemm"): _of_gemm,
    ("", "Conv"): _of_convolution,
}
"""The ops that are split, and what is read off each of them, or why it cannot be."""

UNPACKS = {("", "DequantizeLinear"), ("", "DynamicQuantizeLinear")}
"""What stands between a quantized weight and the node that reads it."""


def find_layers(
    model: ir.Model, selection: Selection = EVERYTHING, smallest: int = SMALLEST
) -> tuple[list[WeightLayer], list[tuple[str, str]]]:
    """Return the layers of the main graph that may be split, in its order, and (name, reason) for the others.

    Args:
        model: With shapes.
        selection: What is asked for.
        smallest: Weights with fewer numbers are left alone.
    """
    found: dict[ir.Value, list[tuple[Contraction, Shape]]] = {}
    left: list[tuple[str, str]] = [(label(node), "its weight is quantized") for node in _quantized(model.graph)]
    reasons: dict[ir.Value, tuple[str, str]] = {}
    for contraction in contractions(model.graph):
        read = SHAPES.get(op_of(contraction.node))
        shape = f"{contraction.node.op_type} is not split" if read is None else read(contraction)
        if isinstance(shape, str):
            reasons[contraction.weight] = label(contraction.node), shape
        else:
            found.setdefault(contraction.weight, []).append((contraction, shape))
    layers: list[WeightLayer] = []
    for weight, held in found.items():
        reason = (
            selection.against(*(use.node for use in weight.uses()))
            or _reason(weight, held)
            or _small(held[0][1], smallest)
        )
        if reason and weight not in reasons:
            reasons[weight] = label(held[0][0].node), reason
        if weight not in reasons:
            sites = tuple(_site(contraction, shape) for contraction, shape in held)
            layers.append(WeightLayer(label(sites[0].node), sites, weight, held[0][0].weight_index, *held[0][1]))
    return layers, [*left, *reasons.values()]


def label(node: ir.Node) -> str:
    """Return what a node is called in notes."""
    return node.name or node.outputs[0].name or node.op_type


def _reason(weight: ir.Value, held: list[tuple[Contraction, Shape]]) -> str:
    first, (_, _, _, outputs) = held[0]
    columns = math.prod(first.sizes) // max(outputs, 1)
    if len(weight.uses()) != len(held):
        return "its weight is shared with a node of another kind"
    if weight.is_graph_output():
        return "its weight is an output of the model"
    if reason := next(filter(None, (_strange_bias(each, shape) for each, shape in held)), ""):
        return reason
    alike = {(op_of(each.node), each.weight_index, shape, _window(each.node)) for each, shape in held}
    if len(alike) > 1:
        return "its weight is shared by nodes that read it differently"
    if columns > COLUMNS or outputs > COLUMNS:
        return f"more than {COLUMNS} inputs or outputs of one window"
    return ""


def _small(shape: Shape, smallest: int) -> str:
    _, kernel, inputs, outputs = shape
    few = inputs * math.prod(kernel) * outputs < smallest or (smallest > 1 and min(inputs, outputs) < 2)
    return too_small(inputs * math.prod(kernel), outputs, smallest) if few else ""


def too_small(inputs: int, outputs: int, smallest: int) -> str:
    """Return why a weight of so many numbers is left alone, and what would have it split."""
    if inputs * outputs >= smallest:
        return f"it is one row of numbers: {inputs} x {outputs}"
    return f"too small: {inputs} x {outputs}, and smallest is {smallest}"


def _window(node: ir.Node) -> tuple[object, ...]:
    return tuple(
        str(attribute(node, name)) for name in ("strides", "pads", "auto_pad", "dilations", "transA", "transB")
    )


def _quantized(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if op_of(node) not in SHAPES:
            continue
        for value in node.inputs[:2]:
            maker = None if value is None else value.producer()
            if maker is not None and op_of(maker) in UNPACKS and constant(maker.inputs[0]) is not None:
                yield node


def _site(contraction: Contraction, shape: Shape) -> WeightUse:
    node, (_, kernel, _, outputs) = contraction.node, shape
    rank = len(node.outputs[0].shape or ())
    # The right factor of a product gives the last axis, the left one that before it; channels of images are second.
    axis = 1 if kernel else rank - 1 if contraction.weight_index else rank - 2
    return WeightUse(
        node, contraction.data, contraction.data_axis, axis, _bias(node, contraction, outputs, axis == rank - 1)
    )


def _bias(node: ir.Node, contraction: Contraction, outputs: int, last: bool) -> Bias | None:
    """Return the bias of a node that has one or may get one, or of the Add behind it."""
    if contraction.bias_index is not None:
        at = contraction.bias_index
        held = node.inputs[at] if at < len(node.inputs) else None
        return Bias(node, at, own=True) if held is None or _vector(held, outputs) else None
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or not last:
        return None
    reader = uses[0].node
    if op_of(reader) != ("", "Add") or reader.graph is not node.graph:
        return None
    other = 1 - uses[0].idx
    value = reader.inputs[other]
    return Bias(reader, other, own=False) if value is not None and _vector(value, outputs) else None


def _strange_bias(contraction: Contraction, shape: Shape) -> str:
    """Return why the own bias of a node cannot be added behind factors; empty where it can, or where there is none."""
    node, index = contraction.node, contraction.bias_index
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    if value is None or _vector(value, shape[3]):
        return ""
    return "its bias is not constant" if constant(value) is None else "its bias is not one number for each output"


def _vector(value: ir.Value, size: int) -> bool:
    """Whether `value` is a constant with one number for each output."""
    array = constant(value)
    return array is not None and array.shape[-1:] == (size,) and array.size == size
