"""Simplification: rewrite rules, and a few steps in Python, until nothing changes. The outputs stay the same."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.model import OLDEST_OPSET
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.interface import Change, Context, Kind, Pass
from onnxslim.pipeline.plan import PassPlan
from onnxslim.rewrite.reader import load_rules

from .explain import plan_of
from .rounds import Rounds
from .siblings import merge_siblings


@dataclasses.dataclass(frozen=True)
class Simplify(Pass):
    """Rewrite the graph until no rule applies: fold constants, fuse what belongs together, drop what does nothing."""

    name: ClassVar[str] = "simplify"
    kind: ClassVar[Kind] = Kind.EXACT
    oldest_opset: ClassVar[int] = OLDEST_OPSET

    siblings: Annotated[bool, "merge matrix products and convolutions that share an input, and split the result"] = (
        False
    )

    def run(self, model: ir.Model, context: Context) -> Change:
        """Simplify `model` in place. What cannot be done is noted; nothing is raised."""
        rounds = self._simplify(model, context)
        return Change(rounds.modified, rounds.notes())

    def plan(self, model: ir.Model, context: Context) -> PassPlan:
        """Simplify `model`, count what was done, and look in what is left for places where rules nearly apply."""
        before = count_nodes(model)
        rounds = self._simplify(model, context)
        rules = load_rules(__name__, model.opset_imports.get("", 0))
        return plan_of(model, before, rounds.applied, rounds.failures, rules)

    def _simplify(self, model: ir.Model, context: Context) -> Rounds:
        rounds = Rounds(model, context, __name__)
        rounds.run([("siblings merged", merge_siblings)] if self.siblings else [])
        return rounds
