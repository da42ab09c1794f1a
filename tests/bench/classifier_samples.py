"""Samples of the zoo's classifiers as they lie in its files, and how two such models are judged; for other scripts."""

from __future__ import annotations

import numpy as np
from zoo_images import CIFAR_DEVIATION, CIFAR_MEAN

from onnxslim.data import Samples, open_samples
from onnxslim.metrics.classification import Classification
from onnxslim.quality.measure import Quality, measure_quality
from onnxslim.quality.metric import Recognition
from onnxslim.runtime.session import Session

CALIBRATION = 256
"""The most samples that calibrate."""


def read(spec: str, session: Session) -> Samples:
    """Return samples; ``cifar:FILE`` are images and labels of CIFAR-10, in an order drawn with a fixed seed."""
    if not spec.startswith("cifar:"):
        return open_samples(spec, session.inputs)
    with np.load(spec.removeprefix("cifar:")) as file:
        order = np.random.default_rng(0).permutation(len(file["y"]))
        images = ((file["x"][order].astype(np.float32) / 255 - CIFAR_MEAN) / CIFAR_DEVIATION).transpose(0, 3, 1, 2)
        labels = file["y"][order].astype(np.int64)
        return open_samples({session.inputs[0].name: images, "labels": labels}, session.inputs)


def judge(original: Session, candidate: Session, samples: Samples) -> Quality:
    """Return top-1 of two classifiers of one output, how often they agree, and how closely the outputs follow."""
    recognition = Recognition(Classification(original.outputs[0].name, classes=10), 1.0, "the zoo's classifiers")
    generator = np.random.default_rng(0)
    return measure_quality(recognition, original, candidate, samples, generator=generator, size=32)
