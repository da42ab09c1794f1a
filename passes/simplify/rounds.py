"""Simplifies in rounds of steps and rules until nothing changes; a step or rule that fails is left out and reported."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterable
from typing import Protocol

import onnx_ir as ir

from onnxslim.analysis.fold import fold_constants
from onnxslim.analysis.gemm import fold_scales
from onnxslim.analysis.growth import Growth
from onnxslim.analysis.inference import Inference
from onnxslim.analysis.shapes import forget_shapes, infer_shapes
from onnxslim.model import OLDEST_NUMPY_OPSET, release_constants, weight_bytes
from onnxslim.model.nesting import every_graph
from onnxslim.pipeline.interface import Context, Goal, Note, left_alone, remark
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.instantiate import Instantiation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.reader import load_rules
from onnxslim.rewrite.site_check import check_site

from .branch_by_rank import decide_by_rank
from .branches import inline_constant_branches
from .chains import join_concatenations, join_reshapes
from .dead import (
    eliminate_identities,
    remove_dead_nodes,
    remove_unused_imports,
    remove_unused_initializers,
)
from .duplicates import merge_equal_initializers, merge_equal_nodes
from .no_ops import drop_empty_parts, leave_to_broadcasting, pass_by_ops_without_effect
from .rnn_initial_state import leave_out_zero_states
from .shape_cse import name_sizes_once
from .shapes import distrust_shapes, restore_shapes, spell_out_shapes
from .slices import join_slices
from .split_concat import join_pieces
from .transposes import move_transposes

ROUNDS = 10
"""Rules feed the folder and the folder feeds rules; models that were seen need two to five rounds."""

Step = Callable[[ir.Model], int]
NamedStep = tuple[str, Step]


class ShapeStep(Protocol):
    """A step that reads what inference knows of the values."""

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
    ("pieces joined", join_pieces),
    ("transposes moved", move_transposes),
    ("branches told by rank", decide_by_rank),
)
"""What follows from symbolic sizes; the first steps of a round, while something is known of all that is there."""

FOLDING = "constants folded"

STEPS: tuple[NamedStep, ...] = (
    ("branches inlined", inline_constant_branches),
    ("identities eliminated", eliminate_identities),
    ("dead nodes removed", remove_dead_nodes),
    ("zero states left out", leave_out_zero_states),
    ("concatenations joined", join_concatenations),
    ("scales of products folded", fold_scales),
    (FOLDING, lambda model: len(fold_constants(model))),
    ("equal initializers merged", merge_equal_initializers),
    ("equal nodes merged", merge_equal_nodes),
)
"""Steps that no rule can express, in the order of a round; each returns how often it changed something."""

OPSET_FREE_STEPS = frozenset({"identities eliminated", "dead nodes removed", "equal initializers merged"})
"""What is done to models of an opset before `OLDEST_NUMPY_OPSET`: what does not ask what any op computes."""

LAST_STEPS: tuple[NamedStep, ...] = (
    ("dead nodes removed", remove_dead_nodes),
    ("unused initializers removed", remove_unused_initializers),
    ("unused opsets and functions removed", remove_unused_imports),
    ("constant nodes made initializers", release_constants),
)


class Rounds:
    """One simplification of one model, in place, by the rules of a package.

    The gate of the context is asked before each rewrite; with `verify`, each is checked where it is made.
    """

    def __init__(self, model: ir.Model, context: Context, package: str) -> None:
        self._model, self._context, self._package = model, context, package
        self._opset = model.opset_imports.get("", 0)
        self._growth = Growth.of(weight_bytes(model), never=context.goal is Goal.SIZE)
        self._old = 0 < self._opset < OLDEST_NUMPY_OPSET
        self._counts: collections.Counter[str] = collections.Counter()
        self._verified: collections.Counter[str] = collections.Counter()
        self._failures: dict[str, str] = {}

    @property
    def modified(self) -> bool:
        """Whether anything was changed."""
        return any(self._counts.values())

    def run(self, last: Iterable[NamedStep] = ()) -> None:
        """Simplify, and do the steps `last` once nothing changes any more. Nothing is raised: that must not fail."""
        declared = distrust_shapes(self._model)
        known = Inference(self._model)
        for done in range(ROUNDS):
            self._context.progress("simplify", done, None)
            learned = self._learn(known)
            place = f"round {done + 1}"
            changed = sum([self._attempt(name, step, place) for name, step in self._steps(known)])
            try:
                changed += self._rewrite()
            except Exception as error:  # as for the steps
                self._failures["rules"] = f"{type(error).__name__}: {error}"
            if not changed or not learned:
                break
        for name, step in (*last, *LAST_STEPS):
            self._attempt(name, step, "the end")
        restore_shapes(self._model, declared)

    def _steps(self, known: Inference) -> list[NamedStep]:
        if self._old:  # inference knows the ops as they are now
            steps = [step for step in STEPS if step[0] in OPSET_FREE_STEPS]
        else:
            steps = [*((name, functools.partial(step, known=known)) for name, step in SHAPE_STEPS), *STEPS]
        steps = [(name, self._fold if name == FOLDING else step) for name, step in steps]
        return [(name, step) for name, step in steps if name not in self._failures]

    def _fold(self, model: ir.Model) -> int:
        return len(fold_constants(model, self._growth))

    def _attempt(self, name: str, step: Step, place: str) -> int:
        why = self._context.gate.check(name, place)
        if why is not None:
            self._failures[f"{name} at {place}"] = why
            return 0
        try:
            done = step(self._model)
        except Exception as error:  # the step is left out, and said so
            self._failures[name] = f"{type(error).__name__}: {error}"
            return 0
        self._counts[name] += done
        return done

    def _learn(self, known: Inference) -> bool:
        """Find out shapes. Where that fails nothing may rely on what was found."""
        if self._old:
            return True
        try:
            wrong = infer_shapes(self._model, known)
        except Exception as error:  # as for the steps
            self._failures["shapes"] = f"{type(error).__name__}: {error}"
            forget_shapes(self._model)
            return False
        if wrong:
            self._failures["shapes"] = "; ".join(wrong)
        return True

    def _rewrite(self) -> int:
        if self._old:
            return 0
        ops = {node.op_type for graph in every_graph(self._model) for node in graph}
        rules = load_rules(self._package, self._opset, frozenset(ops))
        usable = [rule for rule in rules if rule.name not in self._failures]
        applied = fixpoint(self._model, usable, accept=self._accept, growth=self._growth)
        self._failures |= {**applied.broken, **applied.refused}
        self._counts.update(applied.counts)
        return sum(applied.counts.values())

    def _accept(self, match: Match, plan: Instantiation) -> str | None:
        if self._context.verify:
            check = check_site(match, plan, self._context.generator)
            self._verified["equal" if check.ran else "not run"] += check.difference is None
            if check.difference is not None:
                return check.difference
        return self._context.gate.check(match.rule.name, match.results()[0].name or "")

    @property
    def applied(self) -> dict[str, int]:
        """How often each rule and step was applied, without those that never were."""
        return {name: count for name, count in self._counts.items() if count}

    @property
    def failures(self) -> dict[str, str]:
        """The rules and steps that were left out, and why."""
        old = {"rules": f"opset {self._opset} is older than {OLDEST_NUMPY_OPSET}"} if self._old else {}
        return {**self._failures, **old}

    def notes(self) -> tuple[Note, ...]:
        """Return a line for each rule and step that did something, and for each that was left out."""
        done = [Note(name, f"applied {count} times") for name, count in self.applied.items()]
        left = [left_alone(name, reason) for name, reason in self.failures.items()]
        return (*done, *self._describe_verified(), *left)

    def _describe_verified(self) -> tuple[Note, ...]:
        """Return what `verify` found out about the sites that were rewritten."""
        if not self._verified:
            return ()
        count = self._verified["not run"]
        reason = f"{count} sites did not run by themselves; the whole model is compared all the same" if count else ""
        return (remark("verify", f"{self._verified['equal']} sites equal on random data", reason),)
