"""Which channels of inner values may be scaled, because stored numbers make up for it: the outputs of the model stay.

A positive factor on a channel passes through Relu, pooling, addition and movement; a contraction takes it back in the
weights that read the channel, and brings it in by those that make it; a normalisation brings it in by its scale and its
shift, and a stored vector that something is multiplied by brings one in or takes it back. Channels that must have one
factor are found as those that must be cut together are
(`onnxslim.analysis.coupling`), so that residual streams, concatenations and groups are covered, and not just two layers
in a row (cf. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019).

What is not homogeneous stops a factor: a clamp with a limit above zero, a Sigmoid, what is normalised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.analysis.coupling import Coupling, captured
from onnxslim.analysis.labels import solve
from onnxslim.arrays import Floats, Indices, Mask
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, overwrite
from onnxslim.ops.binding import bind, input_index
from onnxslim.ops.relations import AddsUp, Freeze, FreezeCode, NodeAxes
from onnxslim.ops.table import fill, relations_of
from onnxslim.ops.traits import Trait, has


class ChannelProduct(NamedTuple):
    """A value that is multiplied by a stored vector along its channels."""

    data: ir.Value
    result: ir.Value
    axis: int
    """The axis of the channels, of both."""
    vector: ir.Value


@dataclasses.dataclass(frozen=True)
class Rescaling:
    """The channels of a model that may be scaled, as labels: equal labels must have equal factors."""

    model: ir.Model
    coupling: Coupling
    free: Mask
    """For each label whether it may have another factor than 1; a label has that of its root."""
    contractions: Mapping[ir.Node, Contraction]
    """Those whose weights take part."""
    products: Mapping[ir.Node, ChannelProduct]
    """Nodes that multiply channels by stored numbers, which take part."""
    carried: Mapping[ir.Node, tuple[int, ...]]
    """For each node through which factors pass the inputs that have those of its results."""
    shifted: tuple[ir.Value, ...]
    """Stored operands, and scales and shifts of normalisations, that are scaled as what they are added to."""

    @property
    def roots(self) -> Indices:
        """The labels that stand for all that may be scaled."""
        return np.unique(self.coupling.labels.root[self.free])

    def of(self, value: ir.Value, axis: int | None) -> Indices | None:
        """Return the roots of the labels along an axis of a value; None where none of them may be scaled."""
        own = None if axis is None else self.coupling.of(value, axis)
        return None if own is None or not self.free[own].any() else self.coupling.labels.root[own]

    def channels(self, value: ir.Value) -> tuple[int, Indices] | None:
        """Return the first axis of a value of which some places may be scaled, and the roots of its labels; None where
        there is none."""
        found = ((axis, self.of(value, axis)) for axis in range(len(self.coupling.relations.axes(value) or ())))
        return next(((axis, own) for axis, own in found if own is not None), None)

    def rectified(self) -> list[tuple[ir.Value, int]]:
        """Return the values that rectifiers make, each with the axis of channels that may be scaled."""
        found = [
            (node.outputs[0], self.channels(node.outputs[0])) for node in self.carried if has(node, Trait.RECTIFIES)
        ]
        return [(value, channels[0]) for value, channels in found if channels is not None]

    def changed(self, factors: Floats) -> list[ir.Value]:
        """Return the values that nodes make whose numbers are others with some factors, shape [labels]."""
        made = [value for node in self.model.graph for value in node.outputs]
        found = ((value, self.channels(value)) for value in made)
        return [value for value, channels in found if channels is not None and (factors[channels[1]] != 1).any()]

    def apply(self, factors: Floats) -> None:
        """Multiply channels by positive factors, in place.

        Args:
            factors: Shape [labels], read at the roots of those that are free.
        """
        factors = np.where(self.free, factors[self.coupling.labels.root], 1.0)
        editor = Editor(self.model)
        for contraction in self.contractions.values():
            self._scale_contraction(contraction, factors, editor)
        for product in self.products.values():
            array = constant(product.vector)
            assert array is not None
            read, made = (self._factors(value, product.axis, factors) for value in (product.data, product.result))
            overwrite(product.vector, array.astype(np.float64) * (made / read).reshape(array.shape))
        for value in self.shifted:
            array = constant(value)
            assert array is not None
            scaled = array.astype(np.float64)
            for axis in range(array.ndim):
                own = self.coupling.of(value, axis)
                if own is not None:
                    scaled = scaled * factors[own].reshape([-1 if place == axis else 1 for place in range(array.ndim)])
            overwrite(value, scaled)

    def _scale_contraction(self, contraction: Contraction, factors: Floats, editor: Editor) -> None:
        read = self._factors(contraction.data, contraction.data_axis, factors)
        made = self._factors(contraction.node.outputs[0], contraction.output_axis, factors)
        if (read == 1).all() and (made == 1).all():
            return
        blocks = contraction.blocks()
        groups, columns, outputs = blocks.shape
        read = np.tile(read.reshape(groups, -1), (1, columns // contraction.channels))
        scaled = blocks * made.reshape(groups, 1, outputs) / read[:, :, None]
        overwrite(contraction.weight, contraction.from_blocks(scaled))
        bias = contraction.own_bias
        if bias is not None and bias.value is not None and bias.vector is not None:
            bias.write(editor, bias.vector * made)

    def _factors(self, value: ir.Value, axis: int | None, factors: Floats) -> Floats:
        own = None if axis is None else self.coupling.of(value, axis)
        assert own is not None, "sizes were compared"
        return factors[own]


def rescaling(model: ir.Model, fixed: Collection[str] = ()) -> Rescaling:
    """Return which channels of the main graph may be scaled; of the values `fixed`, by name, none.

    Shapes must be known (`onnxslim.analysis.shapes.infer_shapes`). Numbers that several nodes read take no part, so
    that vectors should be untied before (`onnxslim.analysis.shared_vectors`).
    """
    relations = AxisRelations()
    for value in (*model.graph.inputs, *model.graph.outputs):
        relations.freeze_value(value, _FREEZE)
    found = {contraction.node: contraction for contraction in contractions(model.graph)}
    absorbing: dict[ir.Node, Contraction] = {}
    products: dict[ir.Node, ChannelProduct] = {}
    carried: dict[ir.Node, tuple[int, ...]] = {}
    shifted: dict[ir.Value, None] = {}
    for node in model.graph:
        _freeze(relations, [value for value in node.outputs if value.name in fixed])
        for value in captured(node):
            relations.freeze_value(value, _FREEZE)
        stored = [value for value in node.inputs if value is not None and constant(value) is not None]
        if has(node, Trait.LISTS_SIZES) or has(node, Trait.COUNTS_ELEMENTS):
            _freeze(relations, node.outputs)
        elif any(value.name and value.dtype != ir.DataType.FLOAT for value in node.outputs):
            _freeze(relations, (*node.inputs, *node.outputs))
        elif node in found and _absorbs(found[node], relations):
            absorbing[node] = found[node]
        elif has(node, Trait.JOINTLY_HOMOGENEOUS) and all(map(_alone, stored)) and _floats(node.inputs):
            carried[node] = tuple(index for index, value in enumerate(node.inputs) if value not in stored)
            shifted.update(dict.fromkeys(stored))
            _pass_through(node, range(len(node.inputs)), relations)
        elif (product := _channel_product(node, relations)) is not None:
            products[node] = product
        elif (index := _homogeneous_in(node)) is not None:
            carried[node] = (index,)
            _freeze(relations, (value for place, value in enumerate(node.inputs) if place != index))
            _pass_through(node, (index,), relations)
        elif affine := _scale_and_shift(node, relations):
            shifted.update(dict.fromkeys(affine))
        else:
            _freeze(relations, (*node.inputs, *node.outputs))
    labels = solve(relations)
    free = (labels.reason[labels.root] < 0) & ~labels.derived[labels.root] & ~labels.mixed[labels.root]
    free[np.isin(labels.root, labels.implied[:, 0])] = False
    return Rescaling(model, Coupling(relations, labels, {}), free, absorbing, products, carried, tuple(shifted))


_FREEZE = Freeze(FreezeCode.READ_AS_WHOLE)


def _freeze(relations: AxisRelations, values: Iterable[ir.Value | None]) -> None:
    for value in values:
        if value is not None and value.name:
            relations.freeze_value(value, _FREEZE)


def _freeze_but(relations: AxisRelations, value: ir.Value, kept: Sequence[int]) -> None:
    """Say that all axes of a value but those at some places have no factors."""
    for place, axis in enumerate(relations.axes(value) or ()):
        if place not in kept:
            relations.freeze(axis, _FREEZE)


def _alone(value: ir.Value) -> bool:
    """Whether a stored value has one reader and may be changed."""
    return (
        value.is_initializer()
        and len(value.uses()) == 1
        and not value.is_graph_output()
        and not value.is_graph_input()
        and value.dtype == ir.DataType.FLOAT
    )


def _floats(values: Sequence[ir.Value | None]) -> bool:
    return all(value is not None and value.dtype == ir.DataType.FLOAT for value in values)


def _absorbs(contraction: Contraction, relations: AxisRelations) -> bool:
    """Whether a weight and a bias can take up factors of what is read and made; if so, no other axis has any."""
    node, axis, bias = contraction.node, contraction.output_axis, contraction.own_bias
    known = bias is None or bias.value is None or bias.vector is not None
    product = len(contraction.fitted.signature.macs) == 1 and "activation" not in node.attributes
    if not (known and product and contraction.result and axis is not None and _alone(contraction.weight)):
        return False
    computed = [value for value in node.inputs if value is not None and constant(value) is None]
    data, result = relations.shape(contraction.data), relations.shape(node.outputs[0])
    if data is None or result is None or computed != [contraction.data] or not _floats(computed):
        return False
    groups, _, outputs = contraction.blocks().shape
    sizes = (groups * contraction.channels, groups * outputs)
    if (data[contraction.data_axis], result[axis]) != sizes or contraction.outputs != groups * outputs:
        return False
    _freeze_but(relations, contraction.data, (contraction.data_axis,))
    _freeze_but(relations, node.outputs[0], (axis,))
    return True


def _channel_product(node: ir.Node, relations: AxisRelations) -> ChannelProduct | None:
    """Return how a node multiplies channels by stored numbers that may be changed; None where it does not."""
    # What is homogeneous in its first operand and commutative is so in both.
    if not (has(node, Trait.HOMOGENEOUS) and has(node, Trait.COMMUTATIVE) and len(node.inputs) == 2):
        return None
    stored = [value for value in node.inputs if value is not None and constant(value) is not None and _alone(value)]
    computed = [value for value in node.inputs if value is not None and value not in stored]
    if len(stored) != 1 or len(computed) != 1 or not _floats(computed):
        return None
    (vector,), (data,), result = stored, computed, node.outputs[0]
    sizes, made, own = relations.shape(data), relations.shape(result), relations.shape(vector)
    if not sizes or made is None or own is None or sizes != made or len(own) > len(sizes):
        return None
    long = [axis for axis, size in enumerate(own, start=len(sizes) - len(own)) if size != 1]
    if len(long) != 1 or sizes[long[0]] is None or own[long[0] - len(sizes)] != sizes[long[0]]:
        return None
    pairs = zip(relations.axes(data) or (), relations.axes(result) or (), strict=True)
    for axis, (read, written) in enumerate(pairs):
        if axis != long[0]:
            relations.equate(read, written, node)
    _freeze(relations, stored)
    return ChannelProduct(data, result, long[0], vector)


def _homogeneous_in(node: ir.Node) -> int | None:
    """Return the input of a node that its result is homogeneous in; None where there is none."""
    if not has(node, Trait.HOMOGENEOUS) or fill(node) not in (None, 0.0):
        return None
    floats = [
        index
        for index, value in enumerate(node.inputs)
        if value is not None and constant(value) is None and not _whole_numbers(value)
    ]
    if not floats or not _floats([node.inputs[index] for index in floats]):
        return None
    swapped = has(node, Trait.COMMUTATIVE)
    if len(floats) == 1 and (floats == [0] or swapped):
        return floats[0]
    # A gate that is smaller than what it is multiplied with has no factors, as what makes it is not homogeneous.
    if len(floats) == 2 and swapped:
        full = node.outputs[0].shape
        shapes = {index: value.shape for index in floats if (value := node.inputs[index]) is not None}
        whole = [index for index, shape in shapes.items() if shape == full]
        return whole[0] if full is not None and len(whole) == 1 else None
    return None


def _whole_numbers(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_integer()


def _pass_through(node: ir.Node, indices: Sequence[int], relations: AxisRelations) -> None:
    """Say that some inputs and all results have one factor; along an axis that is repeated or summed up there is none.

    Where one stands for many, as in a product that broadcasts, all of them would have to have its factor.
    """
    if not (has(node, Trait.ELEMENTWISE) or has(node, Trait.WIDENS)):
        related = relations_of(NodeAxes(node, relations.shape))[1]
        relations.add(node, related)
        for relation in related:
            if isinstance(relation, AddsUp):
                relations.freeze((relations.axes(relation.axis.value) or ())[relation.axis.position], _FREEZE)
        return
    result = relations.axes(node.outputs[0])
    inputs = [value for value in (node.inputs[index] for index in indices) if value is not None]
    axes = [relations.axes(value) for value in inputs]
    if result is None or any(own is None or len(own) > len(result) for own in axes):
        _freeze(relations, (*inputs, *node.outputs))
        return
    for own in axes:
        own = own or ()
        missing = len(result) - len(own)
        for axis in result[:missing]:
            relations.freeze(axis, _FREEZE)
        for axis, made in zip(own, result[missing:], strict=True):
            if relations.sizes[axis] == relations.sizes[made]:
                relations.equate(axis, made, node)
            else:
                relations.freeze(axis, _FREEZE)
                relations.freeze(made, _FREEZE)


def _scale_and_shift(node: ir.Node, relations: AxisRelations) -> list[ir.Value]:
    """Return the stored scale and shift of a normalisation, which have the factors of its result; what is normalised
    has none. None where it is no normalisation, or they cannot be changed."""
    fitted = bind(node, relations.shape) if has(node, Trait.NORMALIZES_AND_SCALES) else None
    result = node.outputs[0]
    rank = len(relations.axes(result) or ())
    if fitted is None or not rank or not _floats([node.inputs[0]]):
        return []
    indices = [index for index in (input_index(node, name) for name in ("scale", "b")) if index is not None]
    pairs = [
        (fitted.signature.inputs[index], value)
        for index in indices
        for value in node.inputs[index : index + 1]
        if value is not None
    ]
    if not pairs or not all(constant(value) is not None and _alone(value) for _, value in pairs):
        return []
    made = [
        (dimension.factors, place, axis)
        for axis, (dimension, place) in enumerate(fitted.signature.outputs[0].axes(rank))
    ]
    joined: list[tuple[int, int, int]] = []
    for operand, value in pairs:
        own = relations.axes(value) or ()
        for axis, (dimension, place) in zip(own, operand.axes(len(own)), strict=True):
            position = next(
                (index for factors, of_made, index in made if (factors, of_made) == (dimension.factors, place)), None
            )
            if position is None or relations.sizes[axis] != relations.sizes[(relations.axes(result) or ())[position]]:
                return []
            joined.append((axis, (relations.axes(result) or ())[position], position))
    _freeze(relations, (node.inputs[0], *node.outputs[1:]))
    _freeze_but(relations, result, [position for _, _, position in joined])
    for axis, of_result, _ in joined:
        relations.equate(axis, of_result, node)
    return [value for _, value in pairs]
