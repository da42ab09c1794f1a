"""Decides whether a rewrite is made: a rule must never make a model worse, and the fixpoint must end."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.growth import Growth
from onnxslim.model.constants import tensor_bytes
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.condition import holds, overflow
from onnxslim.rewrite.instantiate import BodyEvaluation, Instantiation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.mismatch import Mismatch, MismatchCode, NotApplicable


def plan_rewrite(match: Match, growth: Growth, *, always: bool = False) -> Instantiation | Mismatch:
    """Return what a rule would put in the place of a match, or why it does not apply there.

    A rewrite pays if fewer nodes remain after folding, or as many and fewer bytes of constants are read; `always` makes
    those as well that do not pay.
    """
    rule, evaluation = match.rule, BodyEvaluation(match, match.rule.rewrite)
    try:
        mismatch = None if always else _compare_nodes(match, evaluation)
        if mismatch is not None:
            return mismatch
        if rule.when is not None and not holds(match, rule.when):
            return Mismatch(MismatchCode.CONDITION)
        plan = evaluation.plan()
    except NotApplicable as error:
        return error.mismatch
    return (None if always else _compare_bytes(match, plan, growth)) or overflow(match, plan) or plan


def _compare_nodes(match: Match, evaluation: BodyEvaluation) -> Mismatch | None:
    """Compare the numbers of nodes before anything is evaluated. Returns why the rewrite does not pay, or None."""
    after = sum(not has(node, Trait.IDENTITY) for node in evaluation.remaining())
    before = len(match.nodes)
    return None if after <= before else Mismatch(MismatchCode.NO_FEWER_NODES, (after, before))


def _compare_bytes(match: Match, plan: Instantiation, growth: Growth) -> Mismatch | None:
    """Compare the bytes of the constants that are read, where the numbers of nodes are equal.

    Fewer nodes may not make the file larger than the budget allows, as they would where a large weight is shared.
    """
    after_nodes = sum(not has(node.body, Trait.IDENTITY) for node in plan.nodes)
    made = sum(array.nbytes for array in plan.arrays.values())
    if after_nodes == len(match.nodes) and made + sum(_kept(plan).values()) >= sum(_read(match).values()):
        return Mismatch(MismatchCode.NO_FEWER_BYTES)
    if not growth.allows(added_bytes(match, plan, growth), len(match.nodes) - after_nodes):
        return Mismatch(MismatchCode.SHARED_WEIGHT)
    return None


def added_bytes(match: Match, plan: Instantiation, growth: Growth) -> int:
    """Return how many bytes of constants a rewrite adds; fewer than 0 where it frees more than it makes."""
    kept = _kept(plan)
    freed = sum(
        size
        for value, size in _read(match).items()
        if value not in kept and all(use.node in match.nodes for use in value.uses()) and not value.is_graph_output()
    )
    return growth.size(plan.arrays.values()) - freed


def _read(match: Match) -> dict[ir.Value, int]:
    """Return the constants that the matched nodes read, and their bytes."""
    return {
        value: tensor_bytes(value.const_value)
        for node in match.nodes
        for value in node.inputs
        if value is not None and value.const_value is not None
    }


def _kept(plan: Instantiation) -> dict[ir.Value, int]:
    """Return the values of the graph that the new nodes read, and the bytes of those that are constants."""
    values = [plan.values.get(name) for node in plan.nodes for name in node.inputs if name is not None]
    return {value: tensor_bytes(value.const_value) for value in values if value is not None}
