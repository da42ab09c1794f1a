"""Simplification: rewrite rules, and a few steps in Python, until nothing changes. The outputs stay the same."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import onnx_ir as ir

from onnxslim.graph.fold import fold_constants
from onnxslim.graph.shapes import forget_shapes, infer_shapes
from onnxslim.model import OLDEST_NUMPY_OPSET, OLDEST_OPSET, release_constants
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.instantiate import Plan
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.prove import check_site
from onnxslim.rewrite.reader import load_rules

from .branches import inline_constant_branches
from .chains import join_concatenations, join_reshapes
from .dead import (
    eliminate_identities,
    remove_dead_nodes,
    remove_unused_imports,
    remove_unused_initializers,
)
from .doubt import forget_doubtful_sizes
from .duplicates import merge_equal_initializers, merge_equal_nodes
from .shapes import distrust_shapes, restore_shapes, spell_out_shapes

ROUNDS = 10
"""Rules feed the folder and the folder feeds rules; models that were seen need two to five rounds."""

STEPS: tuple[tuple[str, Callable[[ir.Model], int]], ...] = (
    ("branches inlined", inline_constant_branches),
    ("identities eliminated", eliminate_identities),
    ("dead nodes removed", remove_dead_nodes),
    ("shapes spelled out", spell_out_shapes),
    ("reshapes joined", join_reshapes),
    ("concatenations joined", join_concatenations),
    ("constants folded", lambda model: len(fold_constants(model))),
    ("equal initializers merged", merge_equal_initializers),
    ("equal nodes merged", merge_equal_nodes),
)
"""What no rule can say, in the order of a round; each answers how often it changed something."""

OPSET_FREE_STEPS = frozenset({"identities eliminated", "dead nodes removed", "equal initializers merged"})
"""What is done to models of an opset before `OLDEST_NUMPY_OPSET`: what does not ask what any op computes."""

LAST_STEPS: tuple[tuple[str, Callable[[ir.Model], int]], ...] = (
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
    oldest_opset: ClassVar[int] = OLDEST_OPSET

    def run(self, model: ir.Model, context: Context) -> Change:
        """Simplify `model` in place. What cannot be done is noted; nothing is raised."""
        opset = model.opset_imports.get("", 0)
        old = 0 < opset < OLDEST_NUMPY_OPSET
        rules = () if old else load_rules(__name__, opset).rules
        steps = [(name, step) for name, step in STEPS if not old or name in OPSET_FREE_STEPS]
        counts: collections.Counter[str] = collections.Counter()
        verified: collections.Counter[str] = collections.Counter()
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

        def accept(match: Match, plan: Plan) -> str | None:
            if context.verify:
                check = check_site(match, plan, context.generator)
                verified["equal" if check.ran else "not run"] += check.difference is None
                if check.difference is not None:
                    return check.difference
            return context.ledger.refusal(match.rule.name, match.results()[0].name or "")

        def rewrite(model: ir.Model) -> int:
            usable = [rule for rule in rules if rule.name not in failures]
            applied = fixpoint(model, usable, accept=accept)
            failures.update({each.rule: each.reason for each in (*applied.skipped, *applied.refused)})
            counts.update({f"rule {name}": count for name, count in applied.counts.items()})
            return sum(applied.counts.values())

        def learn() -> bool:
            """Find out shapes. Where that fails nothing may rely on what was found."""
            if old:  # inference knows the ops as they are now
                return True
            try:
                failures.update([("shapes", why) for why in infer_shapes(model)])
                forget_doubtful_sizes(model)
            except Exception as error:  # as above
                failures["shapes"] = f"{type(error).__name__}: {error}"
                forget_shapes(model)
                return False
            return True

        declared = distrust_shapes(model)
        for done in range(ROUNDS):
            context.progress("simplify", done, None)
            known = learn()
            changed = sum([attempt(name, step, f"round {done + 1}") for name, step in steps if name not in failures])
            try:
                changed += rewrite(model)
            except Exception as error:  # as above
                failures["rules"] = f"{type(error).__name__}: {error}"
            if not changed or not known:
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
                *_told(verified),
                *(Note(name, "left alone", reason) for name, reason in failures.items()),
                *((Note("rules", "left alone", f"opset {opset} is older than {OLDEST_NUMPY_OPSET}"),) if old else ()),
            ),
        )


def _told(verified: collections.Counter[str]) -> tuple[Note, ...]:
    """Return what `--verify` found out about the sites that were rewritten."""
    if not verified:
        return ()
    left = verified["not run"]
    reason = f"{left} sites did not run by themselves; the whole model is compared all the same" if left else ""
    return (Note("verify", f"{verified['equal']} sites equal on random data", reason),)
