"""Makes one op of what a model spells out in many because its operator set is older than that op: a GELU before 20.

Its parts would each be rounded, where they lie between Q and DQ. ONNX Runtime does not fuse them either, for there each
reader of a tensor gets a DequantizeLinear of its own, and its patterns begin at one value. As one op it is rounded
once, and is one pass over the tensor.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir

from onnxslim.model.nesting import every_graph
from onnxslim.model.schemas import find_schema
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.opset import PREFERRED_OPSET, upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.pipeline.selection import Selection
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.instantiate import Instantiation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.reader import load_rules
from onnxslim.rewrite.rule import Rule
from onnxslim.rewrite.source import CALLED

SIMPLIFY = "simplify"
"""The pass whose rules know what is spelled out."""
OPSETS = (PREFERRED_OPSET, 20)
"""Where models are brought to, the oldest that serves first. ONNX Runtime knows the last one since 1.17."""

Choose = Callable[[ir.Model], Selection]
"""Returns what the options of a pass choose of a model."""


@dataclasses.dataclass(frozen=True)
class NewerOps:
    """A model at the operator set that it needs for the ops that were made, and how many of each."""

    model: ir.Model
    counts: Mapping[str, int]
    against: Reason | None = None
    """Why it is at no newer one, where there may have been something to be made."""


def with_newer_ops(model: ir.Model, wanted: Collection[str], chosen: Choose, context: Context) -> NewerOps:
    """Return `model` with one op for each that it spells out and its operator set has not, and simplified there.

    Where there is none, that is `model` itself, which is never changed. Where options of the pass leave a part of one
    alone, by its name, all stay as they are.

    Args:
        model: In canonical form and simplified.
        wanted: The op types that are made.
        chosen: Returns what the options choose of a model.
        context: That of the pass.
    """
    counts: Counter[str] = Counter()
    for opset in OPSETS:
        made = _made(model, wanted, opset)
        if not made:
            continue
        raised = upgraded(model, opset)
        if isinstance(raised, Reason):
            return NewerOps(model, counts, raised)
        selection = chosen(raised)
        found = fixpoint(raised, [rule for rule, _ in made], accept=functools.partial(_against, selection))
        applied = found.counts
        if applied and not found.refused:
            find_pass(SIMPLIFY)().run(raised, dataclasses.replace(context, gate=RewriteGate()))
            model = raised
            for rule, op_types in made:
                counts.update(dict.fromkeys(op_types, applied.get(rule.name, 0)))
    return NewerOps(model, +counts)


def _against(selection: Selection, match: Match, _: Instantiation) -> str | None:
    """Return why a rewrite is not made: a node is left alone that it would take away."""
    return next((str(reason) for node in match.nodes if (reason := selection.against(node)) is not None), None)


def _made(model: ir.Model, wanted: Collection[str], opset: int) -> list[tuple[Rule, list[str]]]:
    """Return rules for ops that `model` uses, and the wanted op types that they make, which its operator set lacks."""
    own = model.opset_imports.get("", opset)
    if own >= opset:
        return []
    used = frozenset(node.op_type for graph in every_graph(model) for node in graph)
    rules = load_rules(find_pass(SIMPLIFY).__module__, opset, used)
    lacking = {op_type for op_type in wanted if find_schema("", op_type, own) is None}
    made = ((rule, sorted(lacking.intersection(CALLED.findall(rule.source.written("rewrite"))))) for rule in rules)
    return [(rule, op_types) for rule, op_types in made if op_types]
