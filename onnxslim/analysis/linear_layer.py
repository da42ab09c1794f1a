"""Where channels are read: nodes that multiply a value by a stored weight and sum over channels, and how, by their
signature."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, overwrite
from onnxslim.ops.binding import BoundSignature, bind
from onnxslim.ops.parameters import attribute
from onnxslim.ops.signatures import Operand

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """One such node: `data` times `weight`, summed over channels of `data`."""

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
    """How long each of them is."""
    result: tuple[str, ...]
    """The factors of the axis of the output that a bias belongs to; empty where there is none."""
    bias_index: int | None
    """Which input is the bias, whether the node has it or not."""

    @property
    def node(self) -> ir.Node:
        """The node."""
        return self.fitted.node

    @property
    def window(self) -> bool:
        """Whether the weight has a window (a convolution) and not just two sides."""
        return bool(self.kernel)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sizes of the window."""
        return tuple(
            size
            for letter, size in zip(self.letters, self.sizes, strict=True)
            if letter[0].isalpha() and letter[-1].isdigit()
        )

    @property
    def transposed(self) -> bool:
        """Whether the windows lie in the output, where they overlap, and not in the input."""
        summed = [at for at, letter in enumerate(self.letters) if letter in self.over and letter not in self.result]
        reaching = [at for at, letter in enumerate(self.letters) if letter in self.result and letter not in self.over]
        return self.window and summed < reaching

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
        """How many output channels there are."""
        return math.prod(size for letter, size in zip(self.letters, self.sizes, strict=True) if letter in self.result)

    @property
    def columns(self) -> int:
        """How many weights each output channel has."""
        return math.prod(self.sizes) // self.outputs

    def matrix(self) -> Array:
        """Return the weight as a matrix of shape [columns, outputs], the columns as (channel, *kernel)."""
        return self.expanded().transpose(self._as_matrix()).reshape(self.columns, self.outputs)

    @property
    def groups(self) -> int:
        """How many groups of channels there are that do not meet: 1 but for grouped convolutions."""
        return math.prod(
            size
            for letter, size in zip(self.letters, self.sizes, strict=True)
            if letter in self.over and letter in self.result
        )

    @property
    def regular(self) -> bool:
        """Whether each output is a sum over channels, and over a window of the data where there is one: not where the
        weight is several, one behind the other."""
        outputs = self.fitted.signature.reaching
        windows = [letter for letter in self.letters if letter not in self.over and letter not in self.result]
        several = any(letter[0] in outputs or letter.isdigit() for letter in windows)
        return not self.transposed and bool(self.result) and not several

    def blocks(self) -> Array:
        """Return the weight of a regular contraction, shape [groups, columns, outputs of a group].

        The columns are (place of the window, channel of the group), as `onnxslim.observe.rows` makes them.
        """
        return (
            self.matrix()
            .reshape(-1, self._places(), self.groups, self.outputs // self.groups)
            .transpose(2, 1, 0, 3)
            .reshape(self.groups, self.columns, -1)
        )

    def from_blocks(self, blocks: Array) -> Array:
        """Return what `matrix` gives, of what `blocks` gives."""
        return (
            blocks.reshape(self.groups, self._places(), -1, self.outputs // self.groups)
            .transpose(2, 1, 0, 3)
            .reshape(self.columns, self.outputs)
        )

    def _places(self) -> int:
        return math.prod(self.kernel)

    def _as_matrix(self) -> list[int]:
        reaching = [at for at, letter in enumerate(self.letters) if letter in self.result]
        return [at for at in range(len(self.letters)) if at not in reaching] + reaching

    def write(self, editor: Editor, matrix: Array, bias: Array) -> None:
        """Replace the weight and the bias; a node without bias gets one, where its op has any."""
        overwrite(self.weight, self.as_weight(matrix))
        add_bias(editor, self, bias, replace=True)

    def as_weight(self, matrix: Array) -> Array:
        """Return what `matrix` gives in the shape of the weight."""
        order = self._as_matrix()
        array = constant(self.weight)
        assert array is not None
        return matrix.reshape([self.sizes[at] for at in order]).transpose(np.argsort(order)).reshape(array.shape)

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
        names = {letter: chr(ord("a") + at) for at, letter in enumerate(self.letters)}
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


def bias_place(contraction: Contraction) -> tuple[ir.Node, int] | None:
    """Return the node and the input that hold the bias of a contraction, or could: its own, or those of an addition
    of a constant vector that reads it alone; None where there is none."""
    if contraction.bias_index is not None:
        return contraction.node, contraction.bias_index
    output = contraction.node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or not contraction.result:
        return None
    reader = uses[0].node
    if (reader.domain, reader.op_type) not in _ADDITIONS:
        return None
    other = reader.inputs[1 - uses[0].idx]
    held = constant(other)
    if other is None or held is None or held.ndim == 0 or held.size != held.shape[-1]:
        return None
    return (reader, 1 - uses[0].idx) if held.size == contraction.outputs else None


_ADDITIONS = frozenset({("", "Add")})
"""The ops that may add a bias to what another node made."""


def own_bias(contraction: Contraction) -> tuple[ir.Node, int] | None:
    """Return `bias_place` where a bias can be written, so that it is added to the output as it is.

    Returns:
        None where there is no place, or the output is scaled or goes through an activation, or where the bias is
        computed, shared, or laid out along more than the output channels.
    """
    place = bias_place(contraction)
    if place is None or not contraction.result or not contraction.plain:
        return None
    node, index = place
    bias = node.inputs[index] if index < len(node.inputs) else None
    if bias is None:
        return place
    held = constant(bias)
    if held is None or not bias.is_initializer() or len(bias.uses()) != 1:
        return None
    return place if held.ndim and held.size == contraction.outputs == held.shape[-1] else None


def add_bias(
    editor: Editor,
    contraction: Contraction,
    shift: Array,
    *,
    replace: bool = False,
    kept: npt.NDArray[np.bool_] | None = None,
) -> bool:
    """Add `shift` to the bias of a contraction, or put it in its place.

    Args:
        editor: Of its model.
        contraction: The contraction.
        shift: Shape [output channels].
        replace: Put it in place of what is there.
        kept: Of the output channels those that a bias that is new holds; None: all.

    Returns:
        Whether it was done: not where `own_bias` knows no place.
    """
    place = own_bias(contraction)
    if place is None:
        return False
    node, index = place
    bias = node.inputs[index] if index < len(node.inputs) else None
    held = constant(bias)
    if bias is None or held is None:
        weight = constant(contraction.weight)
        assert weight is not None
        if len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        own = (shift if kept is None else shift[kept]).astype(weight.dtype)
        node.replace_input_with(index, editor.initializer(f"{node.outputs[0].name}_bias", own))
        return True
    overwrite(bias, shift if replace else held.astype(np.float64).ravel() + shift)
    return True


def contractions(nodes: Iterable[ir.Node]) -> Iterator[Contraction]:
    """Yield the contractions among `nodes`, in their order."""
    for node in nodes:
        fitted = bind(node)
        if fitted is None or not fitted.signature.macs:
            continue
        signature = fitted.signature
        present = [
            (at, operand, value)
            for at, (operand, value) in enumerate(zip(signature.inputs, node.inputs, strict=False))
            if value is not None and not operand.ignored and value.shape is not None
        ]
        for _, data_operand, data in present:
            if constant(data) is not None:
                continue
            for at, weight_operand, weight in present:
                array = weight.const_value if weight.is_initializer() and not weight.is_graph_input() else None
                summed = _letters(data_operand) & _letters(weight_operand) - signature.channels
                if array is None or len(array.shape) < 2 or len(summed) != 1 or not array.dtype.is_floating_point():
                    continue
                assert data.shape is not None
                axes = data_operand.axes(len(data.shape))
                axis = next(at for at, (dimension, _) in enumerate(axes) if summed & set(dimension.factors))
                letters, sizes = _expand(
                    fitted, weight_operand, tuple(size for size in array.shape if isinstance(size, int))
                )
                if math.prod(sizes) == array.size:
                    result, bias_index = _bias(fitted, set(letters))
                    over = axes[axis][0].factors
                    yield Contraction(fitted, data, axis, over, weight, at, letters, sizes, result, bias_index)


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
    for at, operand in enumerate(fitted.signature.inputs):
        if operand.ignored or not operand.dimensions or not _letters(operand) <= fitted.signature.channels:
            continue
        last = operand.dimensions[-1]
        if set(last.factors) <= weight_letters and (len(operand.dimensions) == 1 or operand.broadcasts):
            return last.factors, at
    # MatMul has no bias of its own; what may be added to it lies along its last axis.
    last_of_output = next((operand.dimensions[-1] for operand in fitted.signature.outputs if operand.dimensions), None)
    if last_of_output is None or last_of_output.ellipsis or not set(last_of_output.factors) <= weight_letters:
        return (), None
    return last_of_output.factors, None
