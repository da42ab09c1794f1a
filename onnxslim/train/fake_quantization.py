"""Quantized models as students: their weights are real numbers that each step rounds, and their scales are learned.

A stored weight of integers, and its scale, come back as integers afterwards, so that what was trained is the ordinary
QDQ model. Scales are trained as factors exp(t): a step changes each by a share of itself, and none becomes negative.
Gradients pass straight through the rounding (`onnxslim.ops.gradients.quantization`). Biases are trained as real
numbers, of which 32 bits are left in the end.

Sources: B. Jacob and others, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018; S. K. Esser and others, Learned Step Size Quantization, ICLR 2020.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Set

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import constant, stored_array
from onnxslim.model.edit import Editor, drop_unused, new_initializer, overwrite
from onnxslim.ops.fact import axis_of
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has, having
from onnxslim.train.sparsity import moving_integers

BIAS_BITS = 32
"""Integers of so many bits are biases, which lose nothing by the rounding."""
NATIVE_BITS = 8
"""QuantizeLinear makes integers of so many bits and more in every operator set that is trained; of fewer the levels are
cut off in front of it."""


@dataclasses.dataclass(frozen=True)
class StoredIntegers:
    """A DequantizeLinear of stored integers: a weight or a bias."""

    node: ir.Node
    integers: ir.Value
    """The initializer."""
    axis: int
    """Of the scales, where there are several."""
    name: str
    """What its real numbers are called in the student."""

    @property
    def is_bias(self) -> bool:
        """Whether rounding is left out of account."""
        return self.dtype.bitwidth >= BIAS_BITS

    @property
    def dtype(self) -> ir.DataType:
        """The type that it is stored as."""
        assert self.integers.dtype is not None
        return self.integers.dtype

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest integer that it may hold."""
        return int(self.dtype.min), int(self.dtype.max)

    @property
    def scale(self) -> Array:
        """The scales, as they broadcast to the integers."""
        return self.spread(stored_array(self.node.inputs[1]))

    @property
    def zero(self) -> Array:
        """The zero points, as they broadcast to the integers."""
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        return np.zeros(()) if value is None else self.spread(stored_array(value).astype(np.float64))

    def spread(self, array: Array) -> Array:
        """Return one number for each scale as it broadcasts to the integers."""
        rank = len(stored_array(self.integers).shape)
        if array.size == 1:
            return array.reshape(())
        return array.reshape([-1 if place == self.axis else 1 for place in range(rank)])

    @property
    def levels(self) -> Array:
        """The integers, zero points taken off."""
        levels: Array = stored_array(self.integers).astype(np.float64) - self.zero
        return levels

    @property
    def real(self) -> Array:
        """The real numbers that it stands for."""
        real: Array = (self.levels * self.scale).astype(np.float32)
        return real

    def rounded(self, real: Array) -> Array:
        """Return the integers that stand for real numbers on the scale as it is now."""
        low, high = self.limits
        levels = np.rint(real.astype(np.float64) / self.scale + self.zero)
        return np.clip(levels, low, high).astype(self.dtype.numpy())


@dataclasses.dataclass(frozen=True)
class QuantizedStudent:
    """A student that rounds as a quantized model does, and the way back."""

    model: ir.Model
    """To be trained."""
    parameters: tuple[str, ...]
    """Its initializers that are trained: real weights and biases, and the logarithms of factors of scales."""
    stored: tuple[StoredIntegers, ...]
    """The weights and biases of the quantized model."""
    factors: Mapping[ir.Value, str]
    """For each scale of the quantized model the parameter that it grows by."""
    repeated: Mapping[ir.Value, ir.Value] = dataclasses.field(default_factory=dict)
    """For scales of what is rounded on one scale, and read on as many equal ones as it has channels: that one."""

    @property
    def masks(self) -> Mapping[str, Array]:
        """For weights that were made sparse: 1 where they move and 0 where they stay zero."""
        found = {stored.name: moving_integers(stored.levels) for stored in self.stored if not stored.is_bias}
        return {name: mask for name, mask in found.items() if mask is not None}

    def parameters_of(self, stored: Iterable[StoredIntegers]) -> Set[str]:
        """Return the parameters that decide what integers some weights and biases are: real numbers, and scales."""
        chosen = list(stored)
        scales = {part.node.inputs[1] for part in chosen}
        return {part.name for part in chosen} | {name for scale, name in self.factors.items() if scale in scales}

    def write(self, trained: Mapping[str, Array]) -> None:
        """Write what was trained into the quantized model that the student was made of, in place.

        Args:
            trained: Parameters; what is missing stays as it was.
        """
        moved = {scale for scale, name in self.factors.items() if name in trained}
        reals = {
            stored: trained.get(stored.name, stored.real)
            for stored in self.stored
            if stored.is_bias or stored.name in trained or stored.node.inputs[1] in moved
        }
        for scale, name in self.factors.items():
            if name in trained:
                overwrite(scale, stored_array(scale) * np.exp(trained[name]))
        for copies, scale in self.repeated.items():
            overwrite(copies, np.full_like(stored_array(copies), stored_array(scale).reshape(())))
        for stored, real in reals.items():
            old = stored.node.inputs[1]
            product = _scale_of_sums(stored.node) if stored.is_bias else None
            if product is not None and not np.array_equal(product, stored_array(old)):
                graph = stored.node.graph
                assert isinstance(graph, ir.Graph)
                fresh = new_initializer(graph, _free(graph, f"{stored.name}_scale"), product)
                stored.node.replace_input_with(1, fresh)
                drop_unused(graph, [old])
            overwrite(stored.integers, stored.rounded(real))


Rounder = Callable[[Editor, StoredIntegers, ir.Node], ir.Value]
"""Inserts what makes a weight before the node that made it of integers; the initializer that is trained has the name of
what is stored."""


def quantized_student(model: ir.Model, base: ir.Model, rounder: Rounder | None = None) -> QuantizedStudent:
    """Return a student of a quantized model; without stored integers where it is not quantized.

    Args:
        model: In QDQ form. It is not changed here, but by `QuantizedStudent.write`.
        base: A copy of it, with values of the same names, at an operator set that is trained; changed in place.
        rounder: Makes the weights that the student multiplies by; None: real numbers are rounded in each step.
    """
    found = tuple(stored_integers(model.graph))
    pairs = ((node.inputs[1], rounds.inputs[1]) for node, rounds in _repeated_scales(model.graph))
    repeated = {copies: scale for copies, scale in pairs if copies is not None and scale is not None}
    for node, rounds in _repeated_scales(base.graph):  # on one scale there, which is learned
        for index in range(1, len(node.inputs)):
            node.replace_input_with(index, rounds.inputs[index] if index < len(rounds.inputs) else None)
        del node.attributes["axis"]
    scales = {
        scale.name or "": scale
        for node in having([model.graph], Trait.QUANTIZES, Trait.DEQUANTIZES)
        if (scale := node.inputs[1]) is not None and scale not in repeated and _is_learned(node, scale)
    }
    writer = _StudentWriter(base, scales, rounder)
    nodes = {node.outputs[0].name: node for node in base.graph}
    stored = tuple(writer.unround(kept, nodes[kept.node.outputs[0].name]) for kept in found)
    for node in having([base.graph], Trait.QUANTIZES, Trait.DEQUANTIZES):
        scale = node.inputs[1]
        if scale is not None and scale.name in scales:
            node.replace_input_with(1, writer.grown(scale.name or ""))
    drop_unused(base.graph)
    factors = {scales[name]: factor for name, factor in writer.factors.items()}
    return QuantizedStudent(base, (*writer.reals.values(), *factors.values()), stored, factors, repeated)


def _repeated_scales(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Yield each DequantizeLinear that repeats for each channel the one scale that its levels were made on, and the
    QuantizeLinear of that."""
    for node in having([graph], Trait.DEQUANTIZES):
        levels, own = node.inputs[0], constant(node.inputs[1])
        rounds = None if levels is None else levels.producer()
        if rounds is None or not has(rounds, Trait.QUANTIZES) or own is None or own.ndim != 1:
            continue
        scale = constant(rounds.inputs[1])
        if scale is not None and scale.size == 1 < own.size and (own == scale.reshape(())).all():
            yield node, rounds


def stored_integers(graph: ir.Graph) -> Iterator[StoredIntegers]:
    """Yield the weights and biases of a graph that are stored as integers, each scale for a tensor or along an axis."""
    for node in having([graph], Trait.DEQUANTIZES):
        source = node.inputs[0]
        conversion = None if source is None else source.producer()
        if conversion is not None and has(conversion, Trait.CONVERTS):  # of what is stored in fewer bits
            source = conversion.inputs[0]
        scale = constant(node.inputs[1])
        if source is None or not source.is_initializer() or source.is_graph_input() or scale is None:
            continue
        if scale.ndim < 2 and source.dtype is not None and source.dtype.is_integer():
            axis = attribute(node, "axis")
            rank = len(stored_array(source).shape)
            place = axis_of(axis, rank) if scale.size > 1 and isinstance(axis, int) else 0
            yield StoredIntegers(node, source, place, f"{source.name}/real")


def _is_learned(node: ir.Node, scale: ir.Value) -> bool:
    """Whether a scale is learned: one that is stored, of what is rounded in each step."""
    source = node.inputs[0]
    bias = source is not None and source.dtype is not None and source.dtype.bitwidth >= BIAS_BITS
    floats = has(node, Trait.QUANTIZES) or not bias
    array = constant(scale) if scale.is_initializer() and not scale.is_graph_input() else None
    return floats and array is not None and array.ndim < 2 and array.dtype == np.float32


class _StudentWriter:
    """Puts real numbers and learned scales into a student."""

    def __init__(self, base: ir.Model, scales: Mapping[str, ir.Value], rounder: Rounder | None) -> None:
        self._editor = Editor(base)
        self._graph = base.graph
        self._scales = scales
        self._rounder = rounder
        self._grown: dict[str, ir.Value] = {}
        self.factors: dict[str, str] = {}
        self.reals: dict[tuple[ir.Value, ir.Value | None], str] = {}
        """The parameter of each stored weight, by its integers and its scales: several nodes may read one."""

    def grown(self, name: str) -> ir.Value:
        """Return a scale times the exponential of a parameter that is 0 at first."""
        if name not in self._grown:
            array = stored_array(self._scales[name])
            factor = self._editor.initializer(f"{name}/growth", np.zeros_like(array))
            first = self._editor.initializer(f"{name}/first", array)
            self.factors[name] = factor.name or ""
            start = self._graph[0]
            growth = self._add("Exp", [factor], start)
            self._grown[name] = self._add("Mul", [growth, first], start)
        return self._grown[name]

    def unround(self, stored: StoredIntegers, node: ir.Node) -> StoredIntegers:
        """Let a DequantizeLinear of integers read those that a trained weight is rounded to; a bias goes around it.

        Returns:
            What was given, with the name that its real numbers have in the student.
        """
        key = stored.integers, stored.node.inputs[1]
        if self._rounder is not None and not stored.is_bias:
            made = self._rounder(self._editor, stored, node)
            node.outputs[0].replace_all_uses_with(made)
            self._graph.remove(node, safe=True)
            self.reals[key] = stored.name
            return stored
        if key not in self.reals:
            self.reals[key] = self._editor.initializer(stored.name, stored.real).name or ""
        real = self._graph.initializers[self.reals[key]]
        if stored.is_bias:
            node.outputs[0].replace_all_uses_with(real)
            self._graph.remove(node, safe=True)
        else:
            self._round(stored, node, real)
        return dataclasses.replace(stored, name=self.reals[key])

    def _round(self, stored: StoredIntegers, node: ir.Node, real: ir.Value) -> None:
        output, scale = node.outputs[0], node.inputs[1]
        learned = scale is not None and scale.name in self._scales
        own = self.grown(scale.name or "") if scale is not None and learned else scale
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        axis = {"axis": stored.axis}
        if stored.dtype.bitwidth >= NATIVE_BITS:
            levels = self._add("QuantizeLinear", [real, own, zero or self._zero(stored)], node, axis)
            node.replace_input_with(0, levels)
            return
        low, high = stored.limits
        count = stored_array(scale).size
        shape = [count if place == stored.axis else 1 for place in range(stored.real.ndim)] if count > 1 else []
        spread = self._add("Reshape", [own, self._editor.initializer("shape", np.array(shape, np.int64))], node)
        ratio = self._add("Div", [real, spread], node)
        offset = stored.zero.reshape(-1)[:1].reshape(()) if np.ptp(stored.zero) == 0 else stored.zero
        least, most = (self._editor.initializer("limit", np.asarray(end - offset, np.float32)) for end in (low, high))
        if offset.ndim:  # each channel ends elsewhere
            held = self._add("Min", [self._add("Max", [ratio, least], node), most], node)
        else:
            held = self._add("Clip", [ratio, least, most], node)
        unit = self._editor.initializer("unit", np.ones((), np.float32))
        none = self._editor.initializer("none", np.zeros((), np.int8))
        levels = self._add("QuantizeLinear", [held, unit, none], node)
        rounded = self._add("DequantizeLinear", [levels, unit, none], node)
        whole = self._add("Mul", [rounded, spread], node)
        output.replace_all_uses_with(whole)
        self._graph.remove(node, safe=True)

    def _zero(self, stored: StoredIntegers) -> ir.Value:
        scale = stored_array(stored.node.inputs[1])
        return self._editor.initializer(f"{stored.name}/zero", np.zeros(scale.shape, stored.dtype.numpy()))

    def _add(
        self, op_type: str, inputs: list[ir.Value | None], before: ir.Node, attributes: Mapping[str, int] | None = None
    ) -> ir.Value:
        """Insert a node before another one, and return its output."""
        node = ir.node(op_type, inputs, dict(attributes or {}))
        node.outputs[0].name = self._editor.numbered("learned_")
        self._graph.insert_before(before, node)
        return node.outputs[0]


def _scale_of_sums(bias: ir.Node) -> Array | None:
    """Return the product of the scales of what a bias is added to: integer kernels add it as it is."""
    for use in bias.outputs[0].uses():
        makers = [None if value is None else value.producer() for value in use.node.inputs[:2]]
        if len(makers) == 2 and all(maker is not None and has(maker, Trait.DEQUANTIZES) for maker in makers):
            data, weight = (stored_array(maker.inputs[1]) for maker in makers if maker is not None)
            own = stored_array(bias.inputs[1])
            product: Array = (data.reshape(-1) * weight.reshape(-1)).astype(np.float32)
            return product.reshape(own.shape) if product.size == own.size else None
    return None


def _free(graph: ir.Graph, wanted: str) -> str:
    return wanted if wanted not in graph.initializers else _free(graph, f"{wanted}_")
