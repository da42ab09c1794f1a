"""Distillation: the weights that are left learn to do what the original does, on samples without labels.

They are those of the model, or those of a student that takes its place.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.edit import overwrite
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Change, Context, Note
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.pipeline.selection import Selection
from onnxslim.pipeline.student import open_student, replace_by
from onnxslim.pipeline.training_pass import NotTrained, TrainingPass
from onnxslim.train.distillation import DistillationSettings
from onnxslim.train.moving_statistics import normalize_by_batch, normalize_by_stored, stored_statistics
from onnxslim.train.optimizer import RATES_FROM_SCRATCH
from onnxslim.train.parameters import moving_parts, trainable_parameters
from onnxslim.train.step import OLDEST_OPSET


@dataclasses.dataclass(frozen=True)
class Distill(TrainingPass):
    """Train what is left of a model to give what the original gives; samples need no labels."""

    name: ClassVar[str] = "distill"
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify")

    student: Annotated[
        str | None, "another model, a file, that is trained instead of this one, and takes its place"
    ] = None

    @property
    def settings(self) -> DistillationSettings:
        """What the options say of the training; a student that may know nothing starts at a larger rate."""
        settings = super().settings
        if self.student is None:
            return settings
        return dataclasses.replace(settings, rate=self.rate or RATES_FROM_SCRATCH[self.optimizer])

    @property
    def files_read(self) -> tuple[str, ...]:
        """The student."""
        return () if self.student is None else (self.student,)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Train weights of `model` in place, or those of a student that takes its place.

        Raises:
            BadOptionValue: The student has other inputs or outputs than the model.
            ModelError: The student is no model that we handle.
            NotDifferentiable: An op between the weights and the outputs has no gradient.
            RunError: The model, the student or the original does not run on the samples.
            UsageError: The checkpoint is that of another training.
        """
        infer_shapes(model)
        if self.student is not None:
            return self._replace(model, self.student, context)
        selection = Selection(self.include, self.exclude, model, context.original)
        notes = selection.unmatched()
        weights = [value.name or "" for value in trainable_parameters(model.graph) if not selection.against(value)]
        try:
            trained, told = self.train(_raised(model), weights, context, moving_parts(model.graph, weights))
        except NotTrained as error:
            return Change(False, (*error.notes, *notes))
        for name, array in trained.weights.items():
            overwrite(model.graph.initializers[name], array)
        return Change(True, (told, *notes))

    def _replace(self, model: ir.Model, path: str, context: Context) -> Change:
        """Train a student and let it take the place of the model.

        Its BatchNormalizations are trained by the statistics of batches: only afterwards they may be folded.
        """
        opened = open_student(path, model, context.samples.first(), context.open_session)
        notes: list[Note] = []
        try:
            student = _raised(opened)
            if student is opened:
                student = opened.clone()
            normalize_by_batch(student)
            _simplify(student, context)
            normalize_by_stored(student)
            infer_shapes(student)
            selection = Selection(self.include, self.exclude, student, opened)
            notes = selection.unmatched()
            weights = [
                value.name or "" for value in trainable_parameters(student.graph) if not selection.against(value)
            ]
            trained, told = self.train(student, weights, context, {}, stored_statistics(student.graph))
        except NotTrained as error:
            return Change(False, (*error.notes, *notes))
        for name, array in trained.weights.items():
            overwrite(student.graph.initializers[name], array)
        _simplify(student, context)
        replace_by(model, student)
        return Change(True, (Note("model", f"{path} takes its place"), told, *notes))


def _raised(model: ir.Model) -> ir.Model:
    """Return a model at an operator set that gradients are declared for: itself where it is new enough."""
    if model.opset_imports.get("", 1) >= OLDEST_OPSET:
        return model
    raised = upgraded(model, OLDEST_OPSET)
    if isinstance(raised, Reason):
        raise NotTrained(raised)
    return raised


def _simplify(student: ir.Model, context: Context) -> None:
    """Do with a student what was done with the model before this pass."""
    for name in Distill.needs:
        find_pass(name)().run(student, dataclasses.replace(context, gate=RewriteGate()))
