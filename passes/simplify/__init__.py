"""Simplification: rewrite rules, and a few steps in Python, until nothing changes. The outputs stay the same."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.graph.fold import fold_constants
from onnxslim.graph.shapes import infer_shapes
from onnxslim.model import release_constants
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.rewrite.driver import fixpoint
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
from .doubt import forget_doubtful_sizes
from .duplicates import merge_equal_initializers, merge_equal_nodes
from .shapes import distrust_shapes, restore_shapes, spell_out_shapes
from .siblings import merge_siblings
from .states import leave_out_zero_states

ROUNDS = 10
"""Rules feed the folder and the folder feeds rules; models that were seen need two to five rounds."""

STEPS: tuple[tuple[str, Callable[[ir.Model], int]], ...] = (
    ("branches inlined", inline_constant_branches),
    ("identities eliminated", eliminate_identities),
    ("dead nodes removed", remove_dead_nodes),
    ("zero states left out", leave_out_zero_states),
    ("shapes spelled out", spell_out_shapes),
    ("reshapes joined", join_reshapes),
    ("concatenations joined", join_concatenations),
    ("constants folded", lambda model: len(fold_constants(model))),
    ("equal initializers merged", merge_equal_initializers),
    ("equal nodes merged", merge_equal_nodes),
)
"""What no rule can say, in the order of a round; each answers how often it changed something."""

LAST_STEPS: tuple[tuple[str, Callable[[ir.Model], int]], ...] = (
    ("dead nodes removed", remove_dead_nodes),
    ("unused initializers removed", remove_unused_initializers),
    ("unused opsets and functions removed", remove_unused_imports),
    ("constant nodes made initializers", release_constants),
)


MADE_BY_STEPS = frozenset({"Concat", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Transpose"})
"""Ops that steps in Python may put into a model."""


@dataclasses.dataclass(frozen=True)
class Simplify(Pass):
    """Rewrite the graph until no rule applies: fold constants, fuse what belongs together, drop what does nothing."""

    name: ClassVar[str] = "simplify"
    kind: ClassVar[Kind] = Kind.EXACT

    siblings: Annotated[bool, "merge matrix products and convolutions that share an input, and split the result"] = (
        False
    )

    def run(self, model: ir.Model, context: Context) -> Change:
        """Simplify `model` in place. What cannot be done is noted; nothing is raised."""
        rules = load_rules(__name__, model.opset_imports.get("", 0), _ops(model))
        counts: collections.Counter[str] = collections.Counter()
        failures: dict[str, str] = {}

        def attempt(name: str, step: Callable[[ir.Model], int]) -> int:
            try:
                done = step(model)
            except Exception as error:  # simplification must never be what fails: the step is left out, and said so
                failures[name] = f"{type(error).__name__}: {error}"
                return 0
            counts[name] += done
            return done

        def rewrite(model: ir.Model) -> int:
            usable = [rule for rule in rules.rules if rule.name not in failures]
            accept = (lambda match, plan: verify_site(match, plan, context.generator)) if context.verify else None
            applied = fixpoint(model, usable, accept=accept)
            failures.update({each.rule: each.reason for each in (*applied.skipped, *applied.refused)})
            counts.update({f"rule {name}": count for name, count in applied.counts.items()})
            return sum(applied.counts.values())

        declared = distrust_shapes(model)
        for done in range(ROUNDS):
            context.progress("simplify", done, None)
            infer_shapes(model)
            forget_doubtful_sizes(model)
            changed = sum([attempt(name, step) for name, step in STEPS if name not in failures])
            try:
                changed += rewrite(model)
            except Exception as error:  # as above
                failures["rules"] = f"{type(error).__name__}: {error}"
            if not changed:
                break
        last = (("siblings merged", merge_siblings), *LAST_STEPS) if self.siblings else LAST_STEPS
        for name, step in last:
            attempt(name, step)
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


def _ops(model: ir.Model) -> frozenset[str]:
    """Return the ops that rules may meet."""
    return frozenset(node.op_type for graph in every_graph(model) for node in graph) | MADE_BY_STEPS
