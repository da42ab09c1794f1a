"""Simplification: rewrite rules, and a few steps in Python, until nothing changes. The outputs stay the same."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Protocol

import onnx_ir as ir

from onnxslim.graph.fold import fold_constants
from onnxslim.graph.inference.walk import Inference
from onnxslim.graph.shapes import forget_shapes, infer_shapes
from onnxslim.model import release_constants
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.pipeline.plan import Plan
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.instantiate import Plan as Replacement
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.prove import verify_site
from onnxslim.rewrite.reader import load_rules

from .branches import inline_constant_branches
from .chains import join_concatenations, join_reshapes
from .dead import (
    eliminate_identities,
    every_graph,
    remove_dead_nodes,
    remove_unused_imports,
    remove_unused_initializers,
)
from .duplicates import merge_equal_initializers, merge_equal_nodes
from .effects import drop_empty_parts, leave_to_broadcasting, pass_by_ops_without_effect
from .naming import name_sizes_once
from .planning import plan_of
from .shapes import distrust_shapes, restore_shapes, spell_out_shapes
from .slices import join_slices
from .states import leave_out_zeros

ROUNDS = 10
"""Rules feed the folder and the folder feeds rules; models that were seen need two to five rounds."""

Step = Callable[[ir.Model], int]


class ShapeStep(Protocol):
    """A step that is told what is known of the values."""

    def __call__(self, model: ir.Model, known: Inference) -> int:
        """Change `model`; return how often."""
        ...


SHAPE_STEPS: tuple[tuple[str, ShapeStep], ...] = (
    ("shapes spelled out", spell_out_shapes),
    ("reshapes joined", join_reshapes),
    ("ops without effect removed", pass_by_ops_without_effect),
    ("empty parts dropped", drop_empty_parts),
    ("expansions left to broadcasting", leave_to_broadcasting),
    ("sizes read where they are", name_sizes_once),
    ("slices joined", join_slices),
)
"""What follows from symbolic sizes; the first steps of a round, while something is known of all that is there."""

STEPS: tuple[tuple[str, Step], ...] = (
    ("branches inlined", inline_constant_branches),
    ("identities eliminated", eliminate_identities),
    ("dead nodes removed", remove_dead_nodes),
    ("concatenations joined", join_concatenations),
    ("zeros left out", leave_out_zeros),
    ("constants folded", lambda model: len(fold_constants(model))),
    ("equal initializers merged", merge_equal_initializers),
    ("equal nodes merged", merge_equal_nodes),
)
"""What no rule can say, in the order of a round; each answers how often it changed something."""

LAST_STEPS: tuple[tuple[str, Step], ...] = (
    ("dead nodes removed", remove_dead_nodes),
    ("unused initializers removed", remove_unused_initializers),
    ("unused opsets and functions removed", remove_unused_imports),
    ("constant nodes made initializers", release_constants),
)


@dataclasses.dataclass(frozen=True)
class Simplify(Pass):
    """Rewrite the graph until no rule applies: fold constants, fuse what belongs together, drop what does nothing."""

    name: ClassVar[str] = "simplify"
    kind: ClassVar[Kind] = Kind.EXACT

    def plan(self, model: ir.Model, context: Context) -> Plan:
        """Simplify `model`, count what was done, and look in what is left for places where rules nearly apply."""
        before = sum(1 for _ in model.graph.all_nodes())
        return plan_of(model, before, self.run(model, context), load_rules(__name__, model.opset_imports.get("", 0)))

    def run(self, model: ir.Model, context: Context) -> Change:
        """Simplify `model` in place. What cannot be done is noted; nothing is raised."""
        counts: collections.Counter[str] = collections.Counter()
        failures: dict[str, str] = {}

        def attempt(name: str, step: Callable[[ir.Model], int], place: str) -> int:
            why = context.ledger.refusal(name, place)
            if why is not None:
                failures[f"{name} at {place}"] = why
                return 0
            try:
                done = step(model)
            except Exception as error:  # simplification must never be what fails: the step is left out, and said so
                failures[name] = f"{type(error).__name__}: {error}"
                return 0
            counts[name] += done
            return done

        def accept(match: Match, plan: Replacement) -> str | None:
            why = verify_site(match, plan, context.generator) if context.verify else None
            return why or context.ledger.refusal(match.rule.name, match.results()[0].name or "")

        def rewrite(model: ir.Model) -> int:
            ops = {node.op_type for graph in every_graph(model) for node in graph}
            rules = load_rules(__name__, model.opset_imports.get("", 0), ops).rules
            usable = [rule for rule in rules if rule.name not in failures]
            applied = fixpoint(model, usable, accept=accept)
            failures.update({each.rule: each.reason for each in (*applied.skipped, *applied.refused)})
            counts.update({f"rule {name}": count for name, count in applied.counts.items()})
            return sum(applied.counts.values())

        def learn() -> bool:
            """Find out shapes. Where that fails nothing may rely on what was found."""
            try:
                wrong = infer_shapes(model, known)
                if wrong:
                    failures["shapes"] = "; ".join(wrong)
            except Exception as error:  # as above
                failures["shapes"] = f"{type(error).__name__}: {error}"
                forget_shapes(model)
                return False
            return True

        declared = distrust_shapes(model)
        known = Inference(model)
        for done in range(ROUNDS):
            context.progress("simplify", done, None)
            learned = learn()
            steps: list[tuple[str, Step]] = [*((name, functools.partial(s, known=known)) for name, s in SHAPE_STEPS)]
            steps += STEPS
            changed = sum([attempt(name, step, f"round {done + 1}") for name, step in steps if name not in failures])
            try:
                changed += rewrite(model)
            except Exception as error:  # as above
                failures["rules"] = f"{type(error).__name__}: {error}"
            if not changed or not learned:
                break
        for name, step in LAST_STEPS:
            attempt(name, step, "the end")
        restore_shapes(model, declared)
        return Change(
            modified=any(counts.values()),
            notes=(
                *(
                    Note(name.removeprefix("rule "), f"applied {count} times")
                    for name, count in counts.items()
                    if count
                ),
                *(Note(name, "left alone", reason) for name, reason in failures.items()),
            ),
        )
