"""Says why rules do not apply: at nodes where the ops of a pattern are there, and something else is not as it must be.

That an op is another one, or a literal has another value, is no reason worth telling: the pattern is simply not there.
So are rules of a single op silent, since their root alone is found everywhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.growth import Growth
from onnxslim.model.nesting import main_graphs
from onnxslim.rewrite.condition import holds, overflow
from onnxslim.rewrite.instantiate import BodyEvaluation
from onnxslim.rewrite.match import Match, find_match
from onnxslim.rewrite.profitability import pays, pays_in_bytes
from onnxslim.rewrite.program import NotApplicable
from onnxslim.rewrite.rule import Rule

ABSENT = re.compile(
    r" is made by no \S+$| is \S+, not [A-Z]\w*$| is missing$|, where the pattern has nothing$| two different values$"
    r"| two values$| is not known$| is no literal$| is no [A-Z]+$| has another value$| is a value inside the pattern$"
    r"| outputs$"
)
"""Reasons of `find_match` that say that the pattern is not there at all."""

TYPE = re.compile(r"^(\w+) has the type .*$")
PRODUCT = re.compile(r"^(\S+\*\S+) is .*, not .*$")
PAYOFF = re.compile(r"^\d+ nodes would stand for \d+$")


@dataclasses.dataclass(frozen=True)
class Miss:
    """A place where a rule nearly applies."""

    rule: str
    node: str
    """Name of the node at the root of the pattern, or of its first output."""
    reason: str
    """Why not, in words that name nothing of this model."""
    detail: str
    """The same with the names."""


def near_misses(model: ir.Model, rules: Sequence[Rule]) -> Iterator[Miss]:
    """Yield where rules nearly apply to `model`, in the order of its nodes. The model is not changed.

    Args:
        model: The model, its shapes inferred. What still matches and pays is no miss.
        rules: Rules of the opset of the model.
    """
    index: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        if len(rule.match.operations()) > 1:
            index.setdefault(rule.prefilter.root, []).append(rule)
    for graph in main_graphs(model):
        names = _descriptions(graph)
        for node in graph:
            for rule in index.get((node.domain, node.op_type), ()):
                detail = _why_not(rule, node)
                if detail is not None:
                    yield Miss(rule.name, node.name or node.outputs[0].name or "", general(detail, names), detail)


def _why_not(rule: Rule, node: ir.Node) -> str | None:
    """Return the reason that says most, None where the rule applies or its pattern is not there."""
    reasons: list[str] = []
    match = find_match(rule, node, reasons)
    if match is None:
        return next((reason for reason in reversed(reasons) if not ABSENT.search(reason)), None)
    try:
        return _does_not_pay(match)
    except NotApplicable as reason:
        return str(reason)


def _does_not_pay(match: Match) -> str | None:
    """Ask what the fixpoint asks (`onnxslim.rewrite.driver`), in its order."""
    instance = BodyEvaluation(match, match.rule.rewrite)
    why = pays(match, instance)
    if why is None and match.rule.when is not None and not holds(match, match.rule.when):
        why = "`when` does not hold"
    if why is not None:
        return why
    plan = instance.plan()
    return pays_in_bytes(match, plan, Growth()) or overflow(match, plan)


def general(reason: str, names: Mapping[str, str]) -> str:
    """Return a reason without the names of a model.

    Args:
        reason: As `find_match` and the payoff tell it.
        names: What to say for the name of a node or value.
    """
    if PAYOFF.match(reason):
        return "no fewer nodes would be left: what it would compute ahead is not constant"
    if typed := TYPE.match(reason):
        return f"{typed[1]} has a type or shape that the rule does not take"
    if product := PRODUCT.match(reason):
        return f"{product[1]} is another size"
    words = reason.split(" ")
    for first in range(len(words)):  # names may hold blanks
        for last in range(len(words), first, -1):
            described = names.get(" ".join(words[first:last]))
            if described is not None:
                return " ".join([*words[:first], described, *words[last:]])
    return reason


def _descriptions(graph: ir.Graph) -> dict[str, str]:
    """Return what to say for the names of nodes and values: ``the Conv``, ``the Conv's output``."""
    names = {"": "a node without a name"}
    for node in graph:
        names |= {output.name: f"the {node.op_type}'s output" for output in node.outputs if output.name}
        if node.name:
            names.setdefault(node.name, f"the {node.op_type}")
    return names
