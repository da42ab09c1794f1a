"""Ops that hold graphs, and calls of local functions: what is known inside, and what of that is true outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from onnxslim.model.nesting import nodes_within
from onnxslim.ops.fact import NOTHING, Element, Fact, NodeFacts, Unknowable, axis_of
from onnxslim.ops.parameters import read
from onnxslim.ops.symbols import Expression, Size, atoms, unknown_size

TURNS = 4
"""How often a loop is tried out before nothing is believed of the shapes that go round in it."""

DEEPEST = 8
"""Calls of functions within functions; deeper ones are not looked into."""

UNKNOWN = re.compile(r"\{[?!](.*)#\d+\}", re.S)


class Walk(Protocol):
    """What goes through the model, as far as this module needs it (`onnxslim.analysis.inference.Inference`)."""

    facts: dict[ir.Value, Fact]
    model: ir.Model
    opsets: Mapping[str, int]
    scope: str
    writing: bool

    def fact(self, value: ir.Value) -> Fact:
        """Return what is known of a value."""
        ...

    def walk(self, nodes: Iterable[ir.Node]) -> None:
        """Infer the outputs of nodes."""
        ...


def branches(node: ir.Node) -> tuple[ir.Graph, ir.Graph] | None:
    """Return the branches of an If, where it holds and where not; None for other nodes."""
    if CONTROL.get((node.domain, node.op_type)) is not branch:
        return None
    return node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph()


def branch(walk: Walk, site: NodeFacts) -> tuple[Fact, ...]:
    """If: what both branches agree on; where the condition is known, what the one says that is taken."""
    graphs = [read(site, "then_branch"), read(site, "else_branch")]
    condition = site.fact(0).elements
    results = []
    for taken, graph in zip((1, 0), graphs, strict=True):
        walk.walk(graph)
        facts = _outward([walk.fact(value) for value in graph.outputs], site, _names(graph))
        if condition != (1 - taken,):
            results.append(facts)
    if len(results) == 1:
        return results[0]
    return tuple(
        _joined(first, second, [site.unknown(axis, place) for axis in range(len(first.shape or ()))])
        for place, (first, second) in enumerate(zip(*results, strict=True))
    )


def loop(walk: Walk, site: NodeFacts) -> tuple[Fact, ...]:
    """Loop: states keep what every turn keeps of them; what is collected gets an axis in front."""
    body = read(site, "body")
    states = [fact or NOTHING for fact in site.facts[2:]]
    count = len(states)
    turn = [Fact(ir.DataType.INT64, ()), Fact(ir.DataType.BOOL, ())]
    results, states = _go_round(walk, body, turn, states, first_input=2, first_result=1)
    collected = [
        Fact(fact.dtype, None if fact.shape is None else (site.unknown(0, count + place), *fact.shape))
        for place, fact in enumerate(_outward(results[1 + count :], site, _names(body), count, shift=1))
    ]
    return (*_outward(states, site, _names(body)), *collected)


def scan(walk: Walk, site: NodeFacts) -> tuple[Fact, ...]:
    """Scan: as Loop, over an axis of each input that is scanned, and with the axis of results where it is wanted."""
    if site.version < 9:
        raise Unknowable
    body, scanned = read(site, "body"), read(site, "num_scan_inputs")
    count = len(site.facts) - scanned
    axes = read(site, "scan_input_axes") or [0] * scanned
    slices: list[Fact] = []
    length: Size = site.unknown(0, count)
    for place in range(scanned):
        fact = site.fact(count + place)
        if fact.shape is None:
            slices.append(Fact(fact.dtype))
            continue
        axis = axis_of(axes[place], len(fact.shape))
        length = fact.shape[axis]
        slices.append(Fact(fact.dtype, (*fact.shape[:axis], *fact.shape[axis + 1 :])))
    states = [fact or NOTHING for fact in site.facts[:count]]
    results, states = _go_round(walk, body, slices, states)
    outward = _outward(results[count:], site, _names(body), count)
    places = read(site, "scan_output_axes") or [0] * len(outward)
    collected = []
    for fact, place in zip(outward, places, strict=True):
        shape = fact.shape
        if shape is not None:
            axis = axis_of(place, len(shape) + 1)
            shape = (*shape[:axis], length, *shape[axis:])
        collected.append(Fact(fact.dtype, shape))
    return (*_outward(states, site, _names(body)), *collected)


def _go_round(
    walk: Walk,
    body: ir.Graph,
    others: Sequence[Fact],
    states: list[Fact],
    first_input: int = 0,
    first_result: int = 0,
) -> tuple[list[Fact], list[Fact]]:
    """Infer the body of a loop until a turn keeps what is believed of the states; returns its results, and them.

    The first belief is that states stay what they are in the beginning. What a turn changes is believed no more. Until
    that has come to rest, nothing is written into the model. States are inputs and results from these on.
    """
    inputs = body.inputs[first_input : first_input + len(states)]
    rest = [value for value in body.inputs if value not in inputs]
    writing, walk.writing = walk.writing, False
    try:
        for turn in range(TURNS + 1):
            if turn == TURNS:
                states = [Fact(fact.dtype, None, None, fact.other) for fact in states]
            walk.facts.update(zip(inputs, states, strict=True))
            walk.facts.update(zip(rest, others, strict=True))
            walk.walk(body)
            results = [walk.fact(value) for value in body.outputs]
            made = results[first_result : first_result + len(states)]
            kept = [
                _joined(old, new, [unknown_size(value.name or "", axis) for axis in range(len(old.shape or ()))])
                for value, old, new in zip(inputs, states, made, strict=True)
            ]
            if kept == states or turn == TURNS:
                break
            states = kept
    finally:
        walk.writing = writing
    if writing:
        walk.walk(body)
    return results, states


def call_function(walk: Walk, site: NodeFacts) -> tuple[Fact, ...]:
    """Infer the body of a local function for the inputs of one call. Nothing is written into the body."""
    function = walk.model.functions[site.node.op_identifier()]
    scope, writing, opsets = walk.scope, walk.writing, walk.opsets
    if scope.count("/") >= DEEPEST or len(site.facts) > len(function.inputs):
        raise Unknowable
    inner = f"{scope}{(site.node.outputs[0].name or '').replace('/', '.')}/"
    walk.scope, walk.writing, walk.opsets = inner, False, function.opset_imports
    try:
        for place, value in enumerate(function.inputs):
            walk.facts[value] = site.fact(place)
        walk.walk(function)
        facts = [walk.fact(value) for value in function.outputs]
    finally:
        walk.scope, walk.writing, walk.opsets = scope, writing, opsets
    names = {f"{inner}{value.name}" for node in function for value in node.outputs}
    return _outward(facts, site, names)


def _joined(first: Fact, second: Fact, unknown: Sequence[Size]) -> Fact:
    """Return what two facts agree on; sizes that differ are those of `unknown`."""
    dtype = first.dtype if first.dtype is second.dtype else None
    other = first.other if first.other == second.other else None
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return Fact(dtype, None, None, other)
    shape = tuple(a if a == b else c for a, b, c in zip(first.shape, second.shape, unknown, strict=True))
    elements = first.elements if first.elements == second.elements else None
    return Fact(dtype, shape, elements, other)


def _names(graph: ir.Graph) -> set[str]:
    values = {value.name or "" for value in graph.inputs}
    return values.union(value.name or "" for node in nodes_within(graph) for value in node.outputs)


def _outward(
    facts: Sequence[Fact], site: NodeFacts, names: set[str], first: int = 0, shift: int = 0
) -> tuple[Fact, ...]:
    """Return facts without the unknown sizes of values that are inside, which are called `names`, for the outputs of
    `site` from `first` on; these have `shift` more axes in front."""
    result: list[Fact] = []
    for output, (dtype, shape, elements, other) in enumerate(facts, start=first):
        if shape is not None:
            shape = tuple(
                site.unknown(axis, output) if _is_inside(size, names) else size
                for axis, size in enumerate(shape, start=shift)
            )
        if elements is not None and any(_is_inside(element, names) for element in elements):
            elements = None
        result.append(Fact(dtype, shape, elements, other))
    return tuple(result)


def _is_inside(size: Element, names: set[str]) -> bool:
    if not isinstance(size, Expression):
        return False
    unknown = (UNKNOWN.fullmatch(atom) for atom in atoms(size))
    return any(match is not None and match[1] in names for match in unknown)


CONTROL: dict[tuple[str, str], Callable[[Walk, NodeFacts], tuple[Fact, ...]]] = {
    ("", "If"): branch,
    ("", "Loop"): loop,
    ("", "Scan"): scan,
}
"""Ops that hold graphs, by domain and op."""
