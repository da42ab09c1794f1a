"""Writes factors in the place of a layer, as nodes of a graph or as a layer to be timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused, overwrite, take_over
from onnxslim.ops.parameters import Attribute, op_of
from onnxslim.runtime.layer import DTYPES, Previous, Step, Tensor, TimedLayer

from .factors import PAIRS, Factorization, Split, pair_outputs
from .layer import WeightLayer, WeightUse

Array = npt.NDArray[np.float64]
Attributes = dict[str, Attribute]


@dataclasses.dataclass(frozen=True)
class Part:
    """One factor as a node: its weight as it is stored, and the attributes of the node."""

    shape: tuple[int, ...]
    attributes: Attributes
    arrange: Callable[[Array], Array]
    """Makes what is stored of the factor as `Split.factors` has it."""


def parts(layer: WeightLayer, form: Factorization, ranks: tuple[int, ...]) -> list[Part]:
    """Return the nodes that the factors of a layer become, in their order; the last holds the bias."""
    if form not in PAIRS:
        return _OF_WINDOWS[form](layer, ranks)
    rank, last = ranks[0], pair_outputs(form, layer.outputs, ranks[0])
    if not layer.kernel:
        return _of_matrices(layer, rank, last)
    return [_wide(layer, layer.inputs, rank), _narrow(layer, (rank, last))]


def _of_matrices(layer: WeightLayer, rank: int, last: int) -> list[Part]:
    attributes = _copied(layer)
    arrange: Callable[[Array], Array] = np.transpose if layer.transposed else np.asarray
    return [
        Part(tuple(reversed(shape)) if layer.transposed else shape, each, arrange)
        for shape, each in (
            ((layer.inputs, rank), attributes),
            ((rank, last), {name: value for name, value in attributes.items() if name != "transA"}),
        )
    ]


def _copied(layer: WeightLayer) -> Attributes:
    return {
        name: tuple(each.value) if isinstance(each.value, (list, tuple)) else each.value
        for name, each in layer.node.attributes.items()
    }


def _narrow(layer: WeightLayer, factor: tuple[int, int]) -> Part:
    """Return a 1x1 convolution; the factor is [inputs, outputs]."""
    ones = (1,) * len(layer.kernel)
    return Part(
        (factor[1], factor[0], *ones), {"kernel_shape": ones}, lambda array: array.T.reshape(*array.T.shape, *ones)
    )


def _wide(layer: WeightLayer, inputs: int, outputs: int) -> Part:
    """Return a convolution with the window of the layer; the factor is [inputs, *kernel, outputs]."""
    return Part(
        (outputs, inputs, *layer.kernel),
        _copied(layer),
        lambda array: np.moveaxis(array.reshape(inputs, *layer.kernel, outputs), -1, 0),
    )


def _tucker(layer: WeightLayer, ranks: tuple[int, ...]) -> list[Part]:
    few, narrow = ranks
    first = [_narrow(layer, (layer.inputs, few))] if few < layer.inputs else []
    last = [_narrow(layer, (narrow, layer.outputs))] if narrow < layer.outputs else []
    return [*first, _wide(layer, few, narrow), *last]


def _spatial(layer: WeightLayer, ranks: tuple[int, ...]) -> list[Part]:
    (rank,) = ranks
    (rows, width), pads = layer.kernel, layer.pads
    columns: Attributes = {
        "kernel_shape": (rows, 1),
        "strides": (layer.strides[0], 1),
        "dilations": (layer.dilations[0], 1),
        "pads": (pads[0], 0, pads[2], 0),
    }
    across: Attributes = {
        "kernel_shape": (1, width),
        "strides": (1, layer.strides[1]),
        "dilations": (1, layer.dilations[1]),
        "pads": (0, pads[1], 0, pads[3]),
    }
    return [
        Part((rank, layer.inputs, rows, 1), columns, lambda array: array.transpose(2, 0, 1)[:, :, :, None]),
        Part((layer.outputs, rank, 1, width), across, lambda array: array.transpose(2, 0, 1)[:, :, None, :]),
    ]


def _separable(layer: WeightLayer, ranks: tuple[int, ...]) -> list[Part]:
    (each,) = ranks
    channels = layer.inputs * each
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


JOIN = ("", "Concat")
"""What puts the outputs of both factors of the pivoted form side by side."""

_OF_WINDOWS = {
    Factorization.TUCKER: _tucker,
    Factorization.SPATIAL: _spatial,
    Factorization.SEPARABLE: _separable,
}


def write(editor: Editor, layer: WeightLayer, split: Split, biases: Sequence[Array | None]) -> None:
    """Put the factors of `split` in the place of `layer`, in place.

    Args:
        editor: Of the model.
        layer: What was split; its nodes go.
        split: The factors.
        biases: For each site what its bias is to be, None where it stays as it is.
    """
    held = constant(layer.weight)
    assert held is not None
    made = parts(layer, split.form, split.ranks)
    stored = []
    for number, (part, factor) in enumerate(zip(made, split.factors, strict=True), start=1):
        array = part.arrange(factor).reshape(part.shape).astype(held.dtype)
        stored.append(editor.initializer(f"{layer.weight.name}_factor_{number}", array))
    for site, bias in zip(layer.sites, biases, strict=True):
        if bias is not None:
            _set_bias(editor, site, bias, held.dtype)
        own = _own_biases(editor, site, split, held.dtype)
        _replace(editor, layer, site, made, stored, own, joined=split.form is Factorization.PIVOT)
    drop_unused(editor.graph, [layer.weight])


def refit_whole(editor: Editor, layer: WeightLayer, dense: Array, biases: Sequence[Array | None]) -> int:
    """Give a layer that stays whole other numbers, in place; return how many weights that were."""
    held = constant(layer.weight)
    assert held is not None
    overwrite(layer.weight, dense.T if layer.kernel or layer.transposed else dense)
    for site, bias in zip(layer.sites, biases, strict=True):
        if bias is not None:
            _set_bias(editor, site, bias, held.dtype)
    return 1


def _own_biases(editor: Editor, site: WeightUse, split: Split, dtype: npt.DTypeLike) -> list[list[ir.Value | None]]:
    """Return what the node of each factor gets as its own bias: the last all of it, but in the pivoted form, whose
    last factor gets outputs of the first with their bias."""
    held = list(site.node.inputs[2:])
    bias = constant(held[0]) if held else None
    if split.form is not Factorization.PIVOT or bias is None:
        return [[] for _ in split.factors[1:]] + [held]
    rank, whole = split.ranks[0], np.broadcast_to(bias.ravel(), split.dense.shape[1:]).astype(np.float64)
    result: list[list[ir.Value | None]] = []
    for number, own in enumerate((whole[:rank], whole[rank:] - whole[:rank] @ split.factors[1]), start=1):
        result.append([editor.initializer(f"{site.node.outputs[0].name}_bias_{number}", own.astype(dtype))])
    return result


def _replace(
    editor: Editor,
    layer: WeightLayer,
    site: WeightUse,
    made: Sequence[Part],
    stored: Sequence[ir.Value],
    biases: Sequence[Sequence[ir.Value | None]],
    *,
    joined: bool,
) -> None:
    node, graph = site.node, editor.graph
    value = node.inputs[1 - layer.weight_index]
    assert value is not None
    old, before = node.outputs[0], node.inputs[2:]
    nodes: list[ir.Node] = []
    for number, (part, weight, bias) in enumerate(zip(made, stored, biases, strict=True), start=1):
        pair = [value, weight] if layer.weight_index else [weight, value]
        inputs: list[ir.Value | None] = [*pair, *bias]
        attributes = [ir.convenience.convert_attribute(name, each) for name, each in part.attributes.items()]
        name = editor.name(f"{node.name or old.name}_factor_{number}")
        nodes.append(ir.Node(node.domain, node.op_type, inputs, attributes, name=name))
        value = nodes[-1].outputs[0]
        value.name, value.type = name, old.type
    if joined:
        name = editor.name(f"{node.name or old.name}_factors")
        both = [factor.outputs[0] for factor in nodes]
        nodes.append(ir.Node(*JOIN, both, [ir.AttrInt64("axis", site.output_axis)], name=name))
        value = nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    take_over(value, old)
    graph.remove(node, safe=True)
    drop_unused(graph, before)


def _set_bias(editor: Editor, site: WeightUse, bias: Array, dtype: npt.DTypeLike) -> None:
    place = site.bias
    assert place is not None
    held = place.node.inputs[place.index] if place.index < len(place.node.inputs) else None
    before = constant(held)
    if held is not None and before is not None and len(held.uses()) == 1 and not held.is_graph_output():
        overwrite(held, bias)
        return
    if place.index >= len(place.node.inputs):
        place.node.resize_inputs(place.index + 1)
    own = bias.reshape(bias.shape if before is None else before.shape).astype(dtype)
    place.node.replace_input_with(place.index, editor.initializer(f"{place.node.outputs[0].name}_bias", own))


def timed(
    layer: WeightLayer,
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
    whole = Part(tuple(layer.weight.const_value.shape.numpy()), _copied(layer), np.asarray)  # type: ignore[union-attr]
    steps: list[Step] = []
    for part in [whole] if form is None else parts(layer, form, ranks):
        value = Previous() if steps else Tensor(data, dtype=dtype)
        weight = Tensor(part.shape, constant=True, dtype=dtype)
        pair: tuple[Tensor | Previous, ...] = (value, weight) if layer.weight_index else (weight, value)
        steps.append(Step(op_of(layer.node), pair, tuple(sorted(part.attributes.items()))))
    if form is Factorization.PIVOT:
        steps.append(Step(JOIN, (Previous(2), Previous()), (("axis", layer.sites[0].output_axis),)))
    return TimedLayer(tuple(steps), tuple(sorted(opsets.items())))
