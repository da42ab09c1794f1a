"""Decides whether a rewrite pays: a rule must never make a model worse, and the fixpoint must end."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.growth import Growth
from onnxslim.model.constants import tensor_bytes
from onnxslim.ops.traits import Trait, has
from onnxslim.rewrite.instantiate import BodyEvaluation, Instantiation
from onnxslim.rewrite.match import Match


def pays(match: Match, instance: BodyEvaluation) -> str | None:
    """Compare the numbers of nodes before anything is evaluated. Returns why the rewrite does not pay, or None."""
    after = sum(not has(node, Trait.IDENTITY) for node in instance.remaining())
    before = len(match.nodes)
    return None if after <= before else f"{after} nodes would stand for {before}"


def pays_in_bytes(match: Match, plan: Instantiation, growth: Growth) -> str | None:
    """Compare what is left when the numbers of nodes are equal: the bytes of the constants that are read.

    Fewer nodes may not make the file larger than the budget allows, as they would where a large weight is shared.
    """
    after_nodes = sum(not has(node.body, Trait.IDENTITY) for node in plan.nodes)
    read: dict[ir.Value, int] = {}
    for node in match.nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                read[value] = tensor_bytes(value.const_value)
    made = sum(array.nbytes for array in plan.arrays.values())
    kept = _kept(plan)
    if after_nodes == len(match.nodes) and made + sum(kept.values()) >= sum(read.values()):
        return "it would cost as much as before"
    if not growth.allows(added_bytes(match, plan, growth), len(match.nodes) - after_nodes):
        return "a large weight is shared, and would be stored twice"
    return None


def added_bytes(match: Match, plan: Instantiation, growth: Growth) -> int:
    """Return how many bytes of constants a rewrite adds; fewer than 0 where it frees more than it makes."""
    kept = _kept(plan)
    read = {
        value: tensor_bytes(value.const_value)
        for node in match.nodes
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    freed = sum(
        size
        for value, size in read.items()
        if value not in kept and all(use.node in match.nodes for use in value.uses()) and not value.is_graph_output()
    )
    return growth.size(plan.arrays.values()) - freed


def _kept(plan: Instantiation) -> dict[ir.Value, int]:
    values = [plan.values.get(name) for node in plan.nodes for name in node.inputs if name is not None]
    return {value: tensor_bytes(value.const_value) for value in values if value is not None}
