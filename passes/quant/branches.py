"""Quantizes the branches of Ifs, each as a model of its own, whose samples are what the model around it gives it.

A branch reads values of the graph around it, and those can be made outputs and be seen, as those of a loop cannot. The
model around is run in float, on those samples alone that take the branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.arrays import Indices, Mask
from onnxslim.data import Samples
from onnxslim.errors import RunError
from onnxslim.model.detached import detached, put_back
from onnxslim.model.nesting import captured_values, nodes_within
from onnxslim.observe.inner_samples import inner_samples
from onnxslim.ops.families.control_flow import branches
from onnxslim.pipeline.interface import Change, Context, Note, NoteCode, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection

from .codes import QuantCode
from .plan import LEFT, products_within
from .static_settings import StaticSettings
from .table import Int8Table

Quantize = Callable[[ir.Model, Context], Change]
"""Quantizes a model in place, or says why not."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """One branch of an If in the main graph of a model."""

    holder: ir.Node
    taken: bool
    """What the condition is where it is taken."""
    graph: ir.Graph

    @property
    def name(self) -> str:
        """Its name in notes."""
        return f"{label(self.holder)}.{'then' if self.taken else 'else'}_branch"


def branches_of(model: ir.Model) -> list[Branch]:
    """Return the branches in the main graph of a model, in its order."""
    pairs = ((node, branches(node)) for node in model.graph)
    return [
        Branch(node, taken, graph)
        for node, pair in pairs
        if pair is not None
        for taken, graph in zip((True, False), pair, strict=True)
    ]


def joined(*changes: Change) -> Change:
    """Return several changes of one model as one."""
    return Change(
        any(change.modified for change in changes),
        tuple(note for change in changes for note in change.notes),
        tuple(layer for change in changes for layer in change.layers),
        tuple(layer for change in changes for layer in change.sensitivity),
    )


class Branches:
    """Quantizes the branches in the main graphs of forms of one model.

    Args:
        settings: The options.
        table: Of the target.
        quantize: Quantizes the model that is made of a branch, with its own branches, at the operator set that it has.
        context: That of the model.
    """

    def __init__(self, settings: StaticSettings, table: Int8Table, quantize: Quantize, context: Context) -> None:
        self._settings, self._table, self._quantize, self._context = settings, table, quantize, context

    def within(self, model: ir.Model) -> bool:
        """Return whether a branch of `model` holds a product."""
        return any(products_within(branch.graph, self._table) for branch in branches_of(model))

    def quantize(self, model: ir.Model, places: Sequence[Branch], floats: ir.Model) -> Change:
        """Quantize branches of `model` in place, each as a model of its own, or say why not.

        Args:
            model: The model, whose main graph may be quantized by now.
            places: Its branches, in the order in which they are in `floats`.
            floats: The same in float, of the same operator set and its types known; it is not changed.
        """
        excluded = Selection((), self._settings.exclude, floats, self._context.original)
        changes: list[Change] = []
        for place, branch in zip(places, branches_of(floats), strict=True):
            products = products_within(branch.graph, self._table)
            if not products:
                continue
            found: Change | Reason | None = excluded.against(branch.holder)
            if found is None:
                try:
                    found = self._quantized(model, place, branch, floats)
                except RunError as error:
                    found = Reason(QuantCode.NO_BRANCH_MODEL, (branch.name, error))
            if isinstance(found, Reason):
                found = Change(False, tuple(left_alone(label(node), found, action=LEFT) for node in products))
            changes.append(found)
        return joined(*changes)

    def _quantized(self, model: ir.Model, place: Branch, branch: Branch, floats: ir.Model) -> Change | Reason:
        """Quantize one branch, or return why it cannot be."""
        inner = detached(branch.graph, floats)
        if not all(isinstance(value.type, ir.TensorType) for value in inner.graph.inputs):
            return Reason(QuantCode.NESTED, (branch.holder.op_type,))
        context, opset = self._context, floats.graph.opset_imports[""]
        samples = context.draw(self._settings.samples, "quant: calibration")
        runs = self._runs(branch, floats, samples)
        if not len(runs):
            return Reason(QuantCode.NEVER_TAKEN, (branch.name,))
        names = [value.name or "" for value in inner.graph.inputs]
        seen = inner_samples(floats, names, samples, context.open_session, runs)
        beside = context.beside(("branch", branch.holder.outputs[0].name, branch.taken, opset))
        change = self._quantize(inner, dataclasses.replace(beside, samples=seen, subsets=[]))
        if change.modified:
            if inner.graph.opset_imports[""] != opset:
                return Reason(QuantCode.NO_BRANCH_MODEL, (branch.name, f"the model stays at opset {opset}"))
            read = zip(captured_values(branch.graph), captured_values(place.graph), strict=True)
            put_back(inner, place.graph, {value.name or "": own for value, own in read}, model)
        return _told(change, branch)

    def _runs(self, branch: Branch, floats: ir.Model, samples: Samples) -> Indices:
        """Return the numbers of the runs in which a branch is taken."""
        condition = branch.holder.inputs[0]
        assert condition is not None, "an If has one"
        name = condition.name or ""

        def observe() -> Mask:
            runs = inner_samples(floats, [name], samples, self._context.open_session)
            return np.array([batch.feeds[name].item() for batch in runs.batches()], np.bool_)

        return np.flatnonzero(self._context.observed(("condition", name), observe) == branch.taken)


def _told(change: Change, branch: Branch) -> Change:
    """Return what became of a branch, with its name in front of notes that are about nothing by its own name."""
    own = {label(node) for node in nodes_within(branch.graph)}

    def of_branch(note: Note) -> Note:
        return note if note.subject in own else dataclasses.replace(note, subject=f"{branch.name}: {note.subject}")

    unmatched = NoteCode.UNMATCHED.word  # told once, of the whole model
    return dataclasses.replace(change, notes=tuple(of_branch(note) for note in change.notes if note.code != unmatched))
