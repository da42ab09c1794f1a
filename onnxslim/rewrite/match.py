"""Finds where a rule's pattern occurs: walks up from a node, side by side with the pattern."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant_tensor
from onnxslim.ops.defaults import computed_default
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.rule import BodyNode, Reference, Rule, find_schema
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
Reasons = list[str]


def find_match(rule: Rule, root: ir.Node, reasons: Reasons | None = None) -> Match | None:
    """Match `rule` with the node that would make its first result.

    Args:
        rule: The rule.
        root: The node.
        reasons: Filled with why each way of matching failed; costs nothing where it is None.
    """
    if reasons is None and not _is_promising(rule, root):
        return None
    start = Match(rule, root)
    name = rule.results[0].name
    if rule.match.makers[name][1] >= len(root.outputs):
        return None
    goals: list[Goal] = [(name, root.outputs[rule.match.makers[name][1]])]
    for match in _solve(start, goals, reasons):
        why = _site_fails(match)
        if why is None:
            return match
        if reasons is not None:
            reasons.append(why)
    return None


def _is_promising(rule: Rule, root: ir.Node) -> bool:
    """Look at what makes the inputs of the root: most sites fail there, and that costs little."""
    given, posts = root.inputs, rule.prefilter.input_producers
    if any(post is not None for post in posts[len(given) :]):
        return False
    if all(_is_made_by(value, post) for value, post in zip(given, posts, strict=False)):
        return True
    swapped = len(given) == 2 and has(root, Trait.COMMUTATIVE)
    return swapped and all(_is_made_by(value, post) for value, post in zip(reversed(given), posts, strict=False))


def _is_made_by(value: ir.Value | None, post: str | None) -> bool:
    if post is None:
        return True
    if not post:
        return constant_tensor(value) is not None
    maker = value.producer() if value is not None else None
    return maker is not None and maker.op_type == post


def _solve(match: Match, goals: list[Goal], reasons: Reasons | None) -> Iterator[Match]:
    """Yield each way in which all goals (a name of the pattern, a value) can be met."""
    while goals:
        name, value = goals.pop()
        if name is None:
            if value is not None:
                return _fail(reasons, f"{value.name} is there, where the pattern has nothing")
            continue
        if name in match.values:
            if match.values[name] is not value:
                return _fail(reasons, f"{name} would be two different values")
            continue
        if name not in match.rule.match.makers:
            match.values[name] = value
            continue
        wanted, place = match.rule.match.makers[name]
        if value is None:
            return _fail(reasons, f"{name} is missing")
        if wanted.is_constant:
            why = _literal_differs(match, wanted, value)
            if why is not None:
                return _fail(reasons, f"{name} {why}")
            match.values[name] = value
            continue
        node = value.producer()
        if node is None or value.index() != place:
            return _fail(reasons, f"{name} is made by no {wanted.op_type}")
        why = _node_differs(match, wanted, node)
        if why is not None:
            return _fail(reasons, why)
        match.nodes[node] = wanted
        for each, output in zip(wanted.outputs, node.outputs, strict=False):
            if each:
                match.values[each] = output
        given: list[ir.Value | None] = list(node.inputs)
        given += [None] * (len(wanted.inputs) - len(given))
        names = [*wanted.inputs, *[None] * (len(given) - len(wanted.inputs))]
        if len(given) == 2 and has(wanted, Trait.COMMUTATIVE):
            yield from _solve(match.copy(), [*goals, *zip(names, given, strict=True)], reasons)
            given.reverse()
        goals = [*goals, *zip(names, given, strict=True)]
    yield match


def _fail(reasons: Reasons | None, why: str) -> None:
    if reasons is not None:
        reasons.append(why)


def _node_differs(match: Match, wanted: BodyNode, node: ir.Node) -> str | None:
    """Compare op and attributes, and bind the attributes of the rule."""
    if node.op_type != wanted.op_type or node.domain != wanted.domain or node.overload:
        return f"{node.name or node.op_type} is {node.op_type}, not {wanted.op_type}"
    if node.graph is not match.root.graph:
        return f"{node.name} lies in another graph"
    if len(node.outputs) < len(wanted.outputs):
        return f"{node.name} has {len(node.outputs)} outputs"
    for name, attribute in wanted.attributes.items():
        got = attribute_of(node, name, match.rule.opset)
        if isinstance(attribute, Reference):
            if got.attribute is None and match.rule.attributes.get(attribute.name) is not None:
                got = Bound(match.rule.attributes[attribute.name], True)
            known = match.attributes.setdefault(attribute.name, got)
            if not _same_attribute(known.attribute, got.attribute):
                return f"@{attribute.name} would have two different values"
        elif not _same_attribute(attribute, got.attribute):
            return f"{name} of {node.name} is another"
    for name, attribute in node.attributes.items():
        if name in wanted.attributes:
            continue
        usual = default_of(node, name, match.rule.opset)
        if usual is None or not _same_attribute(attribute, usual):
            return f"{node.name} has an attribute {name} that is not at its default"
    return None


def attribute_of(node: ir.Node, name: str, opset: int) -> Bound:
    """Return an attribute of a node, or its default."""
    if name in node.attributes:
        return Bound(node.attributes[name], True)
    return Bound(default_of(node, name, opset), False)


def default_of(node: ir.Node, name: str, opset: int) -> ir.Attr | None:
    """Return what `node` takes for an attribute that it leaves out: what the schema says, or what its shapes say.

    Args:
        node: The node.
        name: The attribute.
        opset: The operator set of the default domain.

    Returns:
        The attribute; None where it has no default, or one that hangs on shapes which are not known.
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


def _literal_differs(match: Match, wanted: BodyNode, value: ir.Value) -> str | None:
    """Compare a known value with a Constant of the pattern; bind ``Constant <value_float = @c>``."""
    tensor = constant_tensor(value)
    if tensor is None:
        return "is not known"
    if tensor.size > LITERAL_SIZE or tensor.size == 0:
        return "is no literal"
    array = tensor.numpy()
    attribute = next(iter(wanted.attributes.values()))
    if isinstance(attribute, Reference):
        bound = attribute_from(array, attribute.name, attribute.type)
        if bound is None:
            return f"is no {attribute.type.name}"
        known = match.attributes.setdefault(attribute.name, Bound(bound, True))
        return None if _same_attribute(known.attribute, bound) else f"@{attribute.name} would have two values"
    return None if same_literal(literal(wanted), array) else "has another value"


def same_literal(wanted: npt.NDArray[Any], array: npt.NDArray[Any]) -> bool:
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


def literal(node: BodyNode) -> npt.NDArray[Any]:
    """Return the array that a Constant of a body holds. It must not be a reference."""
    name, attribute = next(iter(node.attributes.items()))
    if isinstance(attribute, Reference):
        raise TypeError(f"{name} is bound at a site, not in the rule")
    return array_of(attribute)


def array_of(attribute: ir.Attr) -> npt.NDArray[Any]:
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


def attribute_from(array: npt.NDArray[Any], name: str, kind: ir.AttributeType) -> ir.Attr | None:
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


def _site_fails(match: Match) -> str | None:
    """Check what can be said only when the whole pattern is bound: who else uses what would go, and the signature."""
    wanted = set(match.results())
    for node in match.nodes:
        for output in node.outputs:
            if output in wanted:
                continue
            if output.is_graph_output():
                return f"{output.name} is an output of the graph"
            if any(use.node not in match.nodes for use in output.uses()):
                return f"{output.name} is needed elsewhere"
    rule = match.rule
    for parameter in rule.parameters:
        value = match.values.get(parameter.name)
        if value is not None and value.producer() in match.nodes:
            return f"{parameter.name} is a value inside the pattern"
    for name, bound in match.attributes.items():
        if (
            bound.attribute is not None
            and not bound.attribute.is_ref()
            and bound.attribute.type is ir.AttributeType.INT
        ):
            match.environment[name] = bound.attribute.as_int()
    return fits((*rule.parameters, *rule.results), match.values, match.environment)
