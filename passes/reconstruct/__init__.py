"""The pass `reconstruct`: block after block, a quantized model learns to make what its float model makes there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.blocks import Dataflow
from onnxslim.analysis.float_form import float_form
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import infer_at
from onnxslim.errors import DataError
from onnxslim.model.edit import become
from onnxslim.observe.probe import run_on
from onnxslim.observe.sensitivity import OutputDeviation
from onnxslim.pipeline.blockwise import BlockCode, Blockwise, capacity, layers_in_block
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Exclude, Include, Selection
from onnxslim.pipeline.training_pass import TrainingCode
from onnxslim.train.fake_quantization import stored_integers
from onnxslim.train.reconstruction import ReconstructionSettings

from .codes import ReconstructCode
from .counterparts import Counterparts
from .learner import QuantizedLearner


@dataclasses.dataclass(frozen=True)
class Reconstruct(Pass):
    """Learn, block after block, how a quantized model rounds its weights; samples need no labels."""

    name: ClassVar[str] = "reconstruct"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify", "distill", "quant")
    speeds_up: ClassVar[bool] = False
    recovers: ClassVar[bool] = True

    blocks: Annotated[
        str, "what is fitted together: each layer, each block (between cuts, as residual blocks), so many layers, model"
    ] = "block"
    steps: Annotated[int, "steps of training for each block"] = 500
    batch: Annotated[int, "samples of a step"] = 32
    samples: Annotated[int, "samples that are used at most"] = 1024
    rate: Annotated[float, "highest learning rate of what rounds weights up or down"] = 0.05
    drop: Annotated[float, "share of the elements of what a block reads that are not quantized in training"] = 0.5
    strength: Annotated[float, "how hard weights are driven to levels; the error of the block, as it was, counts 1"] = (
        0.1
    )
    held_out: Annotated[
        float, "share of the samples that are set aside to judge each block, and as many to judge the whole"
    ] = 0.125
    include: Include = ()
    exclude: Exclude = ()

    def __post_init__(self) -> None:
        self.check_shares("held_out")
        self.check_counts("steps", "batch", "samples")
        self._check(("rate",), lambda value: value > 0, "a number above 0")
        self._check(("strength",), lambda value: value >= 0, "0 or more")
        self._check(("drop",), lambda value: 0 <= value <= 1, "a share from 0 to 1")
        layers_in_block(self.blocks, self.name)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Reconstruct `model` in place.

        Raises:
            RunError: The model, or its float form, does not run on the samples.
        """
        infer_shapes(model)
        selection = Selection(self.include, self.exclude, model, context.original)
        stored = list(stored_integers(model.graph))
        weights = [each for each in stored if not each.is_bias]
        floats = float_form(model)
        reason: Reason | None = None
        if context.samples.synthetic:
            reason = Reason(TrainingCode.SYNTHETIC)
        elif not weights:
            reason = Reason(ReconstructCode.NOT_QUANTIZED)
        elif floats is None:
            reason = Reason(ReconstructCode.NO_FLOAT_FORM)
        if reason is not None or floats is None:
            return Change(False, (left_alone("model", reason or ""), *selection.unmatched()))
        layers = [use.node for each in weights for use in each.node.outputs[0].uses()]
        samples = context.draw(self.samples, f"{self.name}: blocks")
        shapes = {name: array.shape for name, array in samples.first().items()}
        flow = Dataflow(model.graph, layers, infer_at(model, shapes))
        blocks = flow.blocks(layers_in_block(self.blocks, self.name))
        fitting = capacity(blocks, infer_at(model, shapes))
        if samples.count > fitting:
            samples = samples.draw(fitting, np.random.default_rng(context.seed))
        asked = {each.integers.name or "" for each in stored if not selection.against(each.integers)}
        settings = ReconstructionSettings(self.steps, self.batch, self.rate, self.drop, self.strength)
        judging, fitted = samples, samples
        with contextlib.suppress(DataError):  # too few: what is fitted on them judges as well
            judging, fitted = samples.split(self.held_out, np.random.default_rng(context.seed))
        deviation = OutputDeviation.on(floats, judging, context.open_session, context.samples)
        before, as_it_was = self._error(model, deviation, context), model.clone()
        learner = QuantizedLearner(stored, asked, floats, settings)
        counterpart = Counterparts(model, floats).of
        work = Blockwise(model, floats, counterpart, flow.order, blocks, fitted, learner, self.held_out, context)
        notes = work.train()
        after = self._error(model, deviation, context) if work.modified else before
        told = f"{before:.3g} -> {after:.3g} on {judging.count} samples that no block has seen"
        if work.modified and not after < before:
            become(model, as_it_was)
            reason = Reason(BlockCode.NO_BETTER_OUTPUTS, (learner.teacher, told))
            return Change(False, (left_alone("model", reason), *selection.unmatched()))
        whole = (Note("model", "reconstructed", f"error of the outputs as a share of their energy {told}"),)
        return Change(work.modified, (*(whole if work.modified else ()), *selection.unmatched(), *notes))

    @staticmethod
    def _error(model: ir.Model, deviation: OutputDeviation, context: Context) -> float:
        return deviation(functools.partial(run_on, context.open_session(model)))
