"""Distillation: the weights that are left learn to do what the original does, on samples without labels.

They are those of the model, or those of a student that takes its place: a file, or one that is made of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.analysis.blocks import WHOLE
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Array
from onnxslim.diagnostic import Code
from onnxslim.errors import BadOptionValue
from onnxslim.model.constants import stored_array
from onnxslim.model.edit import become, overwrite
from onnxslim.pipeline.blockwise import BlockCode, layers_in_block
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Change, Context, Note, NoteKind, left_alone, remark
from onnxslim.pipeline.options import option_values
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.pipeline.selection import EVERYTHING, Selection
from onnxslim.pipeline.student import open_student, replace_by
from onnxslim.pipeline.training_pass import NotTrained, Penalize, TrainingPass, raised
from onnxslim.train.distillation import DistillationSettings
from onnxslim.train.moving_statistics import normalize_by_batch, normalize_by_stored, stored_statistics
from onnxslim.train.optimizer import RATES_FROM_SCRATCH
from onnxslim.train.parameters import moving_parts, trainable_parameters
from onnxslim.train.pivoted import with_plain_factors, write_back

from .blockwise import FloatLearner, StudentBlocks
from .separable import separable_student

NOT_BY_BLOCK = {
    "student": "a student of its own has no values that are those of the original",
    "features": "each block learns what is between",
    "alpha": "blocks learn of the original alone, not of labels",
    "augment": "what blocks read is computed once, of samples as they are",
    "checkpoint": "blocks are not written while they are trained",
    "keep": "a block is kept where it is better",
}
"""Options that a training block by block does not have, and why."""
SEPARABLE = "separable"
"""The student that is made of the model itself."""


class DistillCode(Code):
    """What is told of the way in which a model is trained."""

    ONE_BLOCK = "a block could end nowhere: the original has no value between, of the same name and shape"


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
    blocks: Annotated[
        str,
        "what is trained together: model, all at once by the outputs; or one after the other, by what the original "
        "makes there: each layer, each block (between cuts, as residual blocks), so many layers",
    ] = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("windows")
        if layers_in_block(self.blocks, self.name) == WHOLE:
            return
        defaults, given = option_values(type(self)()), option_values(self)
        for name, why in NOT_BY_BLOCK.items():
            if given[name] != defaults[name]:
                told = "+".join(given[name]) if isinstance(given[name], list) else given[name]
                raise BadOptionValue(
                    f"{name} is {told}, and blocks is {self.blocks}: {why}",
                    where=self.name,
                    hint=f"leave out {name}, or blocks",
                )

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
        if self.student is None:
            return self.go_on(model, context)
        infer_shapes(model)
        try:
            return self._replace(model, self.student, context)
        except NotTrained as error:
            return Change(False, error.notes)

    def go_on(self, model: ir.Model, context: Context, penalize: Penalize | None = None) -> Change:
        """Train the weights of whatever model it is given, in place: block by block where that is asked for; with
        penalties, which are of all weights together, as a whole.

        Raises:
            NotDifferentiable, RunError, UsageError: See `run`.
        """
        if penalize is not None or layers_in_block(self.blocks, self.name) == WHOLE:
            return super().go_on(model, context, penalize)
        infer_shapes(model)
        selection = Selection(self.include, self.exclude, model, context.original)
        weights = [value.name or "" for value in trainable_parameters(model.graph) if not selection.against(value)]
        masks = moving_parts(model.graph, weights)
        student, products = with_plain_factors(model, weights, masks)
        try:
            by_block = self._by_block(student, weights, context, masks)
        except NotTrained as error:
            return Change(False, (*error.notes, *selection.unmatched()))
        if by_block is not None:
            if products and by_block.modified:
                trained = {name: stored_array(student.graph.initializers[name]) for name in weights}
                write_back(model, trained, products)
            return dataclasses.replace(by_block, notes=(*by_block.notes, *selection.unmatched()))
        whole, code = super().go_on(model, context), DistillCode.ONE_BLOCK
        told = remark("model", "trained as a whole", code.value, code.word)
        return dataclasses.replace(whole, notes=(*whole.notes, told))

    def _by_block(
        self, model: ir.Model, weights: Sequence[str], context: Context, masks: Mapping[str, Array]
    ) -> Change | None:
        """Train one block after the other, in place; None: the model is one block."""
        work = self.distillation(raised(model), weights, context, masks)
        student = StudentBlocks(model, context.original, layers_in_block(self.blocks, self.name), work.training)
        if len(student.blocks) < 2:
            return None
        settings, as_it_was = self.settings, model.clone()
        before = work.loss_of(raised(model))
        if settings.seconds is not None:
            settings = dataclasses.replace(settings, seconds=settings.seconds / len(student.blocks))
        learner = FloatLearner(weights, masks, settings)
        modified, notes = student.train(learner, work.training, self.held_out, context)
        if not modified:
            return Change(False, tuple(notes))
        after = work.loss_of(raised(model))
        told = f"{before:.4g} -> {after:.4g}"
        if not after < before:
            become(model, as_it_was)
            reason = Reason(BlockCode.NO_BETTER_OUTPUTS, (learner.teacher, f"loss {told}"))
            return Change(False, (left_alone("model", reason),))
        action = f"loss on {work.held_out.count} samples that no block has seen {told}"
        return Change(True, (Note("model", action, f"{len(student.blocks)} blocks, one after the other"), *notes))

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
            trained, told = self.train(
                self.distillation(student, weights, context, {}, stored_statistics(student.graph)), context
            )
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
        student = raised(opened)
        return opened.clone() if student is opened else student, [Note("model", f"{path} takes its place")], opened

    def _made(self, model: ir.Model, path: str, context: Context) -> tuple[ir.Model, list[Note], ir.Model | None]:
        """Return a separable student, and notes; all of it is trained, whatever is included."""
        selection = Selection(self.include, self.exclude, model, context.original)
        student, notes = separable_student(raised(model), self.windows, selection, context)
        return student, [*notes, *selection.unmatched()], None


def _simplify(student: ir.Model, context: Context) -> None:
    """Do with a student what was done with the model before this pass."""
    for name in Distill.needs:
        find_pass(name)().run(student, dataclasses.replace(context, gate=RewriteGate()))
