"""The plan of a simplification: how often each rule and step applies, and why rules do not apply to the rest."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.plan import Finding, PassPlan, Planned, gather, ordered
from onnxslim.rewrite.explain import NearMiss, near_misses
from onnxslim.rewrite.mismatch import describe
from onnxslim.rewrite.rule import Rule


def plan_of(
    model: ir.Model, before: int, applied: Mapping[str, int], failures: Mapping[str, str], rules: Sequence[Rule]
) -> PassPlan:
    """Return the plan of a simplification that was made on a clone, which had `before` nodes.

    Reasons are those of the simplified model: before that, what one rule does not match may be what another one makes.
    `applied` says how often each rule and step was, `failures` why others were left out; `rules` are of its opset.
    """
    infer_shapes(model)
    findings: dict[str, list[Finding]] = collections.defaultdict(list)
    for miss in near_misses(model, rules):
        findings[miss.rule].append(_finding(miss))
    for subject, reason in failures.items():
        findings[subject].append(Finding(reason, subject, reason))
    comments = {rule.name: rule.source.comment for rule in rules}
    lines = [
        Planned(subject, applied.get(subject, 0), comments.get(subject, ""), gather(findings[subject]))
        for subject in dict.fromkeys([*applied, *findings])
    ]
    return PassPlan((before, count_nodes(model)), ordered(lines))


def _finding(miss: NearMiss) -> Finding:
    mismatch = miss.mismatch
    return Finding(
        describe(mismatch, general=True),
        miss.root.name or miss.root.outputs[0].name or "",
        describe(mismatch),
        mismatch.code.word,
        () if mismatch.node is None else (mismatch.node.name or "",),
        () if mismatch.value is None else (mismatch.value.name or "",),
    )
