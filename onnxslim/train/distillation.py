"""One distillation: a student learns what its teacher gives, on samples of which some are set aside."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Array
from onnxslim.data import Samples
from onnxslim.errors import BadOptionValue
from onnxslim.model.constants import stored_array
from onnxslim.observe.probe import run_on, truncated
from onnxslim.runtime.memory import MemoryRise
from onnxslim.runtime.session import OpenSession
from onnxslim.runtime.statistics import Measured
from onnxslim.train.augmentation import Augmentation, check_labels_stay
from onnxslim.train.batches import LABELS, ShuffledBatches, TrainingBatch, in_order, several_shapes
from onnxslim.train.features import choose_features
from onnxslim.train.labels import label_terms, read_labels
from onnxslim.train.loop import Course, Evaluation, Keep, RunnableStep, Trained, digest_of, not_finite, train
from onnxslim.train.losses import LossTerm
from onnxslim.train.optimizer import Optimizer
from onnxslim.train.schedule import Schedule
from onnxslim.train.step import TrainingStep, compile_step
from onnxslim.train.teacher import Teacher
from onnxslim.train.terms import TermSettings, feature_terms, output_terms, target_of

CHANNELS = (1, 3, 4)
"""Channels that images have: grey, or three colours, or these with transparency."""
MOST_HELD_OUT = 1000
"""Samples that are set aside at most: the loss of so many is known within some per cent."""
ENOUGH_STEPS = 400
"""Shorter trainings cannot make up for what a high rate disturbs at first. ResNet-20 with half of its MACs, from a loss
of 0.23 on samples set apart: 56 steps reach 0.18 at a rate of 0.0003 and nothing at 0.001, 420 0.153 and 0.146."""


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """How a student is trained."""

    epochs: int
    batch: int
    rate: float | None
    """The highest learning rate; None: the usual one, less in a short training."""
    usual_rate: float
    """The highest learning rate of a training of `ENOUGH_STEPS` or more."""
    warm_up: float
    """Share of the steps in which the rate rises."""
    optimizer: Optimizer
    terms: TermSettings
    features: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()
    held_out: float = 0.1
    """Share of the samples that are set aside."""
    patience: int | None = None
    seconds: float | None = None
    checkpoint: pathlib.Path | None = None
    keep: Keep = Keep.BEST

    def rate_of(self, steps: int) -> float:
        """Return the highest learning rate of a training of so many steps."""
        return self.usual_rate * min(1.0, math.sqrt(steps / ENOUGH_STEPS)) if self.rate is None else self.rate

    @property
    def fingerprint(self) -> str:
        """Text that says all that a result depends on."""
        return repr(dataclasses.replace(self, seconds=None, checkpoint=None))


Progress = Callable[[str, int, "int | None"], None]
"""Told what is done, how many steps are, and of how many."""


class NothingToCompare(Exception):
    """No output of the student is a tensor of real numbers that the teacher gives as well."""


class FewSamples(Exception):
    """There are not enough samples for a batch beside those that are set aside."""


class Distillation:
    """One training of one student.

    Args:
        settings: How.
        student: The model, at operator set 18 or a newer one, with shapes; not changed.
        weights: Names of its initializers that are trained.
        teacher: The model that gives the targets, with outputs of the same names; None: labels alone are the target.
        samples: What they are compared on.
        seed: Decides what is set aside, and the order of the rest.
        open_session: Opens a model on the target.
        masks: For weights of which some elements stay as they are: 1 where they move and 0 where they do not.
        statistics: Names of means and variances of BatchNormalizations that follow those of the batches.
        penalties: What is minimised beside the differences from the targets, there and on what is set aside: values of
            the student that have no target.

    Raises:
        BadOptionValue: Labels count, and are not true any more after an augmentation.
        DataError: There is no teacher, and labels are missing, or fit no output.
        FewSamples: See there.
        NothingToCompare: See there.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        student: ir.Model,
        weights: Sequence[str],
        teacher: ir.Model | None,
        samples: Samples,
        seed: int,
        open_session: OpenSession,
        masks: Mapping[str, Array] | None = None,
        statistics: Sequence[str] = (),
        penalties: Sequence[LossTerm] = (),
    ) -> None:
        self.settings, self.student, self.weights, self.statistics = settings, student, weights, statistics
        self._masks, self._penalties = masks or {}, tuple(penalties)
        self._samples, self._seed, self._open = samples, seed, open_session
        self.memory = Measured(None, "nothing was trained")
        """Bytes by which the memory of this process rose, at most, while it trained."""
        if samples.count < 2 * (samples.fixed_batch or 1):
            raise FewSamples
        share = min(settings.held_out, MOST_HELD_OUT / samples.count)
        self.batch = min(settings.batch, max(1, round(samples.count * (1 - share)) - 1))
        self.held_out, self.training = samples.split(share, np.random.default_rng(seed))
        first = next(iter(self.training.batches(self.batch)), None)
        if first is None:
            raise FewSamples
        self.batch, self._first = first.count, first
        self.shapes = {name: array.shape for name, array in first.feeds.items()}
        features = self._features(teacher)
        given = student
        self._taught: list[tuple[str, str, str]] = []
        if teacher is not None:
            initializers = teacher.graph.initializers.items()
            self._taught = [(name, str(value.shape), str(value.dtype)) for name, value in initializers]
            given = truncated(
                teacher, dict.fromkeys([*(value.name or "" for value in teacher.graph.outputs), *features])
            )
        session = open_session(given)
        self.teacher, self._target = None if teacher is None else session, session.target
        taught = {name: np.asarray(array) for name, array in run_on(session, first.feeds).items()}
        if teacher is None:
            labels = read_labels(samples)
            self.terms = label_terms(student.graph, taught, first.count, labels, samples.source)
        else:
            self.terms = output_terms(student.graph, taught, settings.terms, samples.labelled, first.count)
        if not self.terms:
            raise NothingToCompare
        if first.labels is not None and any(term.target == LABELS for term in self.terms):
            check_labels_stay(settings.augment, first.labels.ndim)
        self.terms += feature_terms(student.graph, features, taught, settings.terms) if features else []
        self.terms += self._penalties

    def _features(self, teacher: ir.Model | None) -> list[str]:
        if not self.settings.features or teacher is None:
            return []
        student, known = (specialize_shapes(each, self.shapes).graph for each in (self.student, teacher))
        return choose_features(self.settings.features, student, known)

    def run(self, progress: Progress) -> Trained:
        """Train; `progress` is told what is done, how many steps, and of how many.

        Raises:
            NotDifferentiable: An op between the weights and the outputs has no gradient.
            RunError: A step does not run.
            UsageError: The checkpoint is that of another training.
            ValuesNotFinite: Samples, or what a model gives for them, are not finite.
        """
        settings = self.settings
        rise = MemoryRise()
        augment = self._augmentation()
        batches = ShuffledBatches(self.training, self.batch, self._seed, augment)
        step = self._compiled(self.shapes, settings.optimizer, self.training, cached=augment is None)
        self.statistics = [name for name in self.statistics if name in step.step.weights]
        self.weights = [name for name in step.step.weights if name not in self.statistics]
        held_out, shapes = self._judging()
        evaluation = self._compiled(shapes, None, self.held_out, cached=True)
        steps = settings.epochs * batches.per_epoch
        course = Course(
            Schedule(settings.rate_of(steps), steps, settings.warm_up),
            settings.optimizer,
            batches.per_epoch,
            settings.patience,
            settings.seconds,
            settings.checkpoint,
            settings.keep,
        )
        graph = self.student.graph
        values = {name: stored_array(graph.initializers[name]) for name in step.step.weights}

        def tell(done: int, steps: int, last: Evaluation) -> None:
            progress(f"loss {last.trained_loss:.3g}, held out {last.loss:.3g}", done, steps)

        seen = digest_of({**self._first.feeds, **({} if self._first.labels is None else {"": self._first.labels})})
        fingerprint = f"{self._samples.source} {seen} {self._taught} {settings.fingerprint}"
        fingerprint += f" {self._penalties}" if self._penalties else ""
        trained = train(step, evaluation, values, batches, held_out, course, tell, fingerprint)
        self.memory = rise.measured()
        return trained

    def loss_of(self, student: ir.Model) -> float:
        """Return the loss of the student with other weights on the samples that are set aside.

        Args:
            student: The student, but for its weights; not changed.

        Raises:
            RunError: It does not run.
            ValuesNotFinite: The loss is not finite.
        """
        held_out, shapes = self._judging()
        step = self._opened(compile_step(student, shapes, [], self.terms, None), self.held_out, cached=False)
        (name,) = step.step.losses[:1]
        loss = float(np.mean([step.session.run(step.feeds(batch))[name] for batch in held_out]))
        if not math.isfinite(loss):
            raise not_finite("on the samples that are set aside")
        return loss

    def _judging(self) -> tuple[list[TrainingBatch], dict[str, tuple[int, ...]]]:
        """Return what is set aside in batches, and their shapes."""
        held_out = list(in_order(self.held_out, self.batch))
        if not held_out:  # fewer than a batch: they are one by themselves
            held_out = list(in_order(self.held_out, self.held_out.count))
        shapes = {name: array.shape for name, array in held_out[0].feeds.items()}
        if any({name: array.shape for name, array in batch.feeds.items()} != shapes for batch in held_out):
            raise several_shapes(self._samples.source)
        return held_out, shapes

    def _augmentation(self) -> Augmentation | None:
        names = self.settings.augment
        if not names:
            return None
        images = [name for name, shape in self.shapes.items() if len(shape) == 4]
        if len(images) != 1:
            raise BadOptionValue(
                f"augment is {'+'.join(names)}, and {len(images)} inputs are images of four axes",
                hint="leave it out: it is for models of images",
            )
        array = self._first.feeds[images[0]]
        if array.dtype != np.float32 or (array.shape[3] in CHANNELS and array.shape[1] not in CHANNELS):
            raise BadOptionValue(
                f"augment is {'+'.join(names)}, and {images[0]!r} takes {array.dtype.name} {list(array.shape)}",
                hint="leave it out: it is for float32 images of shape [N, channels, height, width]",
            )
        return Augmentation(names, images[0], self._open)

    def _compiled(
        self, shapes: Mapping[str, tuple[int, ...]], optimizer: Optimizer | None, samples: Samples, *, cached: bool
    ) -> RunnableStep:
        step = compile_step(self.student, shapes, self.weights, self.terms, optimizer, self._masks, self.statistics)
        return self._opened(step, samples, cached=cached)

    def _opened(self, step: TrainingStep, samples: Samples, *, cached: bool) -> RunnableStep:
        given = (spec.name for spec in self.teacher.outputs) if self.teacher is not None else ()
        targets = {target_of(name): name for name in given if target_of(name) in step.targets}
        teacher = Teacher(self.teacher if targets else None, targets, samples.count, cached=cached)
        return RunnableStep.opened(step, teacher, self._open, self._target)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return max(1, self.training.count // self.batch)
