"""Writes factors in the place of a layer, as nodes of a graph or as a layer to be timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.arrays import Floats
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused, overwrite, take_over
from onnxslim.ops.parameters import Attribute, op_of
from onnxslim.runtime.layer import DTYPES, Previous, Step, Tensor, TimedLayer

from .factors import PAIRS, Factorization, Split

Attributes = dict[str, Attribute]


@dataclasses.dataclass(frozen=True)
class Part:
    """One factor as a node: its weight as it is stored, and the attributes of the node."""

    shape: tuple[int, ...]
    attributes: Attributes
    arrange: Callable[[Floats], Floats]
    """Makes what is stored of the factor as `Split.factors` has it."""


def parts(layer: LinearLayer, form: Factorization, ranks: tuple[int, ...]) -> list[Part]:
    """Return the nodes that the factors of a layer become, in their order; the last holds the bias."""
    if form not in PAIRS:
        return _OF_WINDOWS[form](layer, ranks)
    (rank,) = ranks
    last = layer.outputs - rank if form is Factorization.PIVOT else layer.outputs  # the first makes `rank` of them
    if not layer.kernel:
        return _of_matrices(layer, rank, last)
    return [_wide(layer, layer.inputs, rank), _narrow(layer, (rank, last))]


def _of_matrices(layer: LinearLayer, rank: int, last: int) -> list[Part]:
    first = _copied(layer)
    second = {name: value for name, value in first.items() if name != "transA"}
    if layer.first.outputs_first:
        return [Part((rank, layer.inputs), first, np.transpose), Part((last, rank), second, np.transpose)]
    return [Part((layer.inputs, rank), first, np.asarray), Part((rank, last), second, np.asarray)]


def _copied(layer: LinearLayer) -> Attributes:
    return {
        name: tuple(attribute.value) if isinstance(attribute.value, (list, tuple)) else attribute.value
        for name, attribute in layer.node.attributes.items()
    }


def _narrow(layer: LinearLayer, factor: tuple[int, int]) -> Part:
    """Return a 1x1 convolution; the factor is [inputs, outputs]."""
    ones = (1,) * len(layer.kernel)
    return Part(
        (factor[1], factor[0], *ones), {"kernel_shape": ones}, lambda array: array.T.reshape(*array.T.shape, *ones)
    )


def _wide(layer: LinearLayer, inputs: int, outputs: int) -> Part:
    """Return a convolution with the window of the layer; the factor is [inputs, *kernel, outputs]."""
    return Part(
        (outputs, inputs, *layer.kernel),
        _copied(layer),
        lambda array: np.moveaxis(array.reshape(inputs, *layer.kernel, outputs), -1, 0),
    )


def _tucker(layer: LinearLayer, ranks: tuple[int, ...]) -> list[Part]:
    few, narrow = ranks
    first = [_narrow(layer, (layer.inputs, few))] if few < layer.inputs else []
    last = [_narrow(layer, (narrow, layer.outputs))] if narrow < layer.outputs else []
    return [*first, _wide(layer, few, narrow), *last]


def _spatial(layer: LinearLayer, ranks: tuple[int, ...]) -> list[Part]:
    window = layer.first.window
    assert window is not None
    assert window.fixed_pads is not None
    (rank,), (rows, width), ((top, bottom), (left, right)) = ranks, window.kernel, window.fixed_pads
    columns: Attributes = {
        "kernel_shape": (rows, 1),
        "strides": (window.strides[0], 1),
        "dilations": (window.dilations[0], 1),
        "pads": (top, 0, bottom, 0),
    }
    across: Attributes = {
        "kernel_shape": (1, width),
        "strides": (1, window.strides[1]),
        "dilations": (1, window.dilations[1]),
        "pads": (0, left, 0, right),
    }
    return [
        Part((rank, layer.inputs, rows, 1), columns, lambda array: array.transpose(2, 0, 1)[:, :, :, None]),
        Part((layer.outputs, rank, 1, width), across, lambda array: array.transpose(2, 0, 1)[:, :, None, :]),
    ]


def _separable(layer: LinearLayer, ranks: tuple[int, ...]) -> list[Part]:
    (windows,) = ranks
    channels = layer.inputs * windows
    return [
        Part(
            (channels, 1, *layer.kernel),
            {**_copied(layer), "group": layer.inputs},
            lambda array: np.moveaxis(array, -1, 1).reshape(channels, 1, *layer.kernel),
        ),
        dataclasses.replace(
            _narrow(layer, (channels, layer.outputs)),
            arrange=lambda array: array.reshape(channels, -1).T.reshape(-1, channels, *[1] * len(layer.kernel)),
        ),
    ]


_OF_WINDOWS = {
    Factorization.TUCKER: _tucker,
    Factorization.SPATIAL: _spatial,
    Factorization.SEPARABLE: _separable,
}


def write(editor: Editor, layer: LinearLayer, split: Split, biases: Sequence[Floats | None]) -> None:
    """Put the factors of `split` in the place of `layer`, whose nodes go, in place.

    Args:
        editor: Of the model.
        layer: The layer.
        split: The factors.
        biases: For each use the bias that it gets, shape [outputs]; None where it stays as it is.
    """
    array = constant(layer.weight)
    assert array is not None
    made = parts(layer, split.form, split.ranks)
    stored = []
    for number, (part, factor) in enumerate(zip(made, split.factors, strict=True), start=1):
        stored_factor = part.arrange(factor).reshape(part.shape).astype(array.dtype)
        stored.append(editor.initializer(f"{layer.weight.name}_factor_{number}", stored_factor))
    _write_biases(editor, layer, biases)
    for use in layer.uses:
        own = _own_biases(editor, use, split, array.dtype)
        _replace(editor, layer, use, made, stored, own, joined=split.form is Factorization.PIVOT)
    drop_unused(editor.graph, [layer.weight])


def refit_whole(editor: Editor, layer: LinearLayer, dense: Floats, biases: Sequence[Floats | None]) -> None:
    """Give a layer that stays whole other numbers, in place: `dense` [columns, outputs], and biases as for `write`."""
    overwrite(layer.weight, layer.first.as_weight(dense))
    _write_biases(editor, layer, biases)


def _write_biases(editor: Editor, layer: LinearLayer, biases: Sequence[Floats | None]) -> None:
    for use, vector in zip(layer.uses, biases, strict=True):
        if vector is not None and use.bias is not None:
            use.bias.write(editor, vector)


def _own_biases(editor: Editor, use: Contraction, split: Split, dtype: npt.DTypeLike) -> list[list[ir.Value | None]]:
    """Return what the node of each factor gets as its own bias: the last all of it, but in the pivoted form, whose
    last factor gets outputs of the first with their bias."""
    inputs = list(use.node.inputs[2:])
    bias = constant(inputs[0]) if inputs else None
    if split.form is not Factorization.PIVOT or bias is None:
        return [[] for _ in split.factors[1:]] + [inputs]
    rank, whole = split.ranks[0], np.broadcast_to(bias.ravel(), split.dense.shape[1:]).astype(np.float64)
    result: list[list[ir.Value | None]] = []
    for number, vector in enumerate((whole[:rank], whole[rank:] - whole[:rank] @ split.factors[1]), start=1):
        result.append([editor.initializer(f"{use.node.outputs[0].name}_bias_{number}", vector.astype(dtype))])
    return result


def _replace(
    editor: Editor,
    layer: LinearLayer,
    use: Contraction,
    made: Sequence[Part],
    stored: Sequence[ir.Value],
    biases: Sequence[Sequence[ir.Value | None]],
    *,
    joined: bool,
) -> None:
    node, graph = use.node, editor.graph
    value = node.inputs[1 - layer.first.weight_index]
    assert value is not None
    old, before = node.outputs[0], node.inputs[2:]
    nodes: list[ir.Node] = []
    for number, (part, weight, bias) in enumerate(zip(made, stored, biases, strict=True), start=1):
        pair = [value, weight] if layer.first.weight_index else [weight, value]
        inputs: list[ir.Value | None] = [*pair, *bias]
        attributes = [ir.convenience.convert_attribute(name, value) for name, value in part.attributes.items()]
        name = editor.name(f"{node.name or old.name}_factor_{number}")
        nodes.append(ir.Node(node.domain, node.op_type, inputs, attributes, name=name))
        value = nodes[-1].outputs[0]
        value.name, value.type = name, old.type
    if joined:
        assert use.output_axis is not None
        name = editor.name(f"{node.name or old.name}_factors")
        both = [factor.outputs[0] for factor in nodes]
        nodes.append(ir.Node("", "Concat", both, [ir.AttrInt64("axis", use.output_axis)], name=name))
        value = nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    take_over(value, old)
    graph.remove(node, safe=True)
    drop_unused(graph, before)


def timed(
    layer: LinearLayer,
    data: tuple[int, ...],
    form: Factorization | None,
    ranks: tuple[int, ...],
    opsets: dict[str, int],
) -> TimedLayer | None:
    """Return a layer, or what a split of it would be, to be timed; None for an element type that is not timed.

    Args:
        layer: The layer.
        data: The shape of what it gets.
        form: What it is split into; None: not at all.
        ranks: The ranks of the split.
        opsets: Of the model.
    """
    dtype = DTYPES.get(layer.weight.dtype) if layer.weight.dtype is not None else None
    if dtype is None:
        return None
    stored = layer.weight.const_value
    assert stored is not None, "a layer's weight is stored"
    whole = Part(tuple(stored.shape.numpy()), _copied(layer), np.asarray)
    steps: list[Step] = []
    for part in [whole] if form is None else parts(layer, form, ranks):
        value = Previous() if steps else Tensor(data, dtype=dtype)
        weight = Tensor(part.shape, constant=True, dtype=dtype)
        pair: tuple[Tensor | Previous, ...] = (value, weight) if layer.first.weight_index else (weight, value)
        steps.append(Step(op_of(layer.node), pair, tuple(sorted(part.attributes.items()))))
    if form is Factorization.PIVOT:
        axis = layer.first.output_axis
        assert axis is not None
        steps.append(Step(("", "Concat"), (Previous(2), Previous()), (("axis", axis),)))
    return TimedLayer(tuple(steps), tuple(sorted(opsets.items())))
