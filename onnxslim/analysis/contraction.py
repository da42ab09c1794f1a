"""Contractions: nodes that multiply a value by a stored weight and sum over channels, found by their signatures."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.bias import Bias, other_summand
from onnxslim.arrays import Floats
from onnxslim.model.constants import constant, constant_tensor
from onnxslim.ops.binding import BoundSignature, bind, output_channel_axis
from onnxslim.ops.families.window import Window
from onnxslim.ops.parameters import attribute
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.signatures import Operand


class WeightAxes(NamedTuple):
    """The axes of an expanded weight by what they are, in the order of `Contraction.blocks`."""

    groups: tuple[int, ...]
    """Those that are summed over by nobody else: groups of channels that do not meet."""
    kernel: tuple[int, ...]
    channels: tuple[int, ...]
    """Those that are summed over."""
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A node that multiplies `data` by `weight` and sums over channels of `data`."""

    fitted: BoundSignature
    data: ir.Value
    data_axis: int
    """The axis of `data` that is summed over, or that holds what is."""
    over: tuple[str, ...]
    """The factors of that axis."""
    weight: ir.Value
    weight_index: int
    letters: tuple[str, ...]
    """The factors of the axes of the weight, one after the other; the places of an ellipsis are numbered."""
    sizes: tuple[int, ...]
    """The length of each of them."""
    result: tuple[str, ...]
    """The factors of the axis of the output that a bias belongs to; empty where there is none."""
    bias_index: int | None
    """The index of the input that is the bias, whether the node has it or not."""

    @property
    def node(self) -> ir.Node:
        """The node."""
        return self.fitted.node

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sizes of the window; empty where there is none."""
        return tuple(self.sizes[axis] for axis in self._axes.kernel)

    @functools.cached_property
    def window(self) -> Window | None:
        """The window of a convolution; None for products of matrices."""
        return Window.of(NodeAxes(self.node), len(self.kernel), self.kernel) if self.kernel else None

    @property
    def transposed(self) -> bool:
        """Whether the windows lie in the output, where they overlap, and not in the input."""
        return bool(self.kernel) and self._axes.channels < self._axes.outputs

    @functools.cached_property
    def _axes(self) -> WeightAxes:
        reaching = self.fitted.signature.reaching
        axes = WeightAxes((), (), (), ())
        for axis, letter in enumerate(self.letters):
            if letter in self.over:
                name = "groups" if letter in reaching else "channels"
            else:  # the places of a window are numbered; what reaches the output as well is a product for each place
                window = letter[0].isalpha() and letter[-1].isdigit() and letter[0] not in reaching
                name = "kernel" if window else "outputs"
            axes = axes._replace(**{name: (*getattr(axes, name), axis)})
        return axes

    @functools.cached_property
    def weight_axis(self) -> int | None:
        """The axis of the weight, as it is stored, that holds the output channels; None where no axis holds just them:
        groups of a ConvTranspose."""
        return output_channel_axis(self.node, self.weight_index)

    @property
    def outputs_first(self) -> bool:
        """Whether the weight is stored with its outputs before its channels."""
        return self._axes.outputs < self._axes.channels

    @property
    def _result_axes(self) -> list[int]:
        if not self.result:  # as the left factor of a product
            return [*self._axes.groups, *self._axes.outputs]
        return [axis for axis, letter in enumerate(self.letters) if letter in self.result]

    @property
    def plain(self) -> bool:
        """Whether the node makes the sums as they are, see `is_plain`."""
        return is_plain(self.fitted)

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self._size(self._result_axes)

    @property
    def columns(self) -> int:
        """Weights of each output channel."""
        return math.prod(self.sizes) // self.outputs

    @property
    def groups(self) -> int:
        """Groups of channels that do not meet: 1 but for grouped convolutions."""
        return self._size(self._axes.groups)

    @property
    def depthwise(self) -> bool:
        """Whether each output is made of one channel, which no other output reads."""
        return self.groups == self.outputs and self.channels == 1

    @property
    def channels(self) -> int:
        """Channels of the data that each group reads."""
        return self._size(self._axes.channels)

    @property
    def output_axis(self) -> int | None:
        """The axis of the output that holds the output channels; None where there is none."""
        axes = self.fitted.signature.outputs[0].axes(len(self.node.outputs[0].shape or ()))
        outputs = self.result or tuple(self.letters[axis] for axis in self._result_axes)
        return next((axis for axis, (dimension, _) in enumerate(axes) if dimension.factors == outputs), None)

    @property
    def regular(self) -> bool:
        """Whether each output is a sum over channels, and over a window of the data where there is one: not where the
        weight is several, one behind the other."""
        windows = [letter for letter in self.letters if letter not in self.over and letter not in self.result]
        several = any(letter[0] in self.fitted.signature.reaching or letter.isdigit() for letter in windows)
        return not self.transposed and bool(self.result) and not several

    def matrix(self) -> Floats:
        """Return the weight as a matrix of shape [columns, outputs], the columns as (channel, *kernel)."""
        return self.expanded().transpose(self._matrix_axes()).reshape(self.columns, self.outputs)

    def as_weight(self, matrix: Floats) -> Floats:
        """Return what `matrix` gives in the shape of the weight."""
        return self._restored(matrix, self._matrix_axes())

    def _matrix_axes(self) -> list[int]:
        result = self._result_axes
        return [axis for axis in range(len(self.letters)) if axis not in result] + result

    def blocks(self) -> Floats:
        """Return the weight, shape [groups, columns, outputs of a group].

        The columns are (place of the window, channel of the group), as `onnxslim.observe.rows` makes them: neighbours
        lie along the channels.
        """
        groups, kernel, channels, outputs = map(self._size, self._axes)
        return self.expanded().transpose(list(itertools.chain(*self._axes))).reshape(groups, kernel * channels, outputs)

    def from_blocks(self, blocks: Floats) -> Floats:
        """Return what `blocks` gives in the shape of the weight."""
        return self._restored(blocks, list(itertools.chain(*self._axes)))

    def _restored(self, array: Floats, order: Sequence[int]) -> Floats:
        shape = () if self.weight.const_value is None else self.weight.const_value.shape.numpy()
        return array.reshape([self.sizes[axis] for axis in order]).transpose(np.argsort(order)).reshape(shape)

    def _size(self, axes: Iterable[int]) -> int:
        return math.prod(self.sizes[axis] for axis in axes)

    @property
    def bias(self) -> Bias | None:
        """Where a bias is, or could be: an input of its own, or of an addition of a constant vector that reads it
        alone; None where there is no place for one."""
        if self.bias_index is not None:
            return self.own_bias
        place = other_summand(self.node.outputs[0]) if self.result else None
        if place is None:
            return None
        bias = Bias(*place, False, self.plain, self.outputs, self.weight.dtype)
        return bias if bias.value is not None and bias.vector is not None else None

    @property
    def own_bias(self) -> Bias | None:
        """The place of the bias among the inputs of the node, whether it has one or not; None where the op has none."""
        if self.bias_index is None:
            return None
        plain = bool(self.result) and self.plain
        return Bias(self.node, self.bias_index, True, plain, self.outputs, self.weight.dtype)

    @property
    def biased_output(self) -> ir.Value:
        """The output of the node, with its bias."""
        bias = self.bias
        return self.node.outputs[0] if bias is None else bias.node.outputs[0]

    @property
    def residual(self) -> tuple[ir.Value, ir.Value] | None:
        """The sum of what the node makes, with its bias, and another computed value, and that value; None where it is
        read by anything else."""
        summand = other_summand(self.biased_output)
        if summand is None:
            return None
        node, index = summand
        other = node.inputs[index]
        return None if other is None or constant(other) is not None else (node.outputs[0], other)

    def expanded(self) -> Floats:
        """Return the weight with one axis for each factor, in the order of `letters`."""
        array = constant(self.weight)
        assert array is not None
        expanded: Floats = array.astype(np.float64).reshape(self.sizes)
        return expanded

    def energy(self, second_moment: Floats) -> Floats:
        """Return for each channel of the data what it adds to the output, squared and summed over all else.

        Args:
            second_moment: The mean square (or the variance) of each channel of the data, shape [channels].
        """
        squares: Floats = second_moment * self.reduce(self.expanded() ** 2, self.over).ravel()
        return squares

    def reduce(self, expanded: Floats, letters: Iterable[str]) -> Floats:
        """Sum over all factors but `letters`, which come in this order; a factor that the weight lacks has size 1."""
        reduced: Floats = np.einsum(f"{self._subscripts(self.letters)}->{self._subscripts(letters)}", expanded)
        return reduced

    def _subscripts(self, letters: Iterable[str]) -> str:
        """Return one character for each of `letters` that the weight has, as einsum wants them."""
        names = {letter: chr(ord("a") + index) for index, letter in enumerate(self.letters)}
        return "".join(names.get(letter, "") for letter in letters)

    def contract(self, data: npt.NDArray[np.generic], letters: Iterable[str], *, absolute: bool = False) -> Floats:
        """Return what a constant input adds to the places of some factors of the output, borders left aside.

        Args:
            data: The constant at each channel of the data, shape [channels].
            letters: The factors.
            absolute: Multiply by the magnitudes of the weight.
        """
        shape = [self.sizes[self.letters.index(letter)] for letter in self.over if letter in self.letters]
        subscripts = f"{self._subscripts(self.letters)},{self._subscripts(self.over)}->{self._subscripts(letters)}"
        weight = np.abs(self.expanded()) if absolute else self.expanded()
        made: Floats = np.einsum(subscripts, weight, data.astype(np.float64).reshape(shape))
        return made.ravel()

    def shift(self, data: Floats) -> Floats:
        """Return what a constant input adds to each output channel, borders left aside: shape [output channels].

        Args:
            data: The constant at each channel of the data, shape [channels].
        """
        shift = self.contract(data, self.result)
        if self.transposed:
            # The windows overlap: each place of the output is in `kernel / strides` of them on average.
            strides = attribute(self.node, "strides")
            shift /= math.prod(strides) if isinstance(strides, (tuple, list)) else 1
        return shift


def is_plain(fitted: BoundSignature) -> bool:
    """Whether a node makes the sums as they are: not scaled, sent through an activation, or summed again, as in
    attention and recurrences."""
    attributes = fitted.node.attributes
    scaled = any(attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return len(fitted.signature.macs) == 1 and not scaled and "activation" not in attributes


def contractions(nodes: Iterable[ir.Node], *, unranked: bool = False) -> Iterator[Contraction]:
    """Yield the contractions among `nodes`, in their order; of data of unknown rank, whose `data_axis` means nothing
    then, only where `unranked` asks for them."""
    for node in nodes:
        fitted = bind(node)
        if fitted is None or not fitted.signature.macs:
            continue
        present = [
            (index, operand, value)
            for index, (operand, value) in enumerate(zip(fitted.signature.inputs, node.inputs, strict=False))
            if value is not None and not operand.ignored and (unranked or value.shape is not None)
        ]
        for (_, operand, data), stored in itertools.product(present, present):
            found = _contraction(fitted, operand, data, *stored) if constant_tensor(data) is None else None
            if found is not None:
                yield found


def _contraction(
    fitted: BoundSignature, operand: Operand, data: ir.Value, index: int, weight_operand: Operand, weight: ir.Value
) -> Contraction | None:
    """Return how a node multiplies `data` by its input `index`; None where that is not stored, or nothing is summed."""
    array = weight.const_value if weight.is_initializer() and not weight.is_graph_input() else None
    summed = operand.channels & weight_operand.channels - fitted.signature.channels
    if array is None or len(array.shape) < 2 or len(summed) != 1 or not array.dtype.is_floating_point():
        return None
    axes = operand.axes(len(operand.dimensions if data.shape is None else data.shape))
    axis = next(index for index, (dimension, _) in enumerate(axes) if summed & set(dimension.factors))
    letters, sizes = _expand(fitted, weight_operand, tuple(size for size in array.shape if isinstance(size, int)))
    if math.prod(sizes) != array.size:
        return None
    result, bias_index = _bias(fitted, set(letters))
    return Contraction(fitted, data, axis, axes[axis][0].factors, weight, index, letters, sizes, result, bias_index)


def _expand(
    fitted: BoundSignature, operand: Operand, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    letters: list[str] = []
    sizes: list[int] = []
    for (dimension, place), size in zip(operand.axes(len(shape)), shape, strict=True):
        if dimension.ellipsis:
            letters.append(f"{dimension.factors[0]}{place}")
            sizes.append(size)
        elif len(dimension.factors) == 1:
            letters.append(dimension.factors[0])
            sizes.append(size)
        else:
            letters += dimension.factors
            sizes += [fitted.size(factor) for factor in dimension.factors]
    return tuple(letters), tuple(sizes)


def _bias(fitted: BoundSignature, weight_letters: set[str]) -> tuple[tuple[str, ...], int | None]:
    """Return the factors and the place of the operand that is added: it has only axes that reach the output."""
    for index, operand in enumerate(fitted.signature.inputs):
        if operand.ignored or not operand.dimensions or not operand.channels <= fitted.signature.channels:
            continue
        last = operand.dimensions[-1]
        if set(last.factors) <= weight_letters and (len(operand.dimensions) == 1 or operand.broadcasts):
            return last.factors, index
    # MatMul has no bias of its own; what may be added to it lies along its last axis.
    last_of_output = next((operand.dimensions[-1] for operand in fitted.signature.outputs if operand.dimensions), None)
    if last_of_output is None or last_of_output.ellipsis or not set(last_of_output.factors) <= weight_letters:
        return (), None
    return last_of_output.factors, None
