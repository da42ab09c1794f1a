"""Goes through a model in order, and notes what is known of every value; a second time, only of what changed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import as_tensor
from onnxslim.ops.fact import INTEGERS, NOTHING, Element, Fact, NodeFacts, Unknowable, of_tensor
from onnxslim.ops.fallback import ask_onnx
from onnxslim.ops.families.control_flow import CONTROL, call_function
from onnxslim.ops.parameters import describe, op_of
from onnxslim.ops.symbols import (
    LONGEST,
    Expression,
    Size,
    TooLong,
    is_name,
    is_unknown,
    named,
    parse,
    unknown_element,
    unknown_size,
)
from onnxslim.ops.table import find_op

CONSTANTS: dict[ir.DataType | None, Any] = {
    ir.DataType.INT64: np.int64,
    ir.DataType.INT32: np.int32,
    ir.DataType.BOOL: np.bool_,
}
"""Element types of values that become constants where all their elements are known, and those of numpy."""


class Inference:
    """What is known of the values of a model.

    `run` may be called again after the model was changed: only nodes whose inputs or attributes are known to be others
    than before, and what follows from them, are looked at.

    Args:
        model: The model.
        input_shapes: Shapes of inputs, by name, that they shall have instead of those that the model declares. What it
            says of the values inside is not believed then, and nothing is written into it.
    """

    def __init__(self, model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        self.model = model
        self._input_shapes = input_shapes
        self.facts: dict[ir.Value, Fact] = {}
        self.problems: dict[str, None] = {}
        """What went wrong, one line each."""
        self.writing = input_shapes is None
        """Whether what is found out is written into the model, too; not while a loop is tried out."""
        self.scope = ""
        self.opsets: Mapping[str, int] = model.opset_imports
        self._done: dict[ir.Node, tuple[Sequence[Fact | None], Sequence[object], bool]] = {}
        self._constants: dict[ir.Value, tuple[ir.TensorProtocol, Fact]] = {}

    def run(self) -> None:
        """Infer what can be known of all values, and write types and shapes into the model."""
        self.opsets = self.model.opset_imports
        for value in self.model.graph.inputs:
            fact = declared(value)
            shape = (self._input_shapes or {}).get(value.name or "")
            if shape is not None:
                fact = fact._replace(shape=tuple(shape))
            if self.facts.get(value) != fact:
                self.facts[value] = fact
        self.walk(self.model.graph)

    def walk(self, nodes: Iterable[ir.Node]) -> None:
        """Infer the outputs of nodes, which are in topological order."""
        for node in nodes:
            self._visit(node)

    def fact(self, value: ir.Value) -> Fact:
        """Return what is known of a value."""
        found = self.facts.get(value)
        if found is not None:
            return found
        tensor = None if value.is_graph_input() else value.const_value
        if tensor is None:
            return declared(value) if value.producer() is None else NOTHING
        known = self._constants.get(value)
        if known is None or known[0] is not tensor:
            known = self._constants[value] = (tensor, of_tensor(tensor))
        return known[1]

    def rank_behind(self, node: ir.Node, rank: int) -> int | None:
        """Return the rank of a node's first result if its first input had `rank` axes; None where that is not known."""
        first, *others = [None if value is None else self.fact(value) for value in node.inputs]
        shape = tuple(unknown_size(f"{self.scope}?", axis) for axis in range(rank))
        facts = [None if first is None else Fact(first.dtype, shape), *others]
        rule = find_op(op_of(node)).infer
        if rule is None:
            return None
        try:
            found = rule(NodeFacts(node, facts, self.opsets.get(node.domain, 1), self.scope))
        except Exception:  # of a rank that is wrong
            return None
        result = (found if isinstance(found, Fact) else found[0]).shape
        return None if result is None else len(result)

    def _visit(self, node: ir.Node) -> None:
        facts = [None if value is None else self.fact(value) for value in node.inputs]
        attributes = list(node.attributes.values())
        if op_of(node) not in CONTROL:
            done = self._done.get(node)
            asked = all(output in self.facts for output in node.outputs if output.name != "")  # one may be new
            if asked and done is not None and done[0] == facts and done[1] == attributes and done[2] >= self.writing:
                if self.writing and any(output.shape is None for output in node.outputs):
                    for output in node.outputs:
                        self._write(output, self.facts.get(output, NOTHING))
                return
            self._done[node] = (facts, attributes, self.writing)
        site = NodeFacts(node, facts, self.opsets.get(node.domain, 1), self.scope)
        for output, fact in zip(node.outputs, self._infer(site), strict=True):
            if output.name == "":
                continue
            self.facts[output] = fact
            if self.writing:
                self._write(output, fact)

    def _infer(self, site: NodeFacts) -> list[Fact]:
        """Return what is known of each output of a node."""
        node = site.node
        try:
            control = CONTROL.get(op_of(node))
            if control is not None:
                return self._settle(node, control(self, site))
            if self.model.functions and node.op_identifier() in self.model.functions:
                return self._settle(node, call_function(self, site))
            rule = find_op(op_of(node)).infer
            if rule is not None:
                return self._settle(node, rule(site))
        except (Unknowable, TooLong):
            pass
        except Exception as error:  # of a node or a rule that is wrong: knowledge is missing then, and nothing else
            self.problems[f"{describe(node)}: {type(error).__name__}: {error}"] = None
        try:
            return self._settle(node, ask_onnx(site, self.opsets))
        except Unknowable:
            return self._settle(node, ())

    def _settle(self, node: ir.Node, found: Fact | Sequence[Fact]) -> list[Fact]:
        facts = [found] if isinstance(found, Fact) else list(found)
        facts += [NOTHING] * (len(node.outputs) - len(facts))
        return [self._settled(output, fact) for output, fact in zip(node.outputs, facts, strict=False)]

    def _settled(self, output: ir.Value, fact: Fact) -> Fact:
        """Put unknown sizes where formulas are too long, and what the file declares where that says more."""
        name = self.scope + (output.name or "")
        dtype, shape, elements, other = fact
        if dtype is None and other is None:
            kind = output.type
            dtype, other = (kind.dtype, None) if isinstance(kind, ir.TensorType) else (None, kind)
        formulas = [size for size in shape or () if type(size) is not int]  # of most shapes there are none
        if any(map(_is_too_long, formulas)):
            sizes = enumerate(shape or ())
            shape = tuple(unknown_size(name, axis) if _is_too_long(size) else size for axis, size in sizes)
        if output.shape is not None and self._input_shapes is None and (shape is None or formulas):
            shape = _with_declared(shape, output.shape, name)
        if elements is not None:
            elements = _short_elements(elements, name, dtype)
        return Fact(dtype, shape, elements, other)

    def _write(self, output: ir.Value, fact: Fact) -> None:
        if fact.dtype is not None:
            # What a result is declared to be is a promise, and not for inference to change.
            if output.type is None or (output.dtype is not fact.dtype and not output.is_graph_output()):
                output.type = ir.TensorType(fact.dtype)
        elif fact.other is not None and output.type is None:
            output.type = fact.other
        if fact.shape is not None:
            old = output.shape
            if old is None or len(old) != len(fact.shape):
                output.shape = ir.Shape([dimension(size) for size in fact.shape])
            else:
                promised = output.is_graph_output()
                sizes = [_dimension(size, before, promised) for size, before in zip(fact.shape, old, strict=True)]
                if sizes != list(old):
                    output.shape = ir.Shape(sizes)
        elements = fact.elements
        if elements is None or output.const_value is not None or fact.dtype not in CONSTANTS or fact.shape is None:
            return
        if all(type(element) is int for element in elements):
            array: npt.NDArray[Any] = np.array(elements, CONSTANTS[fact.dtype])
            output.const_value = as_tensor(array.reshape(-1 if fact.shape else ()), output.name)


def declared(value: ir.Value) -> Fact:
    """Return what a value says of itself: of an input, that is all that is known."""
    kind = value.type
    if kind is not None and not isinstance(kind, ir.TensorType):
        return Fact(other=kind)
    dtype = kind.dtype if kind is not None else None
    if value.shape is None:
        return Fact(dtype)
    return Fact(dtype, tuple(_declared_size(size, value.name or "", axis) for axis, size in enumerate(value.shape)))


def _declared_size(size: int | ir.SymbolicDim, name: str, axis: int) -> Size:
    if isinstance(size, int):
        return size if size >= 0 else unknown_size(name, axis)  # some exporters write -1 for what they do not know
    text = size.value
    if text is not None and text.startswith("{"):
        return parse(text)  # a name that is no word, as this package writes it
    return named(text) if text and is_name(text) else unknown_size(name, axis)


def _is_too_long(size: Element) -> bool:
    return isinstance(size, Expression) and len(size.text) > LONGEST


def _short_elements(elements: tuple[Element, ...], name: str, dtype: ir.DataType | None) -> tuple[Element, ...]:
    """Put unknown elements where an integer is not known, or its formula is too long."""
    if all(type(element) is int for element in elements) or dtype not in INTEGERS:
        return elements
    return tuple(
        unknown_element(name, index) if element is None or _is_too_long(element) else element
        for index, element in enumerate(elements)
    )


def _with_declared(shape: tuple[Size, ...] | None, written: ir.Shape, name: str) -> tuple[Size, ...]:
    """Return an inferred shape with the numbers of the one that is written in the model."""
    if shape is None:
        shape = tuple(unknown_size(name, axis) for axis in range(len(written)))
    if len(shape) != len(written):
        return shape
    return tuple(
        declared if type(size) is not int and isinstance(declared, int) and declared >= 0 else size
        for size, declared in zip(shape, written, strict=True)
    )


def dimension(size: Size) -> int | ir.SymbolicDim:
    """Return a size as the IR has it."""
    return size if isinstance(size, int) else _symbolic(size.text)


@functools.lru_cache(maxsize=1 << 14)
def _symbolic(text: str) -> ir.SymbolicDim:
    return ir.SymbolicDim(text)


def _dimension(size: Size, before: int | ir.SymbolicDim, promised: bool) -> int | ir.SymbolicDim:
    """Return a size as it is to be written; a name stays in results, and where nothing is known that is worth more."""
    if (
        isinstance(size, Expression)
        and (promised or is_unknown(size))
        and isinstance(before, ir.SymbolicDim)
        and before.value
        and is_name(before.value)
    ):
        return before
    return dimension(size)
