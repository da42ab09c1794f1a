"""Finds where rules nearly apply: the ops of a pattern are there, and something else is not as it must be.

That an op is another one, or a literal has another value, is no reason worth telling: the pattern is simply not there.
Nor are rules of a single op, since their root alone is found everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxslim.analysis.growth import Growth
from onnxslim.model.nesting import main_graphs
from onnxslim.rewrite.match import find_match
from onnxslim.rewrite.mismatch import ABSENT, Mismatch
from onnxslim.rewrite.profitability import plan_rewrite
from onnxslim.rewrite.rule import Rule


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """A place where a rule nearly applies."""

    rule: str
    root: ir.Node
    """The node at the root of the pattern."""
    mismatch: Mismatch


def near_misses(model: ir.Model, rules: Sequence[Rule]) -> Iterator[NearMiss]:
    """Yield where rules of the opset of `model` nearly apply, in the order of its nodes. The model is not changed.

    Its shapes are inferred. What still matches and pays is no miss.
    """
    index: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        if len(rule.match.operations()) > 1:
            index.setdefault(rule.prefilter.root, []).append(rule)
    for graph in main_graphs(model):
        for node in graph:
            for rule in index.get((node.domain, node.op_type), ()):
                mismatch = _why_not(rule, node)
                if mismatch is not None:
                    yield NearMiss(rule.name, node, mismatch)


def _why_not(rule: Rule, node: ir.Node) -> Mismatch | None:
    """Return the mismatch that says most, None where the rule applies or its pattern is not there."""
    mismatches: list[Mismatch] = []
    match = find_match(rule, node, mismatches)
    if match is None:
        return next((mismatch for mismatch in reversed(mismatches) if mismatch.code not in ABSENT), None)
    plan = plan_rewrite(match, Growth())
    return plan if isinstance(plan, Mismatch) else None
