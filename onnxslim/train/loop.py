"""Runs training steps until they are done, do not help any more, or time is up; keeps the best weights."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from onnxslim.arrays import Array
from onnxslim.autodiff.lowering import lower_step
from onnxslim.errors import DataError, ValuesNotFinite
from onnxslim.runtime.blocked import block_width
from onnxslim.runtime.resident import ResidentState
from onnxslim.runtime.session import CPU, OpenSession, Session
from onnxslim.runtime.target import Target
from onnxslim.train.batches import LABELS, TrainingBatch, TrainingBatches
from onnxslim.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from onnxslim.train.optimizer import Optimizer
from onnxslim.train.schedule import Schedule
from onnxslim.train.step import TrainingStep

Targets = Callable[[TrainingBatch], Mapping[str, Array]]
"""Gives the targets of a batch."""
SMOOTHING = 0.95
"""Of the loss that is told: the share of what it was before."""


class Keep(enum.Enum):
    """Which weights come out of a training."""

    BEST = "best"
    """Those of the smallest loss on the samples that were set aside, none that are worse than the first."""
    LAST = "last"
    """Those after all steps, whatever that loss says."""


@dataclasses.dataclass(frozen=True)
class Course:
    """How a training goes on, and when it ends."""

    schedule: Schedule
    optimizer: Optimizer
    evaluate_every: int
    """Steps from one evaluation on the held-out samples to the next."""
    patience: int | None = None
    """Evaluations without a better loss after which it stops; None: it goes through all steps."""
    seconds: float | None = None
    """The time after which it stops; None: any. What comes out depends on the machine then."""
    checkpoint: pathlib.Path | None = None
    """The file that it goes on from, and that is written at each evaluation."""
    keep: Keep = Keep.BEST


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How good the student was after some steps."""

    step: int
    loss: float
    """On the held-out samples."""
    trained_loss: float
    """On the batches before, averaged with weights that fade; NaN before the first step."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of a training."""

    weights: Mapping[str, Array]
    """Those of the evaluation that is kept."""
    evaluations: tuple[Evaluation, ...]
    """The first is before all steps."""
    best: Evaluation
    """The one that is kept: the best, unless the last is asked for."""
    steps: int
    ended: str
    """Why it stopped: ``all steps``, ``no better``, ``time``, ``diverged``."""

    @property
    def helped(self) -> bool:
        """Whether the weights that are kept are not those before all steps."""
        return self.best.step > 0


Tell = Callable[[int, int, Evaluation], None]
"""Told the step, how many there are, and the last evaluation with the present loss of training."""


@dataclasses.dataclass(frozen=True)
class RunnableStep:
    """A compiled step with all that it takes to run it."""

    step: TrainingStep
    session: Session
    targets: Targets

    @classmethod
    def opened(cls, step: TrainingStep, targets: Targets, open_session: OpenSession, target: Target) -> RunnableStep:
        """Open a compiled step on `target`, its convolutions lowered to what the CPU provider runs fastest."""
        if target.facts.execution_provider == CPU:
            lower_step(step.model, block_width())
        return cls(step, open_session(step.model), targets)

    def feeds(self, batch: TrainingBatch, scalars: Mapping[str, float] | None = None) -> dict[str, Array]:
        """Return all inputs for a batch, weights and states left out. What no loss depends on is no input."""
        given = dict(batch.feeds)
        for name, array in self.targets(batch).items():
            if name in self.step.targets:
                given[self.step.targets[name]] = self._labels(array) if name == LABELS else array
        given |= {self.step.scalars[name]: np.asarray(value, np.float32) for name, value in (scalars or {}).items()}
        return {name: array for name, array in given.items() if name in self.inputs}

    def _labels(self, given: Array) -> Array:
        """Return labels as the step takes them: integers for classes, or real numbers.

        Raises:
            DataError: They are of another kind, or not one for each decision.
        """
        name = self.step.targets[LABELS]
        (spec,) = (spec for spec in self.session.inputs if spec.name == name)
        sizes = [size for size in spec.shape if isinstance(size, int)]
        dtype = spec.dtype or np.dtype(np.int64)
        if given.dtype.kind not in ("iub" if dtype.kind == "i" else "iubf") or given.size != math.prod(sizes):
            raise DataError(
                f"labels of {given.dtype.name} {list(given.shape)} are no classes of {sizes} decisions",
                hint="give an integer for each decision (-1: it does not count), or leave out alpha",
            )
        return given.reshape(sizes).astype(dtype)

    @functools.cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs."""
        return frozenset(spec.name for spec in self.session.inputs)


def train(
    step: RunnableStep,
    evaluation: RunnableStep,
    weights: Mapping[str, Array],
    batches: TrainingBatches,
    held_out: Sequence[TrainingBatch],
    course: Course,
    tell: Tell = lambda step, steps, evaluation: None,
    fingerprint: str = "",
) -> Trained:
    """Train weights.

    Args:
        step: The step.
        evaluation: The same without an update, whose loss on `held_out` decides what is kept.
        weights: The first weights.
        batches: What is trained on.
        held_out: What is not.
        course: How.
        tell: Told of each step.
        fingerprint: Of everything else that the result depends on, for checkpoints.

    Raises:
        RunError: A step does not run.
        UsageError: The checkpoint is that of another training.
        ValuesNotFinite: The loss is not finite before the first step, or for a batch that is not.
    """
    run = _Run(step, evaluation, weights, held_out, course)
    student = ""
    if course.checkpoint is not None:
        fingerprint, student = fingerprint_of(fingerprint, course, batches), digest_of(weights)
        run.resume(read_checkpoint(course.checkpoint, fingerprint, student))
    ended = run.ended()
    started = time.monotonic()
    for batch in () if ended else batches.starting(run.done):
        run.train_on(batch)
        if run.done % course.evaluate_every == 0 or run.done >= course.schedule.steps or not math.isfinite(run.loss):
            run.evaluate()
            if course.checkpoint is not None:
                write_checkpoint(course.checkpoint, run.checkpoint(fingerprint, student))
        tell(run.done, course.schedule.steps, dataclasses.replace(run.evaluations[-1], trained_loss=run.loss))
        ended = run.ended()
        if not ended and course.seconds is not None and time.monotonic() - started > course.seconds:
            ended = "time"
            if run.evaluations[-1].step < run.done:
                run.evaluate()
        if ended:
            break
    return Trained(run.best_weights, tuple(run.evaluations), run.best, run.done, ended)


class _Run:
    """The present state of a training."""

    def __init__(
        self,
        step: RunnableStep,
        evaluation: RunnableStep,
        weights: Mapping[str, Array],
        held_out: Sequence[TrainingBatch],
        course: Course,
    ) -> None:
        self._step, self._evaluation, self._course = step, evaluation, course
        self._held_out = held_out
        self._weights = step.step.weights
        self._state = ResidentState(step.session, {**weights, **step.step.start()}, step.step.successors)
        self.done = 0
        self.loss = math.nan
        self.best_weights: Mapping[str, Array] = {name: np.array(weights[name]) for name in self._weights}
        self.evaluations = [Evaluation(0, self._held_out_loss(), math.nan)]
        if not math.isfinite(self.evaluations[0].loss):
            raise not_finite("before the first step: samples, or what a model gives for them, are NaN or infinite")
        self.best = self.evaluations[0]

    def train_on(self, batch: TrainingBatch) -> None:
        """Take one step."""
        rate = self._course.schedule(self.done)
        feeds = self._step.feeds(batch, self._course.optimizer.values(self.done, rate))
        (loss,) = self._state.run(feeds, self._step.step.losses[:1]).values()
        self.done += 1
        loss = float(loss)
        if not math.isfinite(loss):
            for name, array in feeds.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise not_finite(f"of a batch for which {name} is NaN or infinite")
        self.loss = loss if math.isnan(self.loss) else SMOOTHING * self.loss + (1 - SMOOTHING) * loss

    def evaluate(self) -> None:
        """Measure the loss on what is held out, and keep the weights if they are the best so far."""
        found = Evaluation(self.done, self._held_out_loss(), self.loss)
        self.evaluations.append(found)
        last = self._course.keep is Keep.LAST and math.isfinite(found.loss)
        if last or found.loss < self.best.loss:
            self.best, self.best_weights = found, self._state.read(self._weights)

    def ended(self) -> str:
        """Return why the training is over; empty where it is not."""
        last = self.evaluations[-1]
        if not math.isfinite(last.loss) or (self.done and not math.isfinite(self.loss)):
            return "diverged"
        if self.done >= self._course.schedule.steps:
            return "all steps"
        since = sum(evaluation.step > self.best.step for evaluation in self.evaluations)
        return "no better" if self._course.patience is not None and since >= self._course.patience else ""

    def checkpoint(self, fingerprint: str, student: str) -> Checkpoint:
        """Return what it needs to go on from here."""
        told = [dataclasses.astuple(evaluation) for evaluation in self.evaluations]
        progress = {"evaluations": told, "best": dataclasses.astuple(self.best), "loss": self.loss}
        return Checkpoint(fingerprint, student, self.done, self._state.read(), self.best_weights, progress)

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint."""
        if checkpoint is None:
            return
        self.done = checkpoint.step
        self._state.write(checkpoint.state)
        self.best_weights = checkpoint.best
        self.evaluations = [Evaluation(*told) for told in checkpoint.progress["evaluations"]]
        self.best = Evaluation(*checkpoint.progress["best"])
        self.loss = checkpoint.progress["loss"]

    def _held_out_loss(self) -> float:
        """Return the mean loss over the held-out batches."""
        inputs = self._evaluation.inputs
        state = self._state.share(self._evaluation.session, [name for name in self._weights if name in inputs])
        output = self._evaluation.step.losses[0]
        losses = [float(state.run(self._evaluation.feeds(batch), [output])[output]) for batch in self._held_out]
        return float(np.mean(losses)) if losses else math.nan


def not_finite(of_what: str) -> ValuesNotFinite:
    """Return the error that a loss is not finite."""
    hint = "leave such samples out, or scale the inputs as the model was trained"
    return ValuesNotFinite(f"the loss is not finite {of_what}", where="the calibration samples", hint=hint)


def fingerprint_of(told: str, course: Course, batches: TrainingBatches) -> str:
    """Return a digest of a training: of its course, its order of samples, and what else is told."""
    course = dataclasses.replace(course, checkpoint=None, seconds=None)
    parts: Iterable[object] = (told, course, batches.size, batches.seed, batches.count)
    return hashlib.sha256("".join(map(repr, parts)).encode()).hexdigest()


def digest_of(arrays: Mapping[str, Array]) -> str:
    """Return a digest of arrays with their names."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        plain = array.astype(str) if array.dtype.hasobject else array  # texts
        digest.update(np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
