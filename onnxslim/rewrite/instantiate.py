"""Works out what the right side of a rule is at a site: what folds, what remains, what it costs.

Nothing is added to the graph until the plan is accepted: a node that was built and thrown away would still count as a
user of its inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir

from onnxslim.analysis.fold import known_shape, may_evaluate
from onnxslim.arrays import Array
from onnxslim.model.constants import constant, constant_tensor
from onnxslim.model.edit import constant_value
from onnxslim.model.schemas import find_schema
from onnxslim.ops.table import is_usual
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.match import Bound, Match, array_of, attribute_from, default_attribute
from onnxslim.rewrite.mismatch import MismatchCode, NotApplicable
from onnxslim.rewrite.program import Program, type_words
from onnxslim.rewrite.rule import Body, BodyNode, Reference, Rule

Known = Callable[["ir.Value | None"], "Array | None"]


@dataclasses.dataclass(frozen=True)
class PlannedNode:
    """A node of the right side that remains after folding."""

    body: BodyNode
    inputs: tuple[str | None, ...]
    attributes: tuple[ir.Attr, ...]


@dataclasses.dataclass(frozen=True)
class Instantiation:
    """What a site would become."""

    nodes: tuple[PlannedNode, ...]
    arrays: Mapping[str, Array]
    """Names of the body that become initializers."""
    values: Mapping[str, ir.Value | None]
    """Names of the body that are values of the graph."""


class BodyEvaluation:
    """One body at one site: evaluates what is known, as late as possible."""

    def __init__(self, match: Match, body: Body, known: Known = constant, *, proof: bool = False) -> None:
        """Prepare a body.

        Args:
            match: The site.
            body: One of the bodies of its rule.
            known: Says what a value of the graph is known to be.
            proof: Run every op, those too that are never folded, and in ONNX Runtime alone: it must have the kernels.
        """
        self._proof = proof
        self.match, self.body, self.rule = match, body, match.rule
        self.values: dict[str, ir.Value | None] = {
            parameter.name: match.values.get(parameter.name) for parameter in match.rule.parameters
        }
        self._known = known
        self._arrays: dict[str, Array] = {}
        self._literals: set[str] = set()
        self._foldable: dict[str, bool] = {}
        for parameter in match.rule.parameters:
            if parameter.zero and self.values[parameter.name] is None:
                self._arrays[parameter.name] = self._zeros(parameter.name)

    def _zeros(self, name: str) -> Array:
        """Return what ``name = 0`` stands for: zeros, of the type of the first tensor of the rule."""
        parameter = next(candidate for candidate in self.rule.parameters if candidate.name == name)
        sizes = [self.match.environment.get(str(size), size) for size in parameter.types[0].sizes or ()]
        if not all(isinstance(size, int) for size in sizes):
            raise NotApplicable(MismatchCode.UNKNOWN_SIZE, name)
        kinds = (value.dtype for value in self.values.values() if value is not None and value.dtype is not None)
        return np.zeros([int(size) for size in sizes], next(kinds).numpy())

    def is_known(self, name: str | None) -> bool:
        """Whether a name stands for what is known before the model runs. Evaluates nothing."""
        if name is None:
            return False
        if name not in self._foldable:
            self._foldable[name] = self._is_known(name)
        return self._foldable[name]

    def _is_known(self, name: str) -> bool:
        if name in self._arrays:
            return True
        if name in self.values:
            known = constant_tensor if self._known is constant else self._known
            return known(self.values[name]) is not None
        node, _ = self.body.makers[name]
        if node.is_constant:
            return True
        if not (self._proof or may_evaluate(node)):
            return False
        if self._shape(node) is not None:
            return True
        return all(
            label is None or self.values.get(label, self) is None or self.is_known(label) for label in node.inputs
        )

    def _shape(self, node: BodyNode) -> Array | None:
        """Return the static shape that a Shape or Size node of the body reads, where it reads a parameter.

        The Size of a Shape is a rank, which is known of shapes whose sizes are not.
        """
        maker = self.body.makers.get(node.inputs[0] or "") if has(node, Trait.COUNTS_ELEMENTS) else None
        if maker is not None and has(maker[0], Trait.LISTS_SIZES) and not maker[0].attributes:
            ranked = self.values.get(maker[0].inputs[0] or "")
            if ranked is not None and ranked.shape is not None:
                return np.array(len(ranked.shape), np.int64)
        queries = has(node, Trait.LISTS_SIZES) or has(node, Trait.COUNTS_ELEMENTS)
        if not queries or self.values.get(node.inputs[0] or "") is None:
            return None
        probe = ir.Node("", node.op_type, [self.values[node.inputs[0] or ""]], self._attributes(node))
        try:
            return known_shape(probe)
        finally:
            probe.replace_input_with(0, None)

    def remaining(self) -> tuple[BodyNode, ...]:
        """Return the nodes that are needed for the results and are not known."""
        needed: dict[int, BodyNode] = {}
        waiting = [result.name for result in self.rule.results]
        while waiting:
            name = waiting.pop()
            if name not in self.body.makers or self.is_known(name):
                continue
            node, _ = self.body.makers[name]
            if id(node) not in needed:
                needed[id(node)] = node
                waiting += [label for label in node.inputs if label is not None]
        return tuple(node for node in self.body.nodes if id(node) in needed)

    def array(self, name: str) -> Array:
        """Return a known value, evaluating what it depends on.

        Raises:
            NotApplicable: It cannot be evaluated.
        """
        if name not in self._arrays:
            if name in self.values:
                array = self._known(self.values[name])
                if array is None:
                    raise NotApplicable(MismatchCode.NOT_CONSTANT, name)
                self._arrays[name] = array
            else:
                self._evaluate(name)
        return self._arrays[name]

    def _evaluate(self, name: str) -> None:
        node, _ = self.body.makers[name]
        if node.is_constant:
            attributes = self._attributes(node)
            if not attributes:
                raise NotApplicable(MismatchCode.NO_ATTRIBUTE, name)
            self._arrays[name] = array_of(attributes[0])
            self._literals.add(name)
            return
        program = Program(self.rule.opset, reference=not self._proof)
        cone = self._cone(name)
        for inner in cone:
            shape = self._shape(inner)
            if shape is not None:
                self._arrays[inner.outputs[0]] = shape
            else:
                self._enter(inner, program)
        # What is needed by nodes outside, too, is kept, so that nothing is computed twice.
        inside = {id(inner) for inner in cone}
        elsewhere = {label for node in self.body.nodes if id(node) not in inside for label in node.inputs if label}
        wanted = {name, *elsewhere, *(result.name for result in self.rule.results)}
        self._arrays.update(program.run(wanted))

    def _cone(self, name: str) -> list[BodyNode]:
        """Return the nodes, in order, that a known value is computed by, but for those evaluated already."""
        needed: set[int] = set()
        waiting = [name]
        while waiting:
            label = waiting.pop()
            if label in self._arrays or label not in self.body.makers or self.body.makers[label][0].is_constant:
                continue
            node, _ = self.body.makers[label]
            if id(node) not in needed:
                needed.add(id(node))
                waiting += [] if self._shape(node) is not None else [i for i in node.inputs if i is not None]
        return [node for node in self.body.nodes if id(node) in needed]

    def _enter(self, node: BodyNode, program: Program) -> None:
        """Add a node to a program, which is run first if the node must know what its inputs are."""
        referenced = [a.name for a in node.attributes.values() if isinstance(a, Reference)]
        absent = {label for label in node.inputs if label is not None and self.values.get(label, self) is None}
        present = [label for label in node.inputs if label is not None and label not in absent - set(self._arrays)]
        known = {label: self.array(label) for label in present if label not in program.kinds}
        if program.awaits(node, known, referenced, self._literals):
            self._arrays.update(program.run(program.kinds))
            known = {label: self.array(label) for label in present}
        feeds = self.adapted(node, known, {label: program.kinds[label] for label in present if label not in known})
        inputs = [label if label in present else "" for label in node.inputs]
        self._require(node, inputs)
        program.add(node, inputs, feeds, self._attributes(node))

    def adapted(
        self, node: BodyNode, feeds: Mapping[str, Array], others: Mapping[str, ir.DataType | None]
    ) -> dict[str, Array]:
        """Give literals the element type of what they meet: inputs that an op wants to be of one type.

        `feeds` are the known inputs of the node, `others` the element types of the other ones.
        """
        schema = find_schema(node.domain, node.op_type, self.rule.opset)
        if schema is None or not any(name in self._literals for name in feeds):
            return dict(feeds)
        groups: dict[str, np.dtype[Any]] = {}
        words = type_words(schema, node)
        for name, word in words:
            if name in feeds and name not in self._literals:
                groups.setdefault(word, feeds[name].dtype)
            elif others.get(name) is not None:
                groups.setdefault(word, others[name].numpy())  # type: ignore[union-attr]  # not None, one line above
        return {
            name: array.astype(groups[word])
            if name in self._literals and (word := dict(words).get(name, "")) in groups
            else array
            for name, array in feeds.items()
        }

    def _attributes(self, node: BodyNode) -> tuple[ir.Attr, ...]:
        """Return the attributes of a node as they are at the site.

        Raises:
            NotApplicable: One names a value that is not known, or is of another type.
        """
        attributes: list[ir.Attr] = []
        for name, attribute in node.attributes.items():
            if not isinstance(attribute, Reference):
                attributes.append(attribute)
            elif attribute.name in self.rule.attributes:
                bound = self.match.attributes.get(attribute.name, Bound(None, False))
                renamed = _renamed(bound, name, node, self.rule)
                if renamed is not None:
                    attributes.append(renamed)
            else:
                if not self.is_known(attribute.name):
                    raise NotApplicable(MismatchCode.NOT_CONSTANT, attribute.name)
                made = attribute_from(self.array(attribute.name), name, attribute.type)
                if made is None:
                    raise NotApplicable(MismatchCode.OTHER_KIND, attribute.name, attribute.type.name)
                attributes.append(made)
        return tuple(attributes)

    def _require(self, node: BodyNode, inputs: Iterable[str | None]) -> None:
        """Refuse a node that lacks an input which its op demands."""
        schema = find_schema(node.domain, node.op_type, self.rule.opset)
        if schema is None or not schema.inputs:
            return
        for place, name in enumerate(inputs):
            formal = schema.inputs[min(place, len(schema.inputs) - 1)]
            if not name and formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional:
                raise NotApplicable(MismatchCode.REQUIRED_INPUT, node.op_type, formal.name)

    def plan(self) -> Instantiation:
        """Evaluate what is known, and return what is left.

        Raises:
            NotApplicable: Something cannot be evaluated, or an input that an op needs is missing.
        """
        planned: list[PlannedNode] = []
        arrays: dict[str, Array] = {}
        for node in self.remaining():
            inputs = [None if label is not None and self._is_absent(label) else label for label in node.inputs]
            self._require(node, inputs)
            while inputs and inputs[-1] is None:
                inputs.pop()
            others = {label: value.dtype for label in inputs if label and (value := self.values.get(label)) is not None}
            for label in inputs:
                if label is not None and label in self.body.makers and not self.is_known(label):
                    others[label] = None
            fresh = {
                label: self.array(label)
                for label in inputs
                if label is not None and self.values.get(label) is None and self.is_known(label)
            }
            if any(kind is None for kind in others.values()) and any(label in self._literals for label in fresh):
                others = {**others, **{label: self._guess_type() for label, kind in others.items() if kind is None}}
            arrays.update(self.adapted(node, fresh, others))
            planned.append(PlannedNode(node, tuple(inputs), self._attributes(node)))
        for result in self.rule.results:
            if self.is_known(result.name) and result.name in self.body.makers:
                arrays[result.name] = self.array(result.name)
        return Instantiation(tuple(planned), arrays, self.values)

    def _guess_type(self) -> ir.DataType | None:
        """Return the element type of the result, which a literal takes where what it meets is not typed yet."""
        value = self.match.values.get(self.rule.results[0].name)
        return None if value is None else value.dtype

    def _is_absent(self, name: str) -> bool:
        return name in self.values and self.values[name] is None and name not in self._arrays

    def holds(self) -> bool:
        """Evaluate this body as a ``when``.

        Raises:
            NotApplicable: It reads what is not known.
        """
        if not self.is_known("ok"):
            raise NotApplicable(MismatchCode.CONDITION_UNKNOWN)
        return bool(np.all(self.array("ok")))


def _renamed(bound: Bound, name: str, node: BodyNode, rule: Rule) -> ir.Attr | None:
    """Return a bound attribute under the name that it has here; None: it is not there, or the default here, too."""
    attribute = bound.attribute
    if attribute is None:
        return None
    if attribute.is_ref():
        return ir.RefAttr(name, attribute.ref_attr_name or "", attribute.type)
    if not bound.explicit and not node.is_constant:
        usual = default_attribute(node.domain, node.op_type, name, rule.opset)
        if usual is not None and usual.value == attribute.value:
            return None
        if attribute.type is ir.AttributeType.INTS and is_usual(node.domain, node.op_type, name, attribute.as_ints()):
            return None
    return ir.Attr(name, attribute.type, attribute.value)


def build(
    plan: Instantiation, match: Match, name: Callable[[str], str]
) -> tuple[list[ir.Node], list[ir.Value], dict[str, ir.Value]]:
    """Make nodes of a plan; `name` gives a name that is free in the model for a name of the body.

    Returns:
        The nodes; the initializers that they read, not yet registered; and what the names of the body became.
    """
    made: dict[str, ir.Value] = {}
    initializers: list[ir.Value] = []
    for label, array in plan.arrays.items():
        made[label] = constant_value(name(label), array)
        initializers.append(made[label])
    nodes: list[ir.Node] = []
    results = {result.name: place for place, result in enumerate(match.rule.results)}
    for planned in plan.nodes:
        inputs = [
            None if label is None else made[label] if label in made else plan.values[label] for label in planned.inputs
        ]
        body = planned.body
        node = ir.Node(
            body.domain,
            body.op_type,
            inputs,
            planned.attributes,
            num_outputs=len(body.outputs),
            name=name(body.op_type),
        )
        for label, output in zip(body.outputs, node.outputs, strict=True):
            output.name = name(label) if label and label not in results else ""
            made[label] = output
        nodes.append(node)
    return nodes, initializers, made
