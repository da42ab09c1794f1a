"""Draws operands for the left side of a rule: tensors by its signature, and attributes that make sense there.

The left side is walked in order. A parameter is drawn where it is first used, when the shapes of the values before it
are known: ``axes`` of a Squeeze are axes of size one of its input, ``shape`` of a Reshape has as many elements. The
meaning of a parameter follows from its name in the schema, which ONNX gives to the same thing everywhere (`INPUTS`,
`ATTRIBUTES`), and where that is not enough from traits of the op.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx.defs
import onnx.helper
import onnx_ir as ir

from onnxslim.analysis.evaluate import evaluate
from onnxslim.arrays import Array
from onnxslim.model.schemas import find_schema
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.match import Bound, literal
from onnxslim.rewrite.rule import IMPORTED_VERSION, BodyNode, Reference, Rule
from onnxslim.rewrite.signature import DimensionRun, Parameter, TensorType

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")

DRAWN_TYPES: Mapping[str, tuple[ir.DataType, ...]] = {
    "floating": (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.DOUBLE),
    "integer": (ir.DataType.INT64, ir.DataType.INT32),
    "numeric": (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.DOUBLE),
    "any": (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.INT32),
}
"""What stands for a class of element types in a test: those that ONNX Runtime has CPU kernels for."""

LARGEST_SIZE = 4
MOST_ONES = 5
"""Axes of size 1 of a run of ones: as many as make a result of more axes than all others have."""


class Draw(Protocol):
    """Where choices come from: hypothesis, which can make them simpler, or a generator of random numbers."""

    def integer(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included."""

    def choice(self, items: Sequence[Item]) -> Item:
        """Return one of `items`; the first is the simplest."""


class NoProgram(Exception):  # no error: what was drawn does not fit together
    """The left side does not run on what was drawn."""


@dataclasses.dataclass
class Sample:
    """What the left side was run on, and what it made."""

    arrays: dict[str, Array | None]
    """Parameters, results and what lies between; None: a missing optional input."""
    attributes: dict[str, Bound]


class Sampler:
    """Draws one sample for a rule."""

    def __init__(self, rule: Rule, draw: Draw) -> None:
        self.rule, self.draw = rule, draw
        self.parameters = {parameter.name: parameter for parameter in rule.parameters}
        self.random = np.random.default_rng(draw.integer(0, 1 << 16))
        self.sizes: dict[str, int] = {}
        self.runs: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, ir.DataType] = {}
        self.run_length = draw.choice((2, 1, 0, 3))
        self.base = tuple(draw.integer(1, 3) for _ in range(draw.choice((2, 1, 3, 0, 4))))
        self.arrays: dict[str, Array | None] = {}
        self.attributes: dict[str, Bound] = {}

    def sample(self) -> Sample:
        """Draw everything and run the left side, op by op.

        Raises:
            NoProgram: It does not run on this.
        """
        for node in self.rule.match.operations():
            self._run(node)
        for parameter in self.rule.parameters:
            if parameter.name not in self.arrays:
                self.arrays[parameter.name] = self._typed(parameter)
        return Sample(self.arrays, self.attributes)

    def _run(self, node: BodyNode) -> None:
        schema = find_schema(node.domain, node.op_type, self.rule.opset)
        for index, name in enumerate(node.inputs):
            if name in self.parameters and name not in self.arrays:
                self.arrays[name] = self._input(node, index, self.parameters[name])
        feeds = self._feeds(node, schema)
        inputs = [name if name in feeds else "" for name in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        proto = onnx.helper.make_node(node.op_type, inputs, list(node.outputs), domain=node.domain)
        for name, attribute in node.attributes.items():
            bound = self._attribute(node, name, attribute) if isinstance(attribute, Reference) else attribute
            if bound is not None:
                proto.attribute.append(ir.to_proto(ir.Attr(name, bound.type, bound.value)))
        opsets = {"": self.rule.opset, node.domain: IMPORTED_VERSION if node.domain else self.rule.opset}
        made = [name for name in node.outputs if name]
        arrays = evaluate([proto], feeds, made, opsets, reference=False)
        if arrays is None:
            raise NoProgram(f"{node.op_type} does not run on this")
        self.arrays.update(zip(made, arrays, strict=True))

    def _feeds(self, node: BodyNode, schema: onnx.defs.OpSchema | None) -> dict[str, Array]:
        """Return the inputs of a node. A literal takes the type of what it meets, and a shape that it stands for."""
        words: dict[str, np.dtype[Any]] = {}
        kinds = {}
        for place, name in enumerate(node.inputs):
            formal = schema.inputs[min(place, len(schema.inputs) - 1)] if schema is not None else None
            kinds[name] = formal.type_str if formal is not None else ""
            array = self.arrays.get(name or "")
            if array is not None:
                words.setdefault(kinds[name], array.dtype)
        feeds: dict[str, Array] = {}
        for name in node.inputs:
            if name is None:
                continue
            if name not in self.arrays:
                self.arrays[name] = self._literal(name, words.get(kinds[name]))
            array = self.arrays[name]
            if array is not None:
                feeds[name] = array
        return feeds

    def _literal(self, name: str, kind: np.dtype[Any] | None) -> Array:
        maker, _ = self.rule.match.makers[name]
        attribute = next(iter(maker.attributes.values()))
        if isinstance(attribute, Reference):
            raise NoProgram(f"@{attribute.name} of a Constant is not drawn")
        array = literal(maker)
        if kind is not None and array.dtype.kind != "b":
            if kind.kind in "iu" and np.any(array != np.round(array)):
                raise NoProgram("no such integer")
            array = array.astype(kind)
        listed = attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS)
        if array.size == 1 and array.dtype.kind in "fiub" and not listed:
            run = next(iter(self.runs.values()), ())
            shape = self.draw.choice(((), (), (1,), tuple(1 for _ in run), run))
            array = np.full(shape, array.reshape(-1)[0], array.dtype)
        return array

    def _input(self, node: BodyNode, index: int, parameter: Parameter) -> Array | None:
        schema = find_schema(node.domain, node.op_type, self.rule.opset)
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema is not None else None
        optional = not parameter.types or parameter.zero
        if optional and self.draw.choice((False, False, False, True)):
            return None
        name = formal.name if formal is not None else ""
        draw = _meaning(INPUTS, node, name)
        if name == "axes" and formal is not None and has(node, Trait.RESHAPES):
            required = formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional
            draw = _as_input(_new_axes if required else _ones_of)
        untyped = all(kind.sizes is None or kind.element not in DRAWN_TYPES for kind in parameter.types)
        if draw is not None and untyped:
            first = self.arrays.get(node.inputs[0] or "")
            return draw(self, first if first is not None else np.zeros(self.base, np.float32))
        allowed = _element_types(formal)
        if (
            untyped and allowed and not allowed.keys() & {ir.DataType.FLOAT, ir.DataType.INT64}
        ):  # a condition, or quantized
            narrow = min(kind.bitwidth for kind in allowed)
            return self.numbers(self.base, self.draw.choice([kind for kind in allowed if kind.bitwidth == narrow]))
        array = self._typed(parameter)
        return np.asarray(np.abs(array) + array.dtype.type(0.1)) if name in POSITIVE else array

    def _typed(self, parameter: Parameter) -> Array:
        if not parameter.types:
            return self.numbers(self._shape_like_base(), self.type_of("T"))
        kind = self.draw.choice(parameter.types)
        shape = self._shape(kind)
        return self.numbers(shape, self.type_of(kind.element))

    def type_of(self, element: str) -> ir.DataType:
        """Return the element type that a word of the signature stands for in this sample."""
        if element not in self.types:
            if element in DRAWN_TYPES:
                options = DRAWN_TYPES[element]
            elif element[0].isupper():
                options = DRAWN_TYPES["any"]
            else:
                options = TensorType(element, None).element_types()
            self.types[element] = self.draw.choice(options)
        return self.types[element]

    def _shape_like_base(self) -> tuple[int, ...]:
        """Return a shape that broadcasts with the other untyped parameters, as a rule."""
        drop = self.draw.choice((0, 0, 0, 1, len(self.base)))
        return tuple(1 if self.draw.choice((False, False, False, True)) else size for size in self.base[drop:])

    def _shape(self, kind: TensorType) -> tuple[int, ...]:
        if kind.sizes is None:
            return self._shape_like_base()
        shape: list[int] = [1] if kind.leading_one and self.draw.choice((True, False)) else []
        for size in kind.sizes:
            if isinstance(size, DimensionRun):
                shape += self._run_of(size)
            else:
                shape.append(size if isinstance(size, int) else self._size(size))
        return tuple(shape)

    def _run_of(self, run: DimensionRun) -> tuple[int, ...]:
        if run.ones:
            length = len(self.runs[run.name]) if run.name in self.runs else self.draw.integer(0, MOST_ONES)
            return (1,) * length
        key = run.name or f" {len(self.runs)}"
        if key not in self.runs:
            self.runs[key] = tuple(self.draw.integer(1, LARGEST_SIZE) for _ in range(self.run_length))
        return self.runs[key]

    def _size(self, word: str) -> int:
        product = 1
        for factor in word.split("*"):
            if factor.isdigit():
                self.sizes[factor] = int(factor)
            if factor not in self.sizes:
                bound = self.attributes.get(factor)
                known = bound.attribute if bound is not None else None
                self.sizes[factor] = int(known.value) if known is not None else self.draw.integer(1, 3)
            product *= self.sizes[factor]
        return product

    def numbers(self, shape: Sequence[int], kind: ir.DataType) -> Array:
        """Return random numbers: small, of both signs, seldom zero, so that nothing cancels by accident."""
        dtype = kind.numpy()
        if kind == ir.DataType.BOOL:
            return np.asarray(self.random.random(shape) < 0.5)
        if kind == ir.DataType.STRING:
            return np.asarray(self.random.integers(0, 9, shape)).astype(str).astype(object)
        if dtype.kind in "iu":
            return np.asarray(self.random.integers(-3 if dtype.kind == "i" else 0, 4, shape), dtype)
        return np.asarray(self.random.normal(size=shape) * self.draw.choice((1.0, 4.0)), dtype)

    def _attribute(self, node: BodyNode, name: str, reference: Reference) -> ir.Attr | None:
        if reference.name not in self.attributes:
            value = self._attribute_value(node, name, reference.type)
            attribute = None if value is None else ir.Attr(name, reference.type, value)
            self.attributes[reference.name] = Bound(attribute or self.rule.attributes.get(reference.name), True)
            return attribute
        return self.attributes[reference.name].attribute

    def _attribute_value(self, node: BodyNode, name: str, kind: ir.AttributeType) -> Any:
        first = self.arrays.get(node.inputs[0] or "") if node.inputs else None
        first = first if first is not None else np.zeros(self.base, np.float32)
        if name == "group" and "group" in self.sizes:
            return self.sizes["group"]
        schema = find_schema(node.domain, node.op_type, self.rule.opset)
        declared = schema.attributes if schema is not None else {}
        windowed = "kernel_shape" in declared and declared["kernel_shape"].required  # a pooling
        draw = (WINDOW_ATTRIBUTES.get(name) if windowed else None) or _meaning(ATTRIBUTES, node, name)
        if name == "axes" and has(node, Trait.RESHAPES):
            draw = _new_axes if declared["axes"].required else _ones_of
        if draw is not None:
            return draw(self, first)
        if name in declared and not declared[name].required:
            return None
        return {ir.AttributeType.INT: 1, ir.AttributeType.FLOAT: 0.5, ir.AttributeType.INTS: (1,)}.get(kind)

    # What names mean ----------------------------------------------------------------------------------------------

    def some_axes(self, axes: Sequence[int], most: int = 2) -> tuple[int, ...]:
        """Return one or two of `axes`, in order."""
        chosen = {self.draw.choice(list(axes)) for _ in range(self.draw.integer(1, most))} if axes else set()
        return tuple(sorted(chosen))


def _int64(values: Sequence[int]) -> Array:
    return np.array(values, np.int64)


def _ones_of(sampler: Sampler, data: Array) -> tuple[int, ...]:
    axes = sampler.some_axes([axis for axis, size in enumerate(data.shape) if size == 1])
    if not axes:
        raise NoProgram("there is nothing to squeeze")
    return axes


def _new_axes(sampler: Sampler, data: Array) -> tuple[int, ...]:
    count = sampler.draw.choice((1, 1, 2))
    return sampler.some_axes(range(data.ndim + count), count) if count == 1 else (0, data.ndim + 1)


def _target_shape(sampler: Sampler, data: Array) -> Array:
    """Return a shape with as many elements: the same, without an axis of size one, one of other sizes, with or without
    -1 and 0."""
    shape = list(data.shape)
    way = sampler.draw.choice(("same", "flat", "rest", "split", "copy", "squeezed"))
    if way == "flat":
        shape = [data.size]
    elif way == "rest":
        shape = [*shape[:1], -1]
    elif way == "split":
        first = math.gcd(data.size, sampler.draw.integer(1, 4))
        shape = [first, data.size // first]
    elif way == "copy" and shape:
        shape[0] = 0
    elif way == "squeezed" and 1 in shape:
        del shape[sampler.draw.choice([axis for axis, size in enumerate(shape) if size == 1])]
    return _int64(shape)


def _wider(sampler: Sampler, data: Array) -> Array:
    leading = [2] if sampler.draw.choice((False, False, True)) else []
    return _int64([*leading, *(sampler.draw.choice((1, 3)) if size == 1 else size for size in data.shape)])


def _border(sampler: Sampler, data: Array) -> Array:
    rank = data.ndim
    free = sampler.draw.choice((2, 2, 0, rank))  # how many axes in front stay as they are
    return _int64([0 if axis % rank < free else sampler.draw.integer(0, 1) for axis in range(2 * rank)])


def _permutation(sampler: Sampler, data: Array) -> tuple[int, ...]:
    axes = list(range(data.ndim))
    if sampler.draw.choice((True, True, False)):
        for place in range(len(axes) - 1):
            second = sampler.draw.integer(place, len(axes) - 1)
            axes[place], axes[second] = axes[second], axes[place]
    return tuple(axes)


def _spatial(low: int, high: int, ends: int) -> Callable[[Sampler, Array], tuple[int, ...]]:
    return lambda sampler, data: tuple(sampler.draw.integer(low, high) for _ in range(ends * max(0, data.ndim - 2)))


def _window(sampler: Sampler, data: Array) -> tuple[int, ...]:
    return tuple(min(size, sampler.draw.integer(2, 3)) for size in data.shape[2:])


def _scalar_like(sampler: Sampler, data: Array) -> Array:
    return sampler.numbers((), ir.DataType.from_numpy(data.dtype))


def _limit(sampler: Sampler, data: Array, usual: Sequence[int]) -> Array:
    number = sampler.draw.choice((None, *usual))
    return _scalar_like(sampler, data) if number is None else np.array(number, data.dtype)


def _one_of(*items: Any) -> Callable[[Sampler, Array], Any]:
    return lambda sampler, data: sampler.draw.choice(items)


def _as_input(draw: Callable[[Sampler, Array], Sequence[int]]) -> Callable[[Sampler, Array], Array]:
    return lambda sampler, data: _int64(draw(sampler, data))


def _element_types(formal: onnx.defs.OpSchema.FormalParameter | None) -> dict[ir.DataType, None]:
    """Return the element types that an input may have, of those that are drawn."""
    drawn = (*DRAWN_TYPES["any"], ir.DataType.UINT8, ir.DataType.INT8)
    return dict.fromkeys(
        kind for kind in drawn if formal is not None and f"tensor({kind.name.lower()})" in formal.types
    )


INPUTS: Mapping[tuple[Trait | None, str], Callable[[Sampler, Array], Array]] = {
    (None, "axes"): lambda sampler, data: _int64(sampler.some_axes(range(data.ndim))),
    (Trait.SLICES, "axes"): lambda sampler, data: _int64([sampler.draw.integer(0, max(0, data.ndim - 1))]),
    (None, "split"): lambda sampler, data: _int64(data.shape[:1]),
    (None, "starts"): lambda sampler, data: _int64([sampler.draw.choice((0, 0, 1))]),
    (None, "ends"): lambda sampler, data: _int64([sampler.draw.choice((1 << 31, 1 << 31, 1))]),
    (None, "steps"): lambda sampler, data: _int64([sampler.draw.choice((1, 1, 2))]),
    (Trait.RESHAPES, "shape"): _target_shape,
    (Trait.WIDENS, "shape"): _wider,
    (None, "repeats"): lambda sampler, data: (
        _int64([sampler.draw.choice((1, 1, 2)) for _ in data.shape])
        if sampler.draw.choice((True, False))
        else _int64([1] * data.ndim)
    ),
    (None, "pads"): _border,
    (None, "constant_value"): lambda sampler, data: (
        np.array(sampler.draw.choice((-np.inf, 0.0, 1.0)), data.dtype)
        if data.dtype.kind == "f"
        else np.zeros((), data.dtype)
    ),
    (None, "min"): lambda sampler, data: _limit(sampler, data, (0, -1)),
    (None, "max"): lambda sampler, data: _limit(sampler, data, (1, 6)),
    (None, "ratio"): lambda sampler, data: np.array(0.5, np.float32),
    (None, "training_mode"): lambda sampler, data: np.array(False),
    (None, "C"): _scalar_like,
    (None, "x_scale"): lambda sampler, data: np.array(sampler.draw.choice((0.5, 0.1)), np.float32),
    (None, "x_zero_point"): lambda sampler, data: np.array(sampler.draw.integer(0, 3), data.dtype),
}
"""How an input is drawn, by trait (None: any op) and the name that its schema gives to it."""

POSITIVE = frozenset({"var", "input_var"})
"""Inputs that are no more than numbers, but positive ones."""

ATTRIBUTES: Mapping[tuple[Trait | None, str], Callable[[Sampler, Array], Any]] = {
    (None, "perm"): _permutation,
    (None, "axis"): lambda sampler, data: sampler.draw.integer(-data.ndim, max(0, data.ndim - 1)),
    (None, "axes"): lambda sampler, data: sampler.some_axes(range(data.ndim)),
    (None, "epsilon"): _one_of(1e-5, 1e-3, 0.1),
    (None, "alpha"): _one_of(1.0, 0.5, 0.2),
    (None, "beta"): _one_of(1.0, 0.5),
    (None, "keepdims"): _one_of(1, 0),
    (None, "transA"): _one_of(0, 1),
    (None, "transB"): _one_of(0, 1),
    (None, "group"): _one_of(1, 2),
    (Trait.PADS, "pads"): lambda sampler, data: tuple(_border(sampler, data).tolist()),
    (None, "pads"): lambda sampler, data: _spatial(0, sampler.draw.choice((0, 1)), 2)(sampler, data),
    (None, "strides"): _spatial(1, 2, 1),
    (None, "dilations"): lambda sampler, data: (sampler.draw.choice((1, 1, 1, 2)),) * max(0, data.ndim - 2),
    (None, "split"): lambda sampler, data: data.shape[:1],
    (None, "num_outputs"): _one_of(None, 1),
    (None, "to"): _one_of(1, 7, 6, 11, 10),
    (None, "allowzero"): _one_of(0, 0, 1),
    (None, "noop_with_empty_axes"): _one_of(0, 1),
}
"""How an attribute is drawn, by trait (None: any op) and name. Others are left at their defaults."""

WINDOW_ATTRIBUTES: Mapping[str, Callable[[Sampler, Array], Any]] = {
    "kernel_shape": _window,
    "pads": _spatial(0, 0, 2),
    "dilations": _spatial(1, 1, 1),
}
"""How attributes of pooling are drawn."""


def _meaning(
    draws: Mapping[tuple[Trait | None, str], Callable[[Sampler, Array], Drawn]], node: BodyNode, name: str
) -> Callable[[Sampler, Array], Drawn] | None:
    by_trait = (draws[trait, key] for trait, key in draws if trait is not None and key == name and has(node, trait))
    return next(by_trait, draws.get((None, name)))
