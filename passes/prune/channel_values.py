"""What is known of channels without running the model: which are constant, and which hold the same as another.

One walk along the nodes. What an op does to constants and to equals follows from its axis signature: a factor that
reaches the output and is not mixed is worked on place by place, so that equal inputs make equal outputs; a product
with zeros is zero. What else ops make of a constant `onnxslim.ops.constancy` says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions, is_plain
from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.evaluate import evaluate
from onnxslim.arrays import Floats, Indices, Mask
from onnxslim.model.constants import constant
from onnxslim.ops.binding import BoundSignature, FactorKey, bind, dimensions
from onnxslim.ops.op import Constancy
from onnxslim.ops.signatures import Operand
from onnxslim.ops.table import constancy


@dataclasses.dataclass(frozen=True)
class AxisValues:
    """What is known of the places along one axis of a value."""

    classes: Indices
    """Places with the same number hold the same, whatever the input is. Floats say nothing between two axes."""
    constant: Floats
    """The number that a place holds everywhere, whatever the input is; NaN where it is not known to be one."""

    def take(self, places: Indices) -> AxisValues:
        """Return what is known of some of the places."""
        return AxisValues(self.classes[places], self.constant[places])


def unknown(size: int) -> AxisValues:
    """Return that nothing is known: every place is another."""
    return AxisValues(np.arange(size), np.full(size, np.nan))


def classify(rows: npt.NDArray[np.generic]) -> Indices:
    """Return for each of `rows`, shape [n, ...], the number of the first that is equal to it bit by bit."""
    flat = np.ascontiguousarray(rows.reshape(len(rows), math.prod(rows.shape[1:])))
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), number) for number, row in enumerate(flat)], np.int64)


class ChannelValues:
    """What is known of the axes of all values of the main graph that hold channels that can be cut.

    Shapes are known as far as they can be. `follow` records what is known of the outputs of a node without a row of its
    own.
    """

    def __init__(self, model: ir.Model, coupling: Coupling, follow: Callable[[ChannelValues, ir.Node], None]) -> None:
        self.coupling = coupling
        self.opsets: Mapping[str, int] = model.graph.opset_imports
        self.contractions: dict[ir.Node, Contraction] = {}
        for contraction in contractions(model.graph):
            self.contractions.setdefault(contraction.node, contraction)
        self._known: dict[tuple[ir.Value, int], AxisValues] = {}
        self._holds: dict[int, bool] = {}
        for node in model.graph:
            fitted = bind(node)
            first = (*node.inputs[:1], *node.outputs[:1])
            if any(dimensions(value) is None for value in first if value is not None):
                continue  # nothing is known
            if fitted is not None:
                self._row(fitted)
            else:
                follow(self, node)

    def is_prunable(self, value: ir.Value, axis: int) -> bool:
        """Whether there are channels along an axis that can be cut."""
        axes = self.coupling.relations.values().get(value)
        if axes is None:
            return False
        root = self.coupling.relations.find(axes[axis])
        if root not in self._holds:
            labels = self.coupling.of_axis(root)
            self._holds[root] = labels is not None and len(self.coupling.labels.bases(labels)[1]) > 0
        return self._holds[root]

    def of(self, value: ir.Value, axis: int) -> AxisValues | None:
        """Return what is known along an axis of `value`; None where not even its size is."""
        key = (value, axis)
        if key not in self._known:
            array = constant(value)
            if array is not None and array.dtype.kind in "fiub":
                self._known[key] = _of_array(array, axis)
            else:
                labels = self.coupling.of(value, axis)
                if labels is None:
                    return None
                self._known[key] = unknown(len(labels))
        return self._known[key]

    def record(self, value: ir.Value, axis: int, along: AxisValues) -> None:
        """Take down what is known along an axis of `value`. Equal constants are equal places."""
        fixed = ~np.isnan(along.constant)
        if fixed.any():
            classes = along.classes.copy()
            numbers = classify(along.constant[fixed] + 0.0)
            classes[fixed] = classes.max(initial=0) + 1 + numbers
            along = AxisValues(classes, along.constant)
        self._known[value, axis] = along

    def contribution(
        self,
        fitted: BoundSignature,
        operand: Operand,
        value: ir.Value,
        keys: Sequence[FactorKey],
        lengths: Sequence[int],
    ) -> list[AxisValues]:
        """Return what one operand says of the places of a product of factors, for each of its axes that has any."""
        result: list[AxisValues] = []
        shape = value.shape if value.shape is not None else ()
        for axis, (dimension, place) in enumerate(operand.axes(len(shape))):
            own = [(factor, place) for factor in dimension.factors]
            shared = [key for key in keys if key in own]
            if not shared or (shape[axis] == 1 and (operand.broadcasts or dimension.ellipsis)):
                continue
            sizes = [int(key[0]) if key[0].isdigit() else fitted.sizes.get(key, 0) for key in own]
            along = self.of(value, axis)
            if along is None or math.prod(sizes) != len(along.classes):
                result.append(unknown(math.prod(lengths)))
                continue
            order = [own.index(key) for key in shared] + [index for index, key in enumerate(own) if key not in shared]
            count = math.prod(sizes[own.index(key)] for key in shared)
            spread = [length if key in shared else 1 for key, length in zip(keys, lengths, strict=True)]
            classes = classify(along.classes.reshape(sizes).transpose(order).reshape(count, -1))
            numbers = _common(along.constant.reshape(sizes).transpose(order).reshape(count, -1))
            result.append(
                AxisValues(
                    np.broadcast_to(classes.reshape(spread), lengths).ravel(),
                    np.broadcast_to(numbers.reshape(spread), lengths).ravel(),
                )
            )
        return result

    def _row(self, fitted: BoundSignature) -> None:
        """Follow a row of the table: places of a factor that reaches the output and is not mixed stay apart."""
        signature, node = fitted.signature, fitted.node
        for operand, value in zip(signature.outputs, node.outputs, strict=False):
            if not value.name or value.shape is None:
                continue
            for axis, (dimension, place) in enumerate(operand.axes(len(value.shape))):
                keys = [(factor, place) for factor in dimension.factors]
                lengths = [fitted.sizes.get(key, 0) for key in keys]
                letters = set(dimension.factors)
                size = value.shape[axis]
                if (
                    letters & (signature.mixed | signature.fixed)
                    or size != math.prod(lengths)
                    or recurrent(fitted, letters)
                    or not self.is_prunable(value, axis)
                ):
                    continue
                read = [
                    (source, along)
                    for source, data in fitted.operands()
                    if any(source is declared for declared in signature.inputs) and not source.ignored
                    for along in self.contribution(fitted, source, data, keys, lengths)
                ]
                if read:
                    classes = classify(np.stack([along.classes for _, along in read], axis=1))
                    self.record(value, axis, AxisValues(classes, self._constants(fitted, axis, keys, read)))

    def _constants(
        self, fitted: BoundSignature, axis: int, keys: Sequence[FactorKey], read: Sequence[tuple[Operand, AxisValues]]
    ) -> Floats:
        node = fitted.node
        size = len(read[0][1].classes)
        nothing = np.full(size, np.nan)
        if node.domain or any(operand.ignored for operand, _ in fitted.operands()):
            return nothing
        if fitted.signature.macs:
            return self._products(fitted, keys, read) if is_plain(fitted) else nothing
        first = read[0][1].constant
        keeps = constancy(node)
        if keeps is Constancy.EVALUATED and len(read) == len(node.inputs):
            return self._pointwise(node, axis, [along.constant for _, along in read])
        if keeps is Constancy.ZERO_KEPT:
            return np.where(first == 0, first, np.nan)
        return first if keeps is Constancy.KEPT else nothing

    def _pointwise(self, node: ir.Node, axis: int, inputs: Sequence[Floats]) -> Floats:
        """Ask the op what it makes of the constants: the data has its channels along `axis`, all else is a vector."""
        result = np.full(len(inputs[0]), np.nan)
        known = ~np.isnan(np.stack(inputs)).any(axis=0)
        if known.any():
            arrays = [numbers[known] for numbers in inputs]
            rank = len(node.outputs[0].shape or ())
            arrays[0] = arrays[0].reshape([-1 if position == axis else 1 for position in range(rank)])
            made = run_on(node, arrays, self.opsets)
            if made is not None and made.size == known.sum():
                result[known] = made.ravel()
        return result

    def _products(
        self, fitted: BoundSignature, keys: Sequence[FactorKey], operands: Sequence[tuple[Operand, AxisValues]]
    ) -> Floats:
        """Return what a sum of products is where it does not depend on the input: its bias, and what constants make."""
        size = len(operands[0][1].classes)
        factors = set(multiplied(fitted))
        zero = np.zeros(size, np.bool_)
        bias = np.zeros(size)
        for operand, value in fitted.operands():
            if operand in fitted.signature.outputs:
                continue
            own = [along.constant for source, along in operands if source is operand]
            if operand in factors:
                for numbers in own:
                    zero |= numbers == 0
            elif own:
                bias = bias + own[0]
            else:
                array = constant(value)  # one number for all
                bias = bias + (np.nan if array is None or array.size != 1 else float(array.ravel()[0]))
        result = np.where(zero, bias, np.nan)
        read = self.contractions.get(fitted.node)
        if read is None:
            return result
        data = self.of(read.data, read.data_axis)
        if data is None or np.isnan(data.constant).all():
            return result
        fixed = exactly_constant(read, data)
        letters = [key[0] if not key[1] else f"{key[0]}{key[1]}" for key in keys]
        if not set(letters) <= set(read.letters) or math.prod(
            length for letter, length in zip(read.letters, read.sizes, strict=True) if letter in letters
        ) != len(result):
            return result
        varying = read.contract(~fixed, letters, absolute=True) > 0
        shift = read.contract(np.where(fixed, data.constant, 0.0), letters)
        return np.where(np.isnan(result) & ~varying, bias + shift, result)


def multiplied(fitted: BoundSignature) -> list[Operand]:
    """Return the operands that are multiplied: those with a factor that is summed over. The others are added."""
    counted = {factor for term in fitted.signature.macs for factor in term} - fitted.signature.reaching
    return [
        operand
        for operand in fitted.signature.inputs
        if any(factor in counted for dimension in operand.dimensions for factor in dimension.factors)
    ]


def recurrent(fitted: BoundSignature, letters: set[str]) -> bool:
    """Whether an operand has one of the factors on two axes: what comes out goes in again."""
    return any(
        sum(letter in dimension.factors for dimension in operand.dimensions) > 1
        for operand in fitted.signature.inputs
        for letter in letters
    )


def exactly_constant(read: Contraction, data: AxisValues) -> Mask:
    """Return for each channel whether it is constant for its reader: at borders that are padded only 0 is."""
    padded = read.window is not None and (read.transposed or read.window.padded)
    fixed = ~np.isnan(data.constant)
    return np.asarray(fixed & (data.constant == 0) if padded else fixed)


def run_on(node: ir.Node, arrays: Sequence[npt.NDArray[np.generic] | None], opsets: Mapping[str, int]) -> Floats | None:
    """Return what `node` makes of arrays, in the types of its inputs; None where that is not known or not finite."""
    proto = ir.to_proto(node)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for index, (value, array) in enumerate(zip(node.inputs, arrays, strict=True)):
        if value is None or array is None:
            proto.input[index] = ""
            continue
        if value.dtype is None:
            return None
        proto.input[index] = f"input_{index}"
        feeds[f"input_{index}"] = array.astype(value.dtype.numpy())
    del proto.output[1:]
    proto.output[0] = "output"
    made = evaluate([proto], feeds, ["output"], opsets)
    if made is None or made[0].dtype.kind not in "fiub" or not np.isfinite(made[0].astype(np.float64)).all():
        return None
    return made[0].astype(np.float64)


def _of_array(array: npt.NDArray[np.generic], axis: int) -> AxisValues:
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    rows = rows + np.zeros(1, rows.dtype) if rows.dtype.kind == "f" else rows  # -0 is 0
    return AxisValues(classify(rows), _common(rows.astype(np.float64)))


def _common(rows: Floats) -> Floats:
    """Return for each row the number that all of it is, NaN where they differ."""
    if not rows.shape[1]:
        return np.full(len(rows), np.nan)
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)
