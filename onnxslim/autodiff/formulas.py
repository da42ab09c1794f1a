"""Reads gradients that are written down as formulas: the files `*.grads` of `onnxslim.ops.gradients`.

    Sigmoid (x) => (y)      { dx = dy * y * (1.0 - y) }
    LeakyRelu (x) => (y)    { dx = Where (x < 0.0, dy * @alpha, dy) }
    LpNormalization<p=1> (x) => (y)     { ... }
    LpNormalization<p=2> (x) => (y)     { ... }
    constant: Floor Ceil

The head names the operands and results of an op, in their order; trailing ones may be left out. The body is ONNX's own
text with infix operators (`onnxslim.rewrite.expression`). It reads operands, results, the gradient ``dy`` of a result
``y``, and attributes ``@alpha`` of the node or the defaults of its operator set; it makes the gradient ``dx`` of each
operand ``x`` that has one. Numbers with a point take the element type of the gradients. A truth value that is added or
multiplied is 1 or 0: ``dy * (x > 0.0)``, for which ONNX Runtime's kernels take a thirtieth of the time of a ``Where``.
Of a formula just what is asked for is built. An operand that the node leaves out is left out of what reads it, too.

``<attribute=value>``: the formula holds where the attribute, or its default, has this value. Those of one op are tried
in order. ``constant`` lists ops that are constant piece by piece: nothing flows back. Where an op reduces
(`Trait.REDUCES`), ``y`` and ``dy`` have the axes that go as axes of size 1, and ``dx`` may have them so.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxslim.errors import RuleError
from onnxslim.model.constants import is_constant_node
from onnxslim.ops.families.reduction import reduced_axes
from onnxslim.ops.gradient import Declined, Gradient, GradientSite, static_shape
from onnxslim.ops.parameters import attribute, describe
from onnxslim.ops.signatures import OpName, op_name
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.expression import write_out

HEAD = re.compile(
    r"\s*(?P<op>[\w.]+(?:::\w+)?)\s*(?:<(?P<where>[^>\n]*)>)?\s*\((?P<operands>[\w\s,]*)\)\s*=>"
    r"\s*\((?P<results>[\w\s,]*)\)\s*\{"
)
CONDITION = re.compile(r"\s*(?P<attribute>\w+)\s*=\s*(?P<value>-?[\w.]+)\s*")
CONSTANT_LINE = re.compile(r"\s*constant:(?P<ops>[^\n]*)")
COMMENT = re.compile(r"#[^\n]*")
PARSED_AT = 21
"""The operator set that the parser is told; it checks nothing against it."""


def read_formulas(text: str, where: str) -> Mapping[OpName, Gradient]:
    """Return the gradients that a text declares.

    Raises:
        RuleError: Something in it does not read; the error names file and line.
    """
    found: dict[OpName, Gradient] = {}
    text = COMMENT.sub(lambda match: " " * len(match[0]), text)
    place = 0
    while text[place:].strip():
        line = text.count("\n", 0, place + len(text[place:]) - len(text[place:].lstrip())) + 1
        constant = CONSTANT_LINE.match(text, place)
        if constant is not None:
            found.update((op_name(word), nothing) for word in constant["ops"].split())
            place = constant.end()
            continue
        head = HEAD.match(text, place)
        end = -1 if head is None else text.find("}", head.end())
        if head is None or end < 0:
            raise RuleError(
                f"this begins no gradient: {text[place:].strip().splitlines()[0][:60]}",
                where=f"{where}:{line}",
                hint="write Op (x) => (y) { dx = ... }, or constant: Op",
            )
        op, formula = op_name(head["op"]), _formula(head, text[head.end() - 1 : end + 1], f"{where}:{line}")
        before = found.get(op, Formulas(()))
        if not isinstance(before, Formulas) or not all(other.conditions for other in before.choices):
            raise RuleError(
                f"a gradient of {head['op']} stands before this one, which is never reached",
                where=f"{where}:{line}",
                hint="tell them apart by attributes: Op<attribute=value> (x) => (y) { ... }",
            )
        found[op] = Formulas((*before.choices, formula))
        place = end + 1
    return found


@functools.cache
def formulas() -> Mapping[OpName, Gradient]:
    """Return the gradients that the files of `onnxslim.ops.gradients` write down."""
    files = importlib.resources.files("onnxslim.ops.gradients").iterdir()
    found: dict[OpName, Gradient] = {}
    for file in sorted((file for file in files if file.name.endswith(".grads")), key=lambda file: file.name):
        found.update(read_formulas(file.read_text(encoding="utf-8"), file.name))
    return found


def nothing(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Return that nothing flows back."""
    return {}


@dataclasses.dataclass(frozen=True)
class Formula:
    """A gradient as a body of nodes. Called with a site, it builds what is asked for of it."""

    operands: tuple[str, ...]
    results: tuple[str, ...]
    makers: Mapping[str, onnx.NodeProto]
    """The node of the body that makes a name."""
    conditions: tuple[tuple[str, str], ...] = ()
    """Attributes, and the value that each must have."""

    def holds(self, site: GradientSite) -> bool:
        """Whether the attributes of a node are those that the formula is for."""
        told = ((attribute(site.node, name, site.version), value) for name, value in self.conditions)
        return all(str(own) == value for own, value in told)

    def __call__(self, site: GradientSite) -> Mapping[int, ir.Value | None]:
        """Build the gradients of the operands that are wanted."""
        built: dict[str, ir.Value | None] = {}
        return {
            index: _as_operand(self._value(f"d{name}", site, built), site, index)
            for index, name in enumerate(self.operands)
            if index in site.wanted and f"d{name}" in self.makers
        }

    def _value(self, name: str, site: GradientSite, built: dict[str, ir.Value | None]) -> ir.Value | None:
        """Return what a name stands for, building it at its first use."""
        if name not in built:
            if name in self.makers:
                self._build(self.makers[name], site, built)
            elif name in self.operands:
                index = self.operands.index(name)
                built[name] = site.operand(index) if site.has(index) else None
            elif name in self.results:
                built[name] = _kept(site.result(self.results.index(name)), site)
            else:
                built[name] = _kept(site.incoming(self.results.index(name[1:])), site)
        return built[name]

    def _build(self, body: onnx.NodeProto, site: GradientSite, built: dict[str, ir.Value | None]) -> None:
        if is_constant_node(body):
            built[body.output[0]] = _literal(body, site)
            return
        inputs = [self._value(name, site, built) if name else None for name in body.input]
        if has(body, Trait.AFFINE):
            inputs = [_as_number(value, site, built) for value in inputs]
        attributes = {}
        for written in body.attribute:
            told = attribute(site.node, written.ref_attr_name, site.version) if written.ref_attr_name else None
            attributes[written.name] = told if written.ref_attr_name else onnx.helper.get_attribute_value(written)
        if has(body, Trait.IDENTITY):  # as a formula of one name is written out
            built[body.output[0]] = inputs[0]
            return
        made = site.build.ops(body.op_type, *inputs, count=len(body.output), domain=body.domain, **attributes)
        built.update(zip(body.output, made, strict=True))


@dataclasses.dataclass(frozen=True)
class Formulas:
    """The formulas of an op, of which the first that holds is its gradient."""

    choices: Sequence[Formula]

    def __call__(self, site: GradientSite) -> Mapping[int, ir.Value | None]:
        """Build the gradients of the operands that are wanted.

        Raises:
            Declined: No formula is for the attributes that the node has.
        """
        formula = next((formula for formula in self.choices if formula.holds(site)), None)
        if formula is None:
            told = sorted({name for choice in self.choices for name, _ in choice.conditions})
            own = ", ".join(f"{name}={attribute(site.node, name, site.version)}" for name in told)
            raise Declined(f"there is none for {own}")
        return formula(site)


def _as_number(value: ir.Value | None, site: GradientSite, built: dict[str, ir.Value | None]) -> ir.Value | None:
    """Return 1 or 0, of the type of the gradients, for a truth value; else the value."""
    if value is None or value.dtype is not ir.DataType.BOOL:
        return value
    name = f"{value.name} as a number"
    if name not in built:
        built[name] = site.mask(value)
    return built[name]


def _kept(value: ir.Value, site: GradientSite) -> ir.Value:
    """Return a result of a reduction, or its gradient, with the axes that are reduced as axes of size 1."""
    if not has(site.node, Trait.REDUCES):
        return value
    shape = site.shape()
    axes = reduced_axes(site, len(shape))
    return site.reshape(value, [1 if axis in axes else size for axis, size in enumerate(shape)])


def _as_operand(value: ir.Value | None, site: GradientSite, index: int) -> ir.Value | None:
    """Return what a formula makes, in the shape of the operand where that was reduced."""
    if value is None or not has(site.node, Trait.REDUCES) or static_shape(value) == site.shape(index):
        return value
    return site.op("Expand", value, site.shape(index))


def _literal(body: onnx.NodeProto, site: GradientSite) -> ir.Value:
    """Return a constant: real numbers are of the type of the gradients, others as they are written."""
    written = body.attribute[0]
    if written.ref_attr_name:
        value = attribute(site.node, written.ref_attr_name, site.version)
        if value is None:
            raise RuleError(
                f"{describe(site.node)} leaves {written.ref_attr_name} out, and its schema has no default",
                hint="declare its gradient in Python",
            )
        told = np.asarray(value)
        told = np.atleast_1d(told) if written.name == "value_ints" else told
    elif written.type == onnx.AttributeProto.TENSOR:
        told = onnx.numpy_helper.to_array(written.t)
    else:
        told = np.asarray(onnx.helper.get_attribute_value(written))
    return site.build.constant(told.astype(site.dtype.numpy()) if told.dtype.kind == "f" else told)


def _formula(head: re.Match[str], body: str, where: str) -> Formula:
    operands, results = (tuple(name.strip() for name in head[part].split(",")) for part in ("operands", "results"))
    known = [*operands, *results, *(f"d{result}" for result in results)]
    text = f'<domain: "gradient", opset_import: ["" : {PARSED_AT}]> f ({", ".join(known)}) => (_) '
    try:
        proto = onnx.parser.parse_function(text + write_out(body, where))
    except onnx.parser.ParseError as error:
        message = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        raise RuleError(
            f"the gradient of {head['op']} does not read: {message}",
            where=where,
            hint="see onnxslim.rewrite.expression for what can be written",
        ) from error
    makers = {name: node for node in proto.node for name in node.output}
    for node in proto.node:
        unknown = next((name for name in node.input if name and name not in makers and name not in known), None)
        if unknown is not None:
            raise RuleError(
                f"the gradient of {head['op']} reads {unknown}, which nothing makes",
                where=where,
                hint=f"it knows {', '.join(known)}",
            )
    conditions = []
    for text in head["where"].split(",") if head["where"] else ():
        condition = CONDITION.fullmatch(text)
        if condition is None:
            raise RuleError(
                f"this is no attribute=value: {text.strip()}", where=where, hint="write Op<attribute=value, ...> (x)"
            )
        conditions.append((condition["attribute"], condition["value"]))
    return Formula(operands, results, makers, tuple(conditions))
