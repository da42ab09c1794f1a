"""Contractions: nodes that multiply a value by a stored weight and sum over channels, found by their signatures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, overwrite
from onnxslim.ops.binding import BoundSignature, bind
from onnxslim.ops.families.window import Window
from onnxslim.ops.parameters import attribute
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.signatures import Operand
from onnxslim.ops.traits import Trait, has

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Bias:
    """The place of the vector that is added to what a contraction makes, whether there is one yet or not."""

    contraction: Contraction
    node: ir.Node
    """The contraction itself, or an addition that alone reads it."""
    index: int
    """The index of that input."""

    @property
    def own(self) -> bool:
        """Whether it is an input of the contraction itself."""
        return self.node is self.contraction.node

    @property
    def value(self) -> ir.Value | None:
        """The present value, None where there is none."""
        return self.node.inputs[self.index] if self.index < len(self.node.inputs) else None

    @property
    def vector(self) -> Array | None:
        """The vector, shape [output channels]: zeros where there is none; None where it is computed, or has more axes
        than the output channels."""
        size, array = self.contraction.outputs, constant(self.value)
        if self.value is None:
            return np.zeros(size)
        if array is None or array.shape[-1:] != (size,) or array.size != size:
            return None
        return array.astype(np.float64).ravel()

    @property
    def free(self) -> bool:
        """Whether other numbers may be written there, so that they are added to the output as they are.

        Not where the output is scaled or goes through an activation, nor where the bias is computed, shared, or laid
        out along more than the output channels.
        """
        alone = self.value is None or (self.value.is_initializer() and len(self.value.uses()) == 1)
        return alone and bool(self.contraction.result) and self.contraction.plain and self.vector is not None

    def write(self, editor: Editor, vector: Array) -> None:
        """Replace the vector, or add one; a vector that other nodes read as well stays for them.

        Args:
            editor: Of the model.
            vector: Shape [output channels].
        """
        value, array = self.value, constant(self.value)
        if value is not None and array is not None and len(value.uses()) == 1 and not value.is_graph_output():
            overwrite(value, vector)
            return
        if self.index >= len(self.node.inputs):
            self.node.resize_inputs(self.index + 1)
        weight = self.contraction.weight.dtype
        assert weight is not None
        own = vector.reshape(vector.shape if array is None else array.shape).astype(weight.numpy())
        self.node.replace_input_with(self.index, editor.initializer(f"{self.node.outputs[0].name}_bias", own))


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
        """Whether the node makes the sums as they are: not scaled, sent through an activation, or summed again, as in
        attention and recurrences."""
        attributes = self.node.attributes
        return (
            len(self.fitted.signature.macs) == 1
            and "activation" not in attributes
            and all(attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        )

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

    def matrix(self) -> Array:
        """Return the weight as a matrix of shape [columns, outputs], the columns as (channel, *kernel)."""
        return self.expanded().transpose(self._matrix_axes()).reshape(self.columns, self.outputs)

    def as_weight(self, matrix: Array) -> Array:
        """Return what `matrix` gives in the shape of the weight."""
        return self._restored(matrix, self._matrix_axes())

    def _matrix_axes(self) -> list[int]:
        result = self._result_axes
        return [axis for axis in range(len(self.letters)) if axis not in result] + result

    def blocks(self) -> Array:
        """Return the weight, shape [groups, columns, outputs of a group].

        The columns are (place of the window, channel of the group), as `onnxslim.observe.rows` makes them: neighbours
        lie along the channels.
        """
        axes = self._axes
        return self.expanded().transpose([axis for part in axes for axis in part]).reshape(self._block_shape())

    def from_blocks(self, blocks: Array) -> Array:
        """Return what `blocks` gives in the shape of the weight."""
        return self._restored(blocks, [axis for part in self._axes for axis in part])

    def _block_shape(self) -> tuple[int, int, int]:
        groups, kernel, channels, outputs = map(self._size, self._axes)
        return groups, kernel * channels, outputs

    def _restored(self, array: Array, order: Sequence[int]) -> Array:
        shape = () if self.weight.const_value is None else self.weight.const_value.shape.numpy()
        return array.reshape([self.sizes[axis] for axis in order]).transpose(np.argsort(order)).reshape(shape)

    def _size(self, axes: Iterable[int]) -> int:
        return math.prod(self.sizes[axis] for axis in axes)

    @property
    def bias(self) -> Bias | None:
        """Where a bias is, or could be: an input of its own, or of an addition of a constant vector that reads it
        alone; None where there is no place for one."""
        if self.bias_index is not None:
            return Bias(self, self.node, self.bias_index)
        other = _other_summand(self.node.outputs[0]) if self.result else None
        bias = None if other is None else Bias(self, *other)
        return bias if bias is not None and bias.value is not None and bias.vector is not None else None

    @property
    def biased_output(self) -> ir.Value:
        """The output of the node, with its bias."""
        bias = self.bias
        return self.node.outputs[0] if bias is None else bias.node.outputs[0]

    @property
    def residual(self) -> tuple[ir.Value, ir.Value] | None:
        """The sum of what the node makes, with its bias, and another computed value, and that value; None where it is
        read by anything else."""
        summand = _other_summand(self.biased_output)
        if summand is None:
            return None
        node, index = summand
        other = node.inputs[index]
        return None if other is None or constant(other) is not None else (node.outputs[0], other)

    def expanded(self) -> Array:
        """Return the weight with one axis for each factor, in the order of `letters`."""
        array = constant(self.weight)
        assert array is not None
        expanded: Array = array.astype(np.float64).reshape(self.sizes)
        return expanded

    def energy(self, second_moment: Array) -> Array:
        """Return for each channel of the data what it adds to the output, squared and summed over all else.

        Args:
            second_moment: The mean square (or the variance) of each channel of the data, shape [channels].
        """
        squares: Array = second_moment * self.reduce(self.expanded() ** 2, self.over).ravel()
        return squares

    def reduce(self, expanded: Array, letters: Iterable[str]) -> Array:
        """Sum over all factors but `letters`, which come in this order; a factor that the weight lacks has size 1."""
        reduced: Array = np.einsum(f"{self._subscripts(self.letters)}->{self._subscripts(letters)}", expanded)
        return reduced

    def _subscripts(self, letters: Iterable[str]) -> str:
        """Return one character for each of `letters` that the weight has, as einsum wants them."""
        names = {letter: chr(ord("a") + index) for index, letter in enumerate(self.letters)}
        return "".join(names.get(letter, "") for letter in letters)

    def shift(self, data: Array) -> Array:
        """Return what a constant input adds to each output channel, borders left aside: shape [output channels].

        Args:
            data: The constant at each channel of the data, shape [channels].
        """
        shape = [self.sizes[self.letters.index(letter)] for letter in self.over if letter in self.letters]
        inputs = f"{self._subscripts(self.letters)},{self._subscripts(self.over)}"
        shift: Array = np.einsum(
            f"{inputs}->{self._subscripts(self.result)}", self.expanded(), data.reshape(shape)
        ).ravel()
        if self.transposed:
            # The windows overlap: each place of the output is in `kernel / strides` of them on average.
            strides = attribute(self.node, "strides")
            shift /= math.prod(strides) if isinstance(strides, (tuple, list)) else 1
        return shift


def add_bias(
    editor: Editor, contraction: Contraction, shift: Array, *, kept: npt.NDArray[np.bool_] | None = None
) -> bool:
    """Add `shift` to the bias of a contraction; a node without one gets one, where its op has any.

    Args:
        editor: Of its model.
        contraction: The contraction.
        shift: Shape [output channels].
        kept: Of the output channels those that a bias that is new holds; None: all.

    Returns:
        Whether it was done: not where the bias is not `free`.
    """
    bias = contraction.bias
    if bias is None or not bias.free:
        return False
    vector = bias.vector
    assert vector is not None
    if bias.value is None:
        bias.write(editor, shift if kept is None else shift[kept])
    else:
        bias.write(editor, vector + shift)
    return True


def only_use(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the one node of its graph that reads a value, and as which input; None where there are other readers, or
    the value is an output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node, uses[0].idx


def _other_summand(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the sum of two values that alone reads `value`, and which input of it the other one is."""
    use = only_use(value)
    if use is None or not has(use[0], Trait.ADDS) or len(use[0].inputs) != 2:
        return None
    return use[0], 1 - use[1]


def contractions(nodes: Iterable[ir.Node]) -> Iterator[Contraction]:
    """Yield the contractions among `nodes`, in their order."""
    for node in nodes:
        fitted = bind(node)
        if fitted is None or not fitted.signature.macs:
            continue
        signature = fitted.signature
        present = [
            (index, operand, value)
            for index, (operand, value) in enumerate(zip(signature.inputs, node.inputs, strict=False))
            if value is not None and not operand.ignored and value.shape is not None
        ]
        for _, data_operand, data in present:
            if constant(data) is not None:
                continue
            for index, weight_operand, weight in present:
                array = weight.const_value if weight.is_initializer() and not weight.is_graph_input() else None
                summed = _letters(data_operand) & _letters(weight_operand) - signature.channels
                if array is None or len(array.shape) < 2 or len(summed) != 1 or not array.dtype.is_floating_point():
                    continue
                assert data.shape is not None
                axes = data_operand.axes(len(data.shape))
                axis = next(index for index, (dimension, _) in enumerate(axes) if summed & set(dimension.factors))
                letters, sizes = _expand(
                    fitted, weight_operand, tuple(size for size in array.shape if isinstance(size, int))
                )
                if math.prod(sizes) == array.size:
                    result, bias_index = _bias(fitted, set(letters))
                    over = axes[axis][0].factors
                    yield Contraction(fitted, data, axis, over, weight, index, letters, sizes, result, bias_index)


def _letters(operand: Operand) -> set[str]:
    return {letter for dimension in operand.dimensions if not dimension.ellipsis for letter in dimension.factors}


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
        if operand.ignored or not operand.dimensions or not _letters(operand) <= fitted.signature.channels:
            continue
        last = operand.dimensions[-1]
        if set(last.factors) <= weight_letters and (len(operand.dimensions) == 1 or operand.broadcasts):
            return last.factors, index
    # MatMul has no bias of its own; what may be added to it lies along its last axis.
    last_of_output = next((operand.dimensions[-1] for operand in fitted.signature.outputs if operand.dimensions), None)
    if last_of_output is None or last_of_output.ellipsis or not set(last_of_output.factors) <= weight_letters:
        return (), None
    return last_of_output.factors, None
