"""Distillation: the weights that are left learn to do what the original does, on samples without labels.

They are those of the model, or those of a student that takes its place: a file, or one that is made of the model.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.edit import overwrite
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Change, Context, Note, NoteKind
from onnxslim.pipeline.opset import at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.pipeline.selection import EVERYTHING, Selection
from onnxslim.pipeline.student import open_student, replace_by
from onnxslim.pipeline.training_pass import NotTrained, TrainingPass
from onnxslim.train.distillation import DistillationSettings
from onnxslim.train.moving_statistics import normalize_by_batch, normalize_by_stored, stored_statistics
from onnxslim.train.optimizer import RATES_FROM_SCRATCH
from onnxslim.train.parameters import moving_parts, trainable_parameters
from onnxslim.train.step import TRAINING_OPSET

from .separable import separable_student

SEPARABLE = "separable"
"""The student that is made of the model itself."""


@dataclasses.dataclass(frozen=True)
class Distill(TrainingPass):
    """Train what is left of a model to give what the original gives; samples need no labels."""

    name: ClassVar[str] = "distill"
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify")

    student: Annotated[
        str | None,
        "another model, a file, that is trained instead of this one, and takes its place; separable makes one of this, "
        "with depthwise-separable pairs in the place of convolutions, those of include= and exclude=",
    ] = None
    windows: Annotated[int, "of student=separable: windows that the pairs have for each channel"] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("windows")

    @property
    def goes_on(self) -> bool:
        """Unless a student takes the place of the model."""
        return self.student is None

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
        return () if self.student in (None, SEPARABLE) else (str(self.student),)

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
            try:
                return self._replace(model, self.student, context)
            except NotTrained as error:
                return Change(False, error.notes)
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
        student, notes, own = (self._made if path == SEPARABLE else self._opened)(model, path, context)
        normalize_by_batch(student)
        _simplify(student, context)
        normalize_by_stored(student)
        infer_shapes(student)
        selection = EVERYTHING if own is None else Selection(self.include, self.exclude, student, own)
        notes = [*notes, *selection.unmatched()]
        weights = [value.name or "" for value in trainable_parameters(student.graph) if not selection.against(value)]
        try:
            trained, told = self.train(student, weights, context, {}, stored_statistics(student.graph))
        except NotTrained as error:
            unmatched = [note for note in notes if note.kind is not NoteKind.DONE]
            raise NotTrained(error.reason, *error.notes[1:], *unmatched) from error
        for name, array in trained.weights.items():
            overwrite(student.graph.initializers[name], array)
        _simplify(student, context)
        replace_by(model, student)
        return Change(True, (notes[0], told, *notes[1:]))

    def _opened(self, model: ir.Model, path: str, context: Context) -> tuple[ir.Model, list[Note], ir.Model | None]:
        """Return the student of a file, a note, and the student as it was opened."""
        opened = open_student(path, model, context.samples.first(), context.open_session)
        student = _raised(opened)
        return opened.clone() if student is opened else student, [Note("model", f"{path} takes its place")], opened

    def _made(self, model: ir.Model, path: str, context: Context) -> tuple[ir.Model, list[Note], ir.Model | None]:
        """Return a separable student, and notes; all of it is trained, whatever is included."""
        selection = Selection(self.include, self.exclude, model, context.original)
        student, notes = separable_student(_raised(model), self.windows, selection, context)
        return student, [*notes, *selection.unmatched()], None


def _raised(model: ir.Model) -> ir.Model:
    """Return a model at an operator set that gradients are declared for: itself where it is new enough."""
    raised = at_least(model, TRAINING_OPSET)
    if isinstance(raised, Reason):
        raise NotTrained(raised)
    return raised


def _simplify(student: ir.Model, context: Context) -> None:
    """Do with a student what was done with the model before this pass."""
    for name in Distill.needs:
        find_pass(name)().run(student, dataclasses.replace(context, gate=RewriteGate()))
