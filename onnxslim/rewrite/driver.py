"""Applies rules to a model until nothing matches any more.

The driver keeps a list of nodes to look at. A rewrite puts back what it may have made matchable: its own nodes, what
lies below them no deeper than the deepest pattern, and the other users of what it read. So the work grows with the
nodes and the rewrites, not with their product. Nodes and rules are tried in a fixed order.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.growth import Growth
from onnxslim.model.constants import is_constant_node
from onnxslim.model.edit import Editor, take_over
from onnxslim.model.nesting import graphs_within, main_graphs
from onnxslim.rewrite.identity import eliminate_identity
from onnxslim.rewrite.instantiate import Instantiation, build
from onnxslim.rewrite.match import Match, find_match
from onnxslim.rewrite.mismatch import Mismatch
from onnxslim.rewrite.profitability import added_bytes, plan_rewrite
from onnxslim.rewrite.rule import DoesNotCheck, Rule

Accept = Callable[[Match, Instantiation], "str | None"]
"""Asked before a rewrite: None lets it happen, a text is the reason why not."""


@dataclasses.dataclass(frozen=True)
class Applied:
    """What a driver did."""

    counts: Mapping[str, int]
    """How often each rule was applied; rules that never were are missing."""
    broken: Mapping[str, str]
    """Rules that raised, and were not used any more, with the reason."""
    refused: Mapping[str, str]
    """Sites that `accept` did not let happen, as rule and node, with the reason."""


def fixpoint(
    model: ir.Model,
    rules: Sequence[Rule],
    *,
    accept: Accept | None = None,
    growth: Growth | None = None,
    always: bool = False,
) -> Applied:
    """Apply rules wherever they pay, until they do so nowhere.

    A rewrite pays if fewer nodes remain after folding, or as many and fewer bytes of constants are read. Hence every
    rewrite makes the model less, and this ends.

    Args:
        model: The model, changed in place: its graph, nested subgraphs, and local functions of the same opset.
        rules: The rules, the first that matches is taken.
        accept: Has the last word on each rewrite.
        growth: How much larger the model may become in all, and what is left of that; None: a budget for this call.
        always: Apply them where they do not pay as well: for rules that never make what one of them matches.
    """
    driver = _Driver(model, rules, accept, growth or Growth(), always)
    reach = max((rule.prefilter.depth for rule in rules), default=0)
    waiting = collections.deque(driver.nodes())
    queued = set(waiting)
    while waiting:
        node = waiting.popleft()
        queued.discard(node)
        if node.graph is None:
            continue
        for fresh in driver.visit(node):
            for reader in _downstream(fresh, reach):
                if reader not in queued:
                    queued.add(reader)
                    waiting.append(reader)
    return driver.finish()


def _downstream(node: ir.Node, reach: int) -> Iterator[ir.Node]:
    """Yield a node and those that it feeds, `reach` levels deep."""
    level, seen = [node], {node}
    for _ in range(reach + 1):
        yield from level
        users = [use.node for member in level for output in member.outputs for use in output.uses()]
        level = [user for user in dict.fromkeys(users) if user not in seen]
        seen.update(level)


class _Driver:
    def __init__(
        self, model: ir.Model, rules: Sequence[Rule], accept: Accept | None, growth: Growth, always: bool
    ) -> None:
        self.model, self.accept, self.growth, self.always = model, accept, growth, always
        self.index: dict[tuple[str, str], list[Rule]] = {}
        for rule in rules:
            self.index.setdefault(rule.prefilter.root, []).append(rule)
        self.shortlists: dict[tuple[str, str, frozenset[str | None]], tuple[Rule, ...]] = {}
        self.opset = rules[0].opset if rules else 0
        self.counts: dict[str, int] = {}
        self.broken: dict[str, str] = {}
        self.unreadable: set[str] = set()  # at this opset: reading them again at every site would find the same
        self.refused: dict[str, str] = {}
        self.functions = [f for f in model.functions.values() if f.opset_imports.get("") == self.opset]
        self.inner = {graph for function in self.functions for graph in graphs_within(function.graph)}
        self.unsorted: dict[ir.Graph, None] = {}
        self.editor = Editor(model)

    def _graphs(self) -> Iterator[ir.Graph]:
        if self.model.opset_imports.get("", self.opset) == self.opset:
            yield from main_graphs(self.model)
        for function in self.functions:
            yield from graphs_within(function.graph)

    def nodes(self) -> list[ir.Node]:
        return [node for graph in self._graphs() for node in graph]

    def _candidates(self, node: ir.Node) -> tuple[Rule, ...]:
        """Return the rules, in order, whose pattern may lie above a node, going by what makes its inputs."""
        rules = self.index.get((node.domain, node.op_type))
        if rules is None:
            return ()
        makers = frozenset(_maker(value) for value in node.inputs)
        key = (node.domain, node.op_type, makers)
        if key not in self.shortlists:
            self.shortlists[key] = tuple(rule for rule in rules if rule.prefilter.required_producers <= makers)
        return self.shortlists[key]

    def visit(self, node: ir.Node) -> list[ir.Node]:
        """Apply the first rule that matches at `node`. Returns the nodes whose surroundings changed."""
        for rule in self._candidates(node):
            if rule.name in self.broken or rule.name in self.unreadable:
                continue
            try:
                match = find_match(rule, node)
                if match is None:
                    continue
                plan = plan_rewrite(match, self.growth, always=self.always)
                if isinstance(plan, Mismatch):
                    continue
                why = self.accept(match, plan) if self.accept is not None else None
            except DoesNotCheck:
                self.unreadable.add(rule.name)
                continue
            except Exception as error:  # a rule must not take the model down with it, whatever is wrong with it
                self.broken[rule.name] = f"{type(error).__name__}: {error}"
                continue
            if why is not None:
                self.refused[f"{rule.name} at {node.name or node.op_type}"] = why
                continue
            try:
                touched = self._apply(match, plan)
            except Exception as error:  # as above; whether the graph is still whole, whoever runs it finds out
                self.broken[rule.name] = f"{type(error).__name__}: {error}"
                return []
            self.counts[rule.name] = self.counts.get(rule.name, 0) + 1
            return touched
        return []

    def _apply(self, match: Match, plan: Instantiation) -> list[ir.Node]:
        graph = match.root.graph
        assert graph is not None
        self.growth.spend(added_bytes(match, plan, self.growth), plan.arrays.values())
        results = match.results()
        base = results[0].name or match.root.name or match.rule.name
        nodes, initializers, made = build(plan, match, lambda name: self.editor.name(f"{base}/{name}"))
        makers = [output.producer() for output in made.values()]
        for place, value in enumerate(initializers):
            if graph in self.inner:  # functions have no initializers
                nodes.insert(place, _constant_node(value))
            else:
                graph.register_initializer(value)
        replaced = []
        for result, old in zip(
            [r for r in match.rule.results if match.values[r.name] is not None], results, strict=True
        ):
            new = made[result.name]
            if new.is_initializer() or new.producer() not in makers:
                identity = ir.Node("", "Identity", [new], name=self.editor.name(f"{base}/Identity"))
                nodes.append(identity)
                new = identity.outputs[0]
            replaced.append((old, new))
        readers = [v for v in match.values.values() if v is not None and not v.is_initializer() and v.producer()]
        graph.insert_before(match.root, nodes)
        for old, new in replaced:
            take_over(new, old)
        final = replaced[0][1].producer()
        if final is not None:
            final.name = match.root.name
        graph.remove(list(match.nodes), safe=True)
        if len(results) > 1:
            self.unsorted[graph] = None
        touched = dict.fromkeys(nodes)
        touched.update(dict.fromkeys(use.node for value in readers for use in value.uses()))
        touched.update(dict.fromkeys(use.node for _, new in replaced for use in new.uses()))
        for node in nodes:
            eliminate_identity(node)
        return [node for node in touched if node.graph is not None]

    def finish(self) -> Applied:
        for graph in self.unsorted:
            graph.sort()
        return Applied(self.counts, self.broken, self.refused)


def _maker(value: ir.Value | None) -> str | None:
    """Return what makes a value, in the words of `Prefilter.input_producers`."""
    if value is None:
        return None
    maker = value.producer()
    if maker is None or value.const_value is not None or is_constant_node(maker):
        return ""
    return maker.op_type


def _constant_node(value: ir.Value) -> ir.Node:
    """Return a Constant node that makes what `value` is, and let the users of `value` use that."""
    assert value.const_value is not None
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)], name=f"{value.name}/Constant")
    output = node.outputs[0]
    output.type, output.shape = value.type, value.shape
    value.replace_all_uses_with(output)
    output.name = value.name
    return node
