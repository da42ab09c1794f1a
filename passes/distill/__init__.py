"""Distillation: the weights that are left learn to do what the original does, on samples without labels."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import infer_at
from onnxslim.arrays import Array
from onnxslim.data import Samples
from onnxslim.errors import BadOptionValue
from onnxslim.model.edit import overwrite
from onnxslim.observe.probe import run_on, truncated
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone, remark
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Exclude, Include, Selection
from onnxslim.runtime.session import Session
from onnxslim.train.augmentation import AUGMENTATIONS, Augmentation, check_augmentations
from onnxslim.train.batches import ShuffledBatches, in_order
from onnxslim.train.loop import Course, Evaluation, RunnableStep, Trained, train
from onnxslim.train.optimizer import Optimizer, OptimizerKind
from onnxslim.train.parameters import trainable_parameters
from onnxslim.train.schedule import Schedule
from onnxslim.train.step import OLDEST_OPSET, compile_step
from onnxslim.train.teacher import Teacher

from .codes import DistillCode
from .features import choose_features
from .terms import OutputLoss, TermSettings, feature_terms, output_terms, target_of

RATES = {OptimizerKind.SGD: 0.01, OptimizerKind.ADAM: 1e-3, OptimizerKind.ADAMW: 1e-3}
"""Learning rates that weights which were trained once stand well."""
SPARSE = 0.05
"""A weight of which so large a share is zero was made sparse, and stays so."""
MOST_HELD_OUT = 1000
"""Samples that are set aside at most: the loss of so many is known within some per cent."""


@dataclasses.dataclass(frozen=True)
class Distill(Pass):
    """Train what is left of a model to give what the original gives; samples need no labels."""

    name: ClassVar[str] = "distill"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune", "lowrank", "sparsify")
    speeds_up: ClassVar[bool] = False
    recovers: ClassVar[bool] = True

    epochs: Annotated[int, "how often each sample is seen"] = 10
    batch: Annotated[int, "samples of a step"] = 64
    rate: Annotated[float | None, "highest learning rate; by default 0.001, and 0.01 of sgd"] = None
    optimizer: Annotated[OptimizerKind, "the rule that makes updates of gradients"] = OptimizerKind.ADAMW
    weight_decay: Annotated[float, "share of the weights that each step takes off, times the rate"] = 0.0
    clip: Annotated[float | None, "largest norm of all gradients together"] = None
    warmup: Annotated[float, "share of the steps in which the rate rises; it falls along half a cosine afterwards"] = (
        0.05
    )
    loss: Annotated[OutputLoss, "how outputs are compared"] = OutputLoss.AUTO
    temperature: Annotated[float, "distributions are softened by it before they are compared"] = 1.0
    alpha: Annotated[float, "share of the labels in the loss, where samples have some"] = 0.0
    features: Annotated[
        tuple[str, ...], "values between that are compared as well, as the file calls them; auto chooses some"
    ] = ()
    feature_weight: Annotated[float, "weight of all features together; that of the outputs is 1"] = 1.0
    augment: Annotated[tuple[str, ...], f"changes of images: {', '.join(AUGMENTATIONS)}"] = ()
    held_out: Annotated[float, "share of the samples that are set aside to choose the best weights"] = 0.1
    patience: Annotated[int | None, "epochs without a better loss after which it ends; none: it goes to the end"] = None
    minutes: Annotated[float | None, "time after which it ends; what comes out depends on the machine then"] = None
    checkpoint: Annotated[
        str | None, "file that is written in each epoch, and that a run which was stopped goes on from"
    ] = None
    include: Include = ()
    exclude: Exclude = ()

    def __post_init__(self) -> None:
        self.check_shares("held_out")
        self.check_counts("epochs", "batch", "patience")
        self._check(("rate", "temperature", "clip", "minutes"), lambda value: value > 0, "a number above 0")
        self._check(("weight_decay", "feature_weight"), lambda value: value >= 0, "0 or more")
        self._check(("alpha", "warmup"), lambda value: 0 <= value <= 1, "a share from 0 to 1")
        check_augmentations(self.augment)

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
        if context.samples.synthetic:
            return Change(False, (left_alone("model", Reason(DistillCode.SYNTHETIC)), *notes))
        if not weights:
            return Change(False, (left_alone("model", Reason(DistillCode.NOTHING_TRAINED)), *notes))
        student = model
        if model.opset_imports.get("", 1) < OLDEST_OPSET:
            raised = upgraded(model, OLDEST_OPSET)
            if isinstance(raised, Reason):
                return Change(False, (left_alone("model", raised), *notes))
            student = raised
        try:
            work = _Distillation(self, student, weights, context)
        except _CannotTrain as error:
            return Change(False, (left_alone("model", error.reason), *notes))
        trained = work.run()
        told = work.told(trained)
        if not trained.helped:
            code = DistillCode.DIVERGED if trained.ended == "diverged" else DistillCode.NO_BETTER
            return Change(False, (left_alone("model", Reason(code)), told, *notes))
        for name, array in trained.weights.items():
            overwrite(model.graph.initializers[name], array)
        return Change(True, (told, *notes))


class _CannotTrain(Exception):
    """There is nothing to train on, or towards."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Distillation:
    """One training of one student."""

    def __init__(self, options: Distill, student: ir.Model, weights: list[str], context: Context) -> None:
        self.options, self.student, self.context = options, student, context
        samples = context.samples
        share = min(options.held_out, MOST_HELD_OUT / max(1, samples.count))
        self.batch = min(options.batch, max(1, round(samples.count * (1 - share)) - 1))
        if samples.count < 2:
            raise _CannotTrain(Reason(DistillCode.FEW_SAMPLES, (samples.count, options.batch)))
        self.held_out, self.training = samples.split(share, np.random.default_rng(context.seed))
        first = next(iter(self.training.batches(self.batch)), None)
        if first is None:
            raise _CannotTrain(Reason(DistillCode.FEW_SAMPLES, (samples.count, self.batch)))
        self.batch = first.count
        self.shapes = {name: array.shape for name, array in first.feeds.items()}
        features = self._features()
        names = [output.name or "" for output in context.original.graph.outputs]
        self.teacher = context.open_session(truncated(context.original, dict.fromkeys([*names, *features])))
        taught = {name: np.asarray(array) for name, array in run_on(self.teacher, first.feeds).items()}
        settings = TermSettings(options.loss, options.temperature, options.alpha, options.feature_weight)
        self.terms = output_terms(student.graph, taught, settings, samples.labelled)
        if not self.terms:
            raise _CannotTrain(Reason(DistillCode.NO_OUTPUT))
        self.terms += feature_terms(features, taught, settings)
        self.weights = weights

    def _features(self) -> list[str]:
        if not self.options.features:
            return []
        views = infer_at(self.student, self.shapes), infer_at(self.context.original, self.shapes)
        return choose_features(self.options.features, self.student.graph, self.context.original.graph, views)

    @functools.cached_property
    def optimizer(self) -> Optimizer:
        """The rule that makes updates."""
        options = self.options
        return Optimizer(options.optimizer, weight_decay=options.weight_decay, clip=options.clip)

    def run(self) -> Trained:
        """Train."""
        options, context = self.options, self.context
        augment = self._augmentation()
        batches = ShuffledBatches(self.training, self.batch, context.seed, augment)
        held_out = list(in_order(self.held_out, self.batch))
        held_out_size = self.batch
        if not held_out:  # fewer than a batch: they are one by themselves
            held_out_size = self.held_out.count
            held_out = list(in_order(self.held_out, held_out_size))
        step = self._compiled(self.shapes, self.optimizer, self.training, cached=augment is None)
        shapes = {name: array.shape for name, array in held_out[0].feeds.items()}
        evaluation = self._compiled(shapes, None, self.held_out, cached=True)
        rate = options.rate or RATES[options.optimizer]
        course = Course(
            Schedule(rate, options.epochs * batches.per_epoch, options.warmup),
            self.optimizer,
            batches.per_epoch,
            options.patience,
            None if options.minutes is None else options.minutes * 60,
            None if options.checkpoint is None else pathlib.Path(options.checkpoint),
        )
        graph = self.student.graph
        values = {name: _array(graph.initializers[name]) for name in step.step.weights}

        def tell(done: int, steps: int, last: Evaluation) -> None:
            context.progress(f"distill: loss {last.trained_loss:.3g}, held out {last.loss:.3g}", done, steps)

        fingerprint = f"{context.samples.source} {dataclasses.replace(options, checkpoint=None, minutes=None)}"
        return train(step, evaluation, values, batches, held_out, course, tell, fingerprint)

    def _augmentation(self) -> Augmentation | None:
        names = self.options.augment
        if not names:
            return None
        images = [name for name, shape in self.shapes.items() if len(shape) == 4]
        if len(images) != 1:
            raise BadOptionValue(
                f"augment is {'+'.join(names)}, and {len(images)} inputs are images of four axes",
                where="distill",
                hint="leave it out: it is for models of images",
            )
        return Augmentation(names, images[0], self.context.open_session)

    def _compiled(
        self, shapes: Mapping[str, tuple[int, ...]], optimizer: Optimizer | None, samples: Samples, *, cached: bool
    ) -> RunnableStep:
        step = compile_step(self.student, shapes, self.weights, self.terms, optimizer, self._masks())
        given = (spec.name for spec in self.teacher.outputs)
        targets = {target_of(name): name for name in given if target_of(name) in step.targets}
        teacher = Teacher(self.teacher if targets else None, targets, samples.count, cached=cached)
        session: Session = self.context.open_session(step.model)
        return RunnableStep(step, session, teacher)

    def _masks(self) -> dict[str, Array]:
        """Return which elements of sparse weights move: zeros stay zeros."""
        arrays = {name: _array(self.student.graph.initializers[name]) for name in self.weights}
        return {name: array != 0 for name, array in arrays.items() if np.mean(array == 0) >= SPARSE}

    def told(self, trained: Trained) -> Note:
        """Return the note on how it went."""
        first, best = trained.evaluations[0], trained.best
        per_epoch = max(1, self.training.count // self.batch)
        return (Note if trained.helped else remark)(
            "model",
            f"loss on {self.held_out.count} samples that were set aside {first.loss:.4g} -> {best.loss:.4g}",
            f"{trained.steps} steps of {self.batch} samples, {trained.steps / per_epoch:.3g} epochs of"
            f" {self.training.count}; best after {best.step / per_epoch:.3g}; ended: {trained.ended}",
        )


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()
