"""Finds where a rule's pattern occurs: walks up from a node, side by side with the pattern."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import constant_tensor
from onnxslim.model.schemas import find_schema
from onnxslim.ops.table import computed_default
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.mismatch import Mismatch, MismatchCode
from onnxslim.rewrite.rule import BodyNode, Reference, Rule
from onnxslim.rewrite.signature import Environment, fits

LITERAL_SIZE = 1 << 16
"""Known tensors with more elements than this are not compared with a literal."""

LITERAL_TOLERANCE = 1e-5
"""Relative. Exporters round constants such as the root of 2 to float32, some print them with six digits."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """What an attribute of the rule is at a site."""

    attribute: ir.Attr | None
    """None: the node lacks it, and there is no default."""
    explicit: bool
    """The node has it; otherwise it is a default."""


@dataclasses.dataclass
class Match:
    """A site: what the names of a rule stand for there."""

    rule: Rule
    root: ir.Node
    values: dict[str, ir.Value | None] = dataclasses.field(default_factory=dict)
    attributes: dict[str, Bound] = dataclasses.field(default_factory=dict)
    nodes: dict[ir.Node, BodyNode] = dataclasses.field(default_factory=dict)
    environment: Environment = dataclasses.field(default_factory=dict)

    def copy(self) -> Match:
        """Return a copy that can go another way."""
        return Match(self.rule, self.root, dict(self.values), dict(self.attributes), dict(self.nodes), {})

    def results(self) -> tuple[ir.Value, ...]:
        """Return the values that the rewrite must make, in the order of the rule's results."""
        values = (self.values[result.name] for result in self.rule.results)
        return tuple(value for value in values if value is not None)


Goal = tuple["str | None", "ir.Value | None"]
Mismatches = list[Mismatch]


def find_match(rule: Rule, root: ir.Node, mismatches: Mismatches | None = None) -> Match | None:
    """Match `rule` with the node `root`, which would make its first result.

    Where `mismatches` are wanted, they are filled with why each way of matching failed.
    """
    if mismatches is None and not _is_promising(rule, root):
        return None
    start = Match(rule, root)
    name = rule.results[0].name
    if rule.match.makers[name][1] >= len(root.outputs):
        return None
    goals: list[Goal] = [(name, root.outputs[rule.match.makers[name][1]])]
    for match in _solve(start, goals, mismatches):
        mismatch = _check_site(match)
        if mismatch is None:
            return match
        if mismatches is not None:
            mismatches.append(mismatch)
    return None


def _is_promising(rule: Rule, root: ir.Node) -> bool:
    """Compare the producers of the root's inputs with the prefilter: most nodes fail there, at little cost."""
    inputs, producers = root.inputs, rule.prefilter.input_producers
    if any(producer is not None for producer in producers[len(inputs) :]):
        return False
    if all(map(_is_made_by, inputs, producers)):
        return True
    swapped = len(inputs) == 2 and has(root, Trait.COMMUTATIVE)
    return swapped and all(map(_is_made_by, reversed(inputs), producers))


def _is_made_by(value: ir.Value | None, op_type: str | None) -> bool:
    if op_type is None:
        return True
    if not op_type:
        return constant_tensor(value) is not None
    maker = value.producer() if value is not None else None
    return maker is not None and maker.op_type == op_type


def _solve(match: Match, goals: list[Goal], mismatches: Mismatches | None) -> Iterator[Match]:
    """Yield each way in which all goals (a name of the pattern, a value) can be met."""
    while goals:
        name, value = goals.pop()
        if name is None:
            if value is not None:
                return _note(mismatches, Mismatch(MismatchCode.UNEXPECTED_INPUT, value=value))
            continue
        wanted, index = match.rule.match.makers.get(name, (None, 0))
        if name in match.values:
            if match.values[name] is value:
                continue
            if wanted is None or not wanted.is_constant:  # a literal stands for any constant of its number
                return _note(mismatches, Mismatch(MismatchCode.TWO_VALUES, (name,)))
        if wanted is None:
            match.values[name] = value
            continue
        if value is None:
            return _note(mismatches, Mismatch(MismatchCode.MISSING, (name,)))
        if wanted.is_constant:
            mismatch = _compare_literal(match, wanted, value)
            if mismatch is not None:
                return _note(mismatches, mismatch)
            match.values[name] = value
            continue
        node = value.producer()
        if node is None or value.index() != index:
            return _note(mismatches, Mismatch(MismatchCode.OTHER_PRODUCER, (name, wanted.op_type), value=value))
        mismatch = _compare_node(match, wanted, node)
        if mismatch is not None:
            return _note(mismatches, mismatch)
        match.nodes[node] = wanted
        for label, output in zip(wanted.outputs, node.outputs, strict=False):
            if label:
                match.values[label] = output
        inputs: list[ir.Value | None] = list(node.inputs)
        inputs += [None] * (len(wanted.inputs) - len(inputs))
        labels = [*wanted.inputs, *[None] * (len(inputs) - len(wanted.inputs))]
        if len(inputs) == 2 and has(wanted, Trait.COMMUTATIVE):
            yield from _solve(match.copy(), [*goals, *zip(labels, inputs, strict=True)], mismatches)
            inputs.reverse()
        goals = [*goals, *zip(labels, inputs, strict=True)]
    yield match


def _note(mismatches: Mismatches | None, mismatch: Mismatch) -> None:
    if mismatches is not None:
        mismatches.append(mismatch)


def _compare_node(match: Match, wanted: BodyNode, node: ir.Node) -> Mismatch | None:
    """Compare op and attributes, and bind the attributes of the rule."""
    if node.op_type != wanted.op_type or node.domain != wanted.domain or node.overload:
        return Mismatch(MismatchCode.OTHER_OP, (wanted.op_type, node.op_type), node)
    if node.graph is not match.root.graph:
        return Mismatch(MismatchCode.OTHER_GRAPH, (), node)
    if len(node.outputs) < len(wanted.outputs):
        return Mismatch(MismatchCode.TOO_FEW_OUTPUTS, (len(node.outputs),), node)
    for name, attribute in wanted.attributes.items():
        found = attribute_of(node, name, match.rule.opset)
        if isinstance(attribute, Reference):
            if found.attribute is None and match.rule.attributes.get(attribute.name) is not None:
                found = Bound(match.rule.attributes[attribute.name], True)
            known = match.attributes.setdefault(attribute.name, found)
            if not _same_attribute(known.attribute, found.attribute):
                return Mismatch(MismatchCode.TWO_ATTRIBUTES, (attribute.name,), node)
        elif not _same_attribute(attribute, found.attribute):
            return Mismatch(MismatchCode.OTHER_ATTRIBUTE, (name,), node)
    for name, attribute in node.attributes.items():
        if name in wanted.attributes:
            continue
        usual = default_of(node, name, match.rule.opset)
        if usual is None or not _same_attribute(attribute, usual):
            return Mismatch(MismatchCode.EXTRA_ATTRIBUTE, (name,), node)
    return None


def attribute_of(node: ir.Node, name: str, opset: int) -> Bound:
    """Return an attribute of a node, or its default."""
    if name in node.attributes:
        return Bound(node.attributes[name], True)
    return Bound(default_of(node, name, opset), False)


def default_of(node: ir.Node, name: str, opset: int) -> ir.Attr | None:
    """Return what `node` takes for an attribute that it leaves out: what the schema says, or what its shapes say.

    None where it has no default, or one that hangs on shapes which are not known. `opset`: of the default domain.
    """
    declared = default_attribute(node.domain, node.op_type, name, opset)
    if declared is not None:
        return declared
    schema = find_schema(node.domain, node.op_type, opset)
    computed = computed_default(node, name) if schema is not None and name in schema.attributes else None
    return None if computed is None else ir.AttrInt64s(name, computed)


@functools.cache
def default_attribute(domain: str, op_type: str, name: str, opset: int) -> ir.Attr | None:
    """Return the default that the schema of an op gives to an attribute, or None."""
    if domain:
        return None
    schema = find_schema(domain, op_type, opset)
    attributes = schema.attributes if schema is not None else {}
    if name not in attributes or not attributes[name].default_value.name:
        return None
    attribute = ir.from_proto(attributes[name].default_value)
    return attribute if isinstance(attribute, ir.Attr) else None


def _same_attribute(first: ir.Attr | None, second: ir.Attr | None) -> bool:
    if first is None or second is None or first is second:
        return first is second
    if first.is_ref() or second.is_ref():
        return first.is_ref() and second.is_ref() and first.ref_attr_name == second.ref_attr_name
    if first.type is ir.AttributeType.FLOAT and second.type is first.type:
        return bool(np.isclose(first.as_float(), second.as_float(), rtol=LITERAL_TOLERANCE, atol=0))
    a, b = first.value, second.value
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return list(a) == list(b)
    return first.type is second.type and bool(a == b)


def _compare_literal(match: Match, wanted: BodyNode, value: ir.Value) -> Mismatch | None:
    """Compare a known value with a Constant of the pattern; bind ``Constant <value_float = @c>``."""
    name, tensor = wanted.outputs[0], constant_tensor(value)
    if tensor is None:
        return Mismatch(MismatchCode.NOT_CONSTANT, (name,), value=value)
    if tensor.size > LITERAL_SIZE or tensor.size == 0:
        return Mismatch(MismatchCode.NO_LITERAL, (name,), value=value)
    array = tensor.numpy()
    attribute = next(iter(wanted.attributes.values()))
    if not isinstance(attribute, Reference):
        same = same_literal(literal(wanted), array)
        return None if same else Mismatch(MismatchCode.OTHER_LITERAL, (name,), value=value)
    bound = attribute_from(array, attribute.name, attribute.type)
    if bound is None:
        return Mismatch(MismatchCode.OTHER_KIND, (name, attribute.type.name), value=value)
    known = match.attributes.setdefault(attribute.name, Bound(bound, True))
    same = _same_attribute(known.attribute, bound)
    return None if same else Mismatch(MismatchCode.TWO_ATTRIBUTES, (attribute.name,), value=value)


def same_literal(wanted: Array, array: Array) -> bool:
    """Whether a known tensor is what a literal of a pattern asks for."""
    if wanted.size != 1 and wanted.shape != array.shape:
        return False
    if wanted.dtype.kind in "OSU" or array.dtype.kind in "OSU":
        return bool(wanted.dtype.kind == array.dtype.kind and np.all(wanted == array))
    if (wanted.dtype.kind == "b") != (array.dtype.kind == "b"):
        return False
    if array.dtype.kind in "biu":
        return bool(np.all(array == wanted))
    # As numpy.allclose without an absolute tolerance, which costs ten times as much on one element.
    tolerance = LITERAL_TOLERANCE if array.dtype.itemsize >= 4 else 1e-2  # bfloat16 has eight bits
    if array.size == wanted.size == 1:
        have, want = float(array.reshape(-1)[0]), float(wanted.reshape(-1)[0])
        return have == want or abs(have - want) <= tolerance * abs(want) < math.inf
    many, target = array.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return bool(np.all((many == target) | (np.abs(many - target) <= tolerance * np.abs(target))))


def literal(node: BodyNode) -> Array:
    """Return the array that a Constant of a body holds. It must not be a reference."""
    name, attribute = next(iter(node.attributes.items()))
    if isinstance(attribute, Reference):
        raise TypeError(f"{name} is bound at a site, not in the rule")
    return array_of(attribute)


def array_of(attribute: ir.Attr) -> Array:
    """Return the array that a Constant with this attribute makes."""
    if attribute.type is ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    kind = {
        ir.AttributeType.FLOAT: np.float32,
        ir.AttributeType.FLOATS: np.float32,
        ir.AttributeType.INT: np.int64,
        ir.AttributeType.INTS: np.int64,
    }.get(attribute.type, np.object_)
    return np.array(attribute.value, dtype=kind)


def attribute_from(array: Array, name: str, kind: ir.AttributeType) -> ir.Attr | None:
    """Return a known array as an attribute of a type, or None where it is none of that type."""
    if kind is ir.AttributeType.FLOAT and array.size == 1 and array.dtype.kind not in "OSUb":
        return ir.Attr(name, kind, float(array.reshape(-1)[0]))
    if kind is ir.AttributeType.INT and array.size == 1 and array.dtype.kind in "iu":
        return ir.Attr(name, kind, int(array.reshape(-1)[0]))
    if kind is ir.AttributeType.INTS and array.ndim == 1 and array.dtype.kind in "iu":
        return ir.Attr(name, kind, tuple(int(item) for item in array))
    if kind is ir.AttributeType.FLOATS and array.ndim == 1 and array.dtype.kind == "f":
        return ir.Attr(name, kind, tuple(float(item) for item in array))
    if kind is ir.AttributeType.TENSOR and array.dtype.kind not in "OSU":
        return ir.AttrTensor(name, ir.tensor(array))
    return None


def _check_site(match: Match) -> Mismatch | None:
    """Check what needs the whole pattern: other users of values that would go, and the signature of the rule."""
    wanted = set(match.results())
    for node in match.nodes:
        for output in node.outputs:
            if output in wanted:
                continue
            if output.is_graph_output():
                return Mismatch(MismatchCode.GRAPH_OUTPUT, value=output)
            if any(use.node not in match.nodes for use in output.uses()):
                return Mismatch(MismatchCode.NEEDED_ELSEWHERE, value=output)
    rule = match.rule
    for parameter in rule.parameters:
        value = match.values.get(parameter.name)
        if value is not None and value.producer() in match.nodes:
            return Mismatch(MismatchCode.INNER_PARAMETER, (parameter.name,), value=value)
    for name, bound in match.attributes.items():
        if (
            bound.attribute is not None
            and not bound.attribute.is_ref()
            and bound.attribute.type is ir.AttributeType.INT
        ):
            match.environment[name] = bound.attribute.as_int()
    return fits((*rule.parameters, *rule.results), match.values, match.environment)
