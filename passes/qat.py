"""Quantization-aware training: a quantized model learns to do what the original does, its rounding in the loop."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.diagnostic import Code
from onnxslim.model.edit import overwrite
from onnxslim.pipeline.interface import Change, Context
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection
from onnxslim.pipeline.training_pass import NotTrained, TrainingPass, raised
from onnxslim.train.fake_quantization import quantized_student
from onnxslim.train.optimizer import OptimizerKind
from onnxslim.train.parameters import moving_parts, trainable_parameters


class QatCode(Code):
    """Why a model stays as it is."""

    NOT_QUANTIZED = "it has no weights that are stored as integers: quant makes some"


@dataclasses.dataclass(frozen=True)
class Qat(TrainingPass):
    """Train the weights and scales of a quantized model, which stays one; samples need no labels."""

    name: ClassVar[str] = "qat"
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify", "distill", "quant", "reconstruct")
    usual_rate: ClassVar[dict[OptimizerKind, float]] = {
        OptimizerKind.SGD: 1e-3,
        OptimizerKind.ADAM: 1e-4,
        OptimizerKind.ADAMW: 1e-4,
    }

    def run(self, model: ir.Model, context: Context) -> Change:
        """Train weights and scales of `model` in place.

        Raises:
            NotDifferentiable: An op between the weights and the outputs has no gradient.
            RunError: The model, or the original, does not run on the samples.
            UsageError: The checkpoint is that of another training.
        """
        infer_shapes(model)
        selection = Selection(self.include, self.exclude, model, context.original)
        notes = selection.unmatched()
        try:
            student = quantized_student(model, raised(model.clone()))
            if not student.stored:
                raise NotTrained(Reason(QatCode.NOT_QUANTIZED))
            left = student.parameters_of(stored for stored in student.stored if selection.against(stored.integers))
            floats = [value.name or "" for value in trainable_parameters(model.graph) if not selection.against(value)]
            weights = [name for name in (*student.parameters, *floats) if name not in left]
            infer_shapes(student.model)
            masks = {**moving_parts(model.graph, floats), **student.masks}
            work = self.distillation(student.model, list(dict.fromkeys(weights)), context, masks)
            trained, told = self.train(work, context)
        except NotTrained as error:
            return Change(False, (*error.notes, *notes))
        student.write(trained.weights)
        for name in floats:
            if name in trained.weights:
                overwrite(model.graph.initializers[name], trained.weights[name])
        return Change(True, (told, *notes))
