"""Trains a model from labels alone: opens it, draws its weights anew if asked to, trains, measures, and writes it."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import time
from typing import Annotated

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.commands.output_paths import Place, check_places, places_read, places_written
from onnxslim.commands.provenance import sha256
from onnxslim.commands.quality_records import quality_figures
from onnxslim.commands.reproduction import reproduction
from onnxslim.commands.training_request import FirstWeights, TrainingRequest
from onnxslim.data import Samples, open_samples
from onnxslim.data.trial_run import run_in_child
from onnxslim.errors import DataError, ModelUnsupported, OnnxslimError
from onnxslim.model import open_model, save_model
from onnxslim.model.architecture import is_architecture, open_architecture
from onnxslim.model.edit import overwrite
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.gc_pause import patient_collector
from onnxslim.pipeline.interface import Context, Progress
from onnxslim.pipeline.opset import at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.records import DataSource, ModelFile, QualityFigures, Reproduction, check_record
from onnxslim.pipeline.request import Data
from onnxslim.quality.choosing import MetricRequest, choose_metric
from onnxslim.quality.measure import measure_quality
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target, detect_target
from onnxslim.train.distillation import Distillation, FewSamples
from onnxslim.train.initialization import drawn_weights
from onnxslim.train.labels import no_labels
from onnxslim.train.loop import Trained
from onnxslim.train.moving_statistics import stored_statistics
from onnxslim.train.parameters import trainable_parameters
from onnxslim.train.step import TRAINING_OPSET

FOLDING = "simplify"
"""The pass that folds BatchNormalizations into the layers before them."""


@dataclasses.dataclass(frozen=True)
class EpochLoss:
    """How large the loss was after some epochs."""

    epoch: Annotated[float, "epochs that were done; 0 is before all steps"]
    loss: Annotated[float, "cross-entropy on the samples that were set aside"]


@dataclasses.dataclass(frozen=True)
class Training:
    """What came of a training."""

    input: Annotated[ModelFile, "the model that came in"]
    output: Annotated[ModelFile, "the model that was written"]
    target: Annotated[Target, "what it was trained on"]
    training: Annotated[DataSource, "the samples that it was trained on, those that were set aside included"]
    held_out: Annotated[int, "how many of them were set aside to choose the best weights"]
    val: Annotated[DataSource, "the samples that it was measured on: those that were set aside, without --val"]
    quality: Annotated[QualityFigures, "how good it is at its task, with the first weights and the last"]
    loss: Annotated[str, "cross_entropy of classes, or mse: squared differences over their variance"]
    loss_before: Annotated[float | None, "the loss on what was set aside, before all steps"]
    loss_after: Annotated[float, "the same with the weights that were kept"]
    losses: Annotated[tuple[EpochLoss, ...], "the same after each epoch"]
    weights: Annotated[str, "what it began with: random, or keep, those of the file"]
    parameters: Annotated[int, "numbers that were trained"]
    steps: Annotated[int, "updates of the weights"]
    batch: Annotated[int, "samples of an update"]
    rate: Annotated[float, "the highest learning rate"]
    best_epoch: Annotated[float, "after how many epochs the weights were best, and are those that were kept"]
    ended: Annotated[str, "why it ended: all steps, no better, time"]
    seconds: Annotated[float, "time of the training"]
    memory: Annotated[float | None, "bytes by which the memory of the process rose, at most, while it trained"]
    reproduction: Annotated[Reproduction, "how to do it again"]
    loss_before_reason: str | None = None
    memory_reason: str | None = None

    def __post_init__(self) -> None:
        check_record(self)


@patient_collector()
def train_model(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    request: TrainingRequest,
    *,
    data: Data,
    val: Data | None = None,
    preprocess: str | None = None,
    metric: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Training:
    """Train a model from labels, and write it with its new weights; nodes, names and operator set stay.

    Args:
        path: The model: an ONNX file, or ONNX text (.onnxtxt) whose weights need no elements.
        output: Where the trained one goes, whole or not at all.
        request: How.
        data: Samples with labels to train on; some are set aside to choose the best weights.
        val: Samples with labels to measure on, before and after; None: those that are set aside.
        preprocess: How images become inputs.
        metric: What it is measured by; None: what fits the outputs.
        provider: As for `optimize`.
        threads: Threads within one operator.
        seed: Of all random numbers.
        progress: Told how far it is.

    Raises:
        DataError: The samples carry no labels, or some that no output fits, or are too few.
        ModelError, RunError, NotDifferentiable, UsageError, OutputError: As the parts do.
        OnnxslimError: There is nothing to train, or no epoch was better than the beginning. Nothing is written then.
    """
    path, output = pathlib.Path(path), pathlib.Path(output)
    progress = progress or Progress()
    target = detect_target(provider, threads)
    asked = MetricRequest.read(metric)
    model = open_architecture(path) if is_architecture(path) else open_model(path)
    written = places_written(output)
    if request.checkpoint is not None:
        written.append(Place("the checkpoint", request.checkpoint))
    check_places(places_read(model, path, data=data, val=val, preprocess=preprocess, metric=metric), written)
    input_sha256 = sha256(path)
    infer_shapes(model)
    if request.weights is FirstWeights.RANDOM:
        for name, array in drawn_weights(model.graph, np.random.default_rng(seed)).items():
            overwrite(model.graph.initializers[name], array)
    run_in_child(model, None, target, data=data, preprocess=preprocess)
    first = Session.of(model, target)
    given = _labelled(data, first, preprocess)
    judged = None if val is None else _labelled(val, first, preprocess)
    started = time.monotonic()
    work, trained = _train(model, request, given, target, seed, progress)
    seconds = time.monotonic() - started
    measured = work.held_out if judged is None else judged
    progress("measuring", 0, None)
    last = Session.of(model, target)
    quality = measure_quality(
        choose_metric(asked, last, model, measured), first, last, measured, generator=np.random.default_rng(seed)
    )
    parameters = sum(array.size for name, array in trained.weights.items() if name in work.weights)
    if request.fold:
        context = Context(model.clone(), given, target, np.random.default_rng(seed), seed)
        find_pass(FOLDING)().run(model, context)
    save_model(model, output)
    before = trained.evaluations[0].loss
    known = [each for each in trained.evaluations if math.isfinite(each.loss)]
    return Training(
        input=ModelFile(str(path), input_sha256),
        output=ModelFile(str(output), sha256(output)),
        target=target,
        training=_source(given),
        held_out=work.held_out.count,
        val=_source(measured),
        quality=quality_figures(quality),
        loss=work.terms[0].kind.value,
        loss_before=before if math.isfinite(before) else None,
        loss_before_reason=None if math.isfinite(before) else "it is not finite",
        loss_after=trained.best.loss,
        losses=tuple(EpochLoss(each.step / work.per_epoch, each.loss) for each in known),
        weights=request.weights.value,
        parameters=parameters,
        steps=trained.steps,
        batch=work.batch,
        rate=request.settings.rate_of(trained.steps),
        best_epoch=trained.best.step / work.per_epoch,
        ended=trained.ended,
        seconds=seconds,
        memory=work.memory.value,
        memory_reason=work.memory.reason,
        reproduction=reproduction(
            "train",
            [path],
            {
                "--data": data,
                "--val": val,
                "--output": output,
                **request.options,
                "--preprocess": preprocess,
                "--metric": metric,
                "--provider": target.provider,
                "--threads": target.threads,
                "--seed": seed,
            },
        ),
    )


def _labelled(source: Data, session: Session, preprocess: str | None) -> Samples:
    samples = open_samples(source, session.inputs, preprocess=preprocess)
    if not samples.labelled:
        raise no_labels(samples.source)
    return samples


def _train(
    model: ir.Model, request: TrainingRequest, samples: Samples, target: Target, seed: int, progress: Progress
) -> tuple[Distillation, Trained]:
    """Train `model` in place."""
    student = at_least(model, TRAINING_OPSET)
    if isinstance(student, Reason):
        hint = f"export it at operator set {TRAINING_OPSET} or a newer one"
        raise ModelUnsupported(f"it cannot be trained: {student}", hint=hint)
    weights = [value.name or "" for value in trainable_parameters(student.graph)]
    statistics = stored_statistics(student.graph)
    if not weights:
        raise OnnxslimError("the model has no weights that could be trained", hint="onnxslim inspect shows what it has")

    def open_session(opened: ir.Model) -> Session:
        return Session.of(opened, target)

    try:
        work = Distillation(
            request.settings, student, weights, None, samples, seed, open_session, statistics=statistics
        )
    except FewSamples as error:
        raise DataError(
            "there are too few samples for a batch beside those that are set aside",
            where=samples.source,
            hint="give more samples",
        ) from error
    trained = work.run(lambda what, done, steps: progress(f"training: {what}", done, steps))
    if not trained.helped:
        why = "the loss ran away" if trained.ended == "diverged" else "the loss on what was set aside got no smaller"
        hint = "try another --rate, more --epochs or more samples"
        raise OnnxslimError(f"nothing was learnt: {why}", hint=hint)
    for name, array in trained.weights.items():
        overwrite(model.graph.initializers[name], array)
    return work, trained


def _source(samples: Samples) -> DataSource:
    return DataSource(samples.source, samples.count, samples.labelled, samples.synthetic)
