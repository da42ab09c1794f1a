"""Tells a simplification as a plan: how often each rule and step applies, and why rules do not apply to the rest."""

from __future__ import annotations

import collections
import re

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.interface import Change
from onnxslim.pipeline.plan import PassPlan, Planned, gather, ordered
from onnxslim.rewrite.explain import Miss, near_misses
from onnxslim.rewrite.rule import RuleSet

COUNT = re.compile(r"applied (\d+) times?")


def plan_of(model: ir.Model, before: int, change: Change, rules: RuleSet) -> PassPlan:
    """Return the plan of a simplification that was made on a clone.

    Reasons are those of the simplified model: before that, what one rule does not match may be what another one makes.

    Args:
        model: The simplified clone.
        before: How many nodes it had.
        change: What was done to it.
        rules: The rules, and those that cannot be used at this opset.
    """
    sites: dict[str, int] = {}
    broken: dict[str, list[tuple[str, str, str]]] = {}
    for note in change.notes:
        if count := COUNT.fullmatch(note.action):
            sites[note.subject] = int(count[1])
        elif note.reason:
            broken.setdefault(note.subject, []).append((note.reason, note.subject, note.reason))
    infer_shapes(model)
    misses: dict[str, list[Miss]] = collections.defaultdict(list)
    for miss in near_misses(model, rules.rules):
        misses[miss.rule].append(miss)
    comments = {rule.name: rule.comment for rule in rules.rules}
    subjects = dict.fromkeys([*sites, *misses, *broken])
    lines = [
        Planned(
            subject,
            sites.get(subject, 0),
            comments.get(subject, ""),
            gather([*((each.reason, each.node, each.detail) for each in misses[subject]), *broken.get(subject, [])]),
        )
        for subject in subjects
    ]
    return PassPlan((before, count_nodes(model)), ordered(lines))
