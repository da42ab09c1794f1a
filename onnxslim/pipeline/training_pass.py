"""What passes that train have in common: their options, and the run from a student to notes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Array
from onnxslim.diagnostic import Code
from onnxslim.errors import BadOptionValue, OnnxslimError
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone, remark
from onnxslim.pipeline.opset import at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Exclude, Include, Selection
from onnxslim.train.augmentation import AUGMENTATIONS, check_augmentations
from onnxslim.train.distillation import Distillation, DistillationSettings, FewSamples, NothingToCompare
from onnxslim.train.loop import Keep, Trained
from onnxslim.train.losses import LossTerm
from onnxslim.train.optimizer import Optimizer, OptimizerKind
from onnxslim.train.parameters import moving_parts, trainable_parameters
from onnxslim.train.pivoted import with_plain_factors, write_back
from onnxslim.train.step import TRAINING_OPSET
from onnxslim.train.terms import OutputLoss, TermSettings
from onnxslim.units import in_bytes

Penalize = Callable[[ir.Model], Sequence[LossTerm]]
"""Appends to a student what is minimised beside its distance from the original; gives the terms."""


class TrainingCode(Code):
    """Why a model stays as it is."""

    SYNTHETIC = "there are no samples, and of random inputs nothing is learned: give --data"
    NOTHING_TRAINED = "it has no weights that could be trained"
    NO_OUTPUT = "none of its outputs is a tensor of real numbers that the original gives as well"
    NO_BETTER = (
        "the loss on the samples that were set aside did not get smaller: keep=last takes the weights all the same"
    )
    DIVERGED = "the loss ran away: a smaller rate= may do"
    FEW_SAMPLES = "{0} samples do not fill a batch beside those that are set aside"


class NotTrained(Exception):
    """A model stays as it is, for a reason."""

    def __init__(self, reason: Reason, *notes: Note) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.notes = (left_alone("model", reason), *notes)


@dataclasses.dataclass(frozen=True)
class TrainingPass(Pass):
    """A pass that trains weights towards what the original gives."""

    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    speeds_up: ClassVar[bool] = False
    recovers: ClassVar[bool] = True
    usual_rate: ClassVar[dict[OptimizerKind, float]] = {
        OptimizerKind.SGD: 0.01,
        OptimizerKind.ADAM: 1e-3,
        OptimizerKind.ADAMW: 1e-3,
    }
    """Learning rates that weights which were trained once stand well."""

    epochs: Annotated[int, "how often each sample is seen"] = 10
    batch: Annotated[int, "samples of a step"] = 64
    rate: Annotated[
        float | None, "highest learning rate; by default one that suits the optimizer, smaller where steps are few"
    ] = None
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
        tuple[str, ...],
        "values between that are compared as well, as the file calls them; auto chooses some, attention all maps of it",
    ] = ()
    feature_weight: Annotated[float, "weight of all features together; that of the outputs is 1"] = 1.0
    augment: Annotated[tuple[str, ...], f"changes of images: {', '.join(AUGMENTATIONS)}"] = ()
    held_out: Annotated[float, "share of the samples that are set aside to choose the best weights"] = 0.1
    patience: Annotated[int | None, "epochs without a better loss after which it ends; none: it goes to the end"] = None
    keep: Annotated[
        Keep,
        "which weights come out: best, those nearest to the original on what was set aside, or last, those after all"
        " steps",
    ] = Keep.BEST
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
        if self.keep is Keep.LAST and self.patience is not None:
            raise BadOptionValue(
                f"patience={self.patience} has no meaning with keep=last",
                where=self.name,
                hint="leave it out: patience waits for a better loss, and none is waited for",
            )

    @property
    def goes_on(self) -> bool:
        """Whether it trains the weights of whatever model it is given, so that another pass may let it `go_on`."""
        return False

    @property
    def settings(self) -> DistillationSettings:
        """What the options say of the training."""
        return DistillationSettings(
            self.epochs,
            self.batch,
            self.rate,
            self.usual_rate[self.optimizer],
            self.warmup,
            Optimizer(self.optimizer, weight_decay=self.weight_decay, clip=self.clip),
            TermSettings(self.loss, self.temperature, self.alpha, self.feature_weight),
            self.features,
            self.augment,
            self.held_out,
            self.patience,
            None if self.minutes is None else self.minutes * 60,
            None if self.checkpoint is None else pathlib.Path(self.checkpoint),
            self.keep,
        )

    def go_on(self, model: ir.Model, context: Context, penalize: Penalize | None = None) -> Change:
        """Train the weights of whatever model it is given, in place.

        Args:
            model: The model.
            context: What the pass is given.
            penalize: Adds penalties to the student that is made of the model; None: there are none.

        Raises:
            NotDifferentiable: An op between the weights and the outputs has no gradient.
            RunError: The model or the original does not run on the samples.
            UsageError: The checkpoint is that of another training.
        """
        infer_shapes(model)
        selection = Selection(self.include, self.exclude, model, context.original)
        notes = selection.unmatched()
        weights = [value.name or "" for value in trainable_parameters(model.graph) if not selection.against(value)]
        try:
            student = raised(model)
            penalties: Sequence[LossTerm] = ()
            if penalize is not None:
                student = student.clone()
                penalties = penalize(student)
            masks = moving_parts(model.graph, weights)
            student, products = with_plain_factors(student, weights, masks, self.features)
            trained, told = self.train(
                self.distillation(student, weights, context, masks, penalties=penalties), context
            )
        except NotTrained as error:
            return Change(False, (*error.notes, *notes))
        write_back(model, trained.weights, products)
        return Change(True, (told, *notes))

    def train(self, work: Distillation, context: Context) -> tuple[Trained, Note]:
        """Run a training that `distillation` made; return what came out, and a note on how it went.

        Raises:
            NotTrained: Nothing was learnt.
            NotDifferentiable: An op between the weights and the outputs has no gradient.
            RunError: The student, or the original, does not run on the samples.
            UsageError: The checkpoint is that of another training.
        """
        trained = work.run(lambda what, done, steps: context.progress(f"{self.name}: {what}", done, steps))
        told = _told(work, trained)
        diverged = trained.ended == "diverged"
        if not trained.helped or (diverged and self.keep is Keep.LAST):
            code = TrainingCode.DIVERGED if diverged else TrainingCode.NO_BETTER
            raise NotTrained(Reason(code), told)
        return trained, told

    def distillation(
        self,
        student: ir.Model,
        weights: Sequence[str],
        context: Context,
        masks: Mapping[str, Array],
        statistics: Sequence[str] = (),
        penalties: Sequence[LossTerm] = (),
    ) -> Distillation:
        """Return the training of a student, which is not changed.

        Args:
            student: The model.
            weights: Names of its initializers that are trained.
            context: What the pass is given.
            masks: For weights of which some elements stay as they are: 1 where they move and 0 where they do not.
            statistics: Names of means and variances that follow those of the batches.
            penalties: What is minimised beside the distance from the original.

        Raises:
            NotTrained: There is nothing to learn.
            RunError: The student, or the original, does not run on the samples.
        """
        samples = context.samples
        if samples.synthetic:
            raise NotTrained(Reason(TrainingCode.SYNTHETIC))
        if not weights:
            raise NotTrained(Reason(TrainingCode.NOTHING_TRAINED))
        try:
            return Distillation(
                self.settings,
                student,
                weights,
                context.original,
                samples,
                context.seed,
                context.open_session,
                masks,
                statistics,
                penalties,
            )
        except FewSamples as error:
            raise NotTrained(Reason(TrainingCode.FEW_SAMPLES, (samples.count,))) from error
        except NothingToCompare as error:
            raise NotTrained(Reason(TrainingCode.NO_OUTPUT)) from error
        except OnnxslimError as error:
            error.where = error.where or self.name
            raise


def raised(model: ir.Model) -> ir.Model:
    """Return a model at an operator set that gradients are declared for: itself where it is new enough.

    Raises:
        NotTrained: It cannot be converted.
    """
    converted = at_least(model, TRAINING_OPSET)
    if isinstance(converted, Reason):
        raise NotTrained(converted)
    return converted


def _told(work: Distillation, trained: Trained) -> Note:
    """Return the note on how a training went."""
    first, best = trained.evaluations[0], trained.best
    risen = work.memory.value
    chosen = "kept those" if work.settings.keep is Keep.LAST else "best"
    memory = "" if risen is None else f"; memory rose by {in_bytes(risen)} at most"
    return (Note if trained.helped else remark)(
        "model",
        f"loss on {work.held_out.count} samples that were set aside {first.loss:.4g} -> {best.loss:.4g}",
        f"{trained.steps} steps of {work.batch} samples, {trained.steps / work.per_epoch:.3g} epochs of"
        f" {work.training.count}; {chosen} after {best.step / work.per_epoch:.3g}; ended: {trained.ended}{memory}",
    )
