"""Distillation: the weights that are left learn to do what the original does, on samples without labels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model.edit import overwrite
from onnxslim.pipeline.interface import Change, Context
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection
from onnxslim.pipeline.training_pass import NotTrained, TrainingPass
from onnxslim.train.parameters import moving_parts, trainable_parameters
from onnxslim.train.step import OLDEST_OPSET


@dataclasses.dataclass(frozen=True)
class Distill(TrainingPass):
    """Train what is left of a model to give what the original gives; samples need no labels."""

    name: ClassVar[str] = "distill"
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify")

    def run(self, model: ir.Model, context: Context) -> Change:
        """Train weights of `model` in place.

        Raises:
            NotDifferentiable: An op between the weights and the outputs has no gradient.
            RunError: The model, or the original, does not run on the samples.
            UsageError: The checkpoint is that of another training.
        """
        infer_shapes(model)
        selection = Selection(self.include, self.exclude, model, context.original)
        notes = selection.unmatched()
        weights = [value.name or "" for value in trainable_parameters(model.graph) if not selection.against(value)]
        try:
            student = model
            if model.opset_imports.get("", 1) < OLDEST_OPSET:
                raised = upgraded(model, OLDEST_OPSET)
                if isinstance(raised, Reason):
                    raise NotTrained(raised)
                student = raised
            trained, told = self.train(student, weights, context, moving_parts(model.graph, weights))
        except NotTrained as error:
            return Change(False, (*error.notes, *notes))
        for name, array in trained.weights.items():
            overwrite(model.graph.initializers[name], array)
        return Change(True, (told, *notes))
