"""Our int8 beside ONNX Runtime's own quantizer, on the same calibration samples and the same held-out ones.

    python tests/bench/quantizers.py models/fashion_resnet8.onnx models/fashion_calib.npz models/fashion_test.npz
    python tests/bench/quantizers.py cifar10_resnet20.onnx cifar:cifar10_train_10k.npz cifar:cifar10_test.npz

``cifar:FILE`` reads images of CIFAR-10 (`x`, uint8 NHWC, and `y`) as the zoo's README says, in an order drawn by
chance with a fixed seed: in the file they lie class by class. At most 256 samples calibrate. Names of quantizers may
follow, to run only those. Latencies are paired, in blocks, with the float model, batch 1. Prints a Markdown table.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import onnxruntime.quantization as ort

import onnxslim
from onnxslim.data import Samples, open_samples
from onnxslim.metrics.classification import Classification
from onnxslim.quality.measure import Quality, measure_quality
from onnxslim.quality.metric import Recognition
from onnxslim.runtime.session import Session
from onnxslim.runtime.timing import compare_latency

CALIBRATION = 256
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
OURS = ("quant", "quant,prune:ratio=0.4:align=16")
THEIRS = {
    "U8S8": {"weight_type": ort.QuantType.QInt8},
    "U8S8, 7-bit weights": {"weight_type": ort.QuantType.QInt8, "reduce_range": True},
    "U8U8": {"weight_type": ort.QuantType.QUInt8},
}


def read(spec: str, session: Session) -> Samples:
    if not spec.startswith("cifar:"):
        return open_samples(spec, session.inputs)
    with np.load(spec.removeprefix("cifar:")) as file:
        order = np.random.default_rng(0).permutation(len(file["y"]))
        images = ((file["x"][order].astype(np.float32) / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2)
        labels = file["y"][order].astype(np.int64)
        return open_samples({session.inputs[0].name: images, "labels": labels}, session.inputs)


def judge(original: Session, candidate: Session, samples: Samples) -> Quality:
    """Return top-1 of two classifiers of one output, how often they agree, and how closely the outputs follow."""
    recognition = Recognition(Classification(original.outputs[0].name, classes=10), 1.0, "the zoo's classifiers")
    generator = np.random.default_rng(0)
    return measure_quality(recognition, original, candidate, samples, generator=generator, size=32)


class Reader(ort.CalibrationDataReader):
    def __init__(self, samples: Samples) -> None:
        self._batches: Iterator = samples.batches()

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch.feeds)


def theirs(model: str, out: str, samples: Samples, options: dict[str, object]) -> None:
    ort.quant_pre_process(model, out + ".pre")
    ort.quantize_static(
        out + ".pre",
        out,
        Reader(samples),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        calibrate_method=ort.CalibrationMethod.MinMax,
        **options,
    )


def main(model: str, data: str, val: str, *names: str) -> None:
    logging.disable(logging.WARNING)
    original = Session.of(pathlib.Path(model))
    calibration, held_out = read(data, original), read(val, original)
    generator = np.random.default_rng(0)
    accuracy = judge(original, original, held_out).figures[0].before.value
    print(f"{pathlib.Path(model).name} on {original.target.instruction_set}, accuracy {accuracy:.4f}\n")
    print("| quantizer | times smaller | times faster | accuracy | agreement | SQNR, dB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.onnx")
        for name in names or (*OURS, *THEIRS):
            if name in THEIRS:
                theirs(model, out, calibration.draw(CALIBRATION), THEIRS[name])
            else:
                onnxslim.optimize(model, name, data=calibration, val=held_out, output=out, measure=False)
            session = Session.of(pathlib.Path(out))
            quality = judge(original, session, held_out)
            agreement, sqnr, accuracy = quality.agreement, quality.fidelity["sqnr_db"], quality.figures[0].after.value
            speed = compare_latency(
                pathlib.Path(model),
                pathlib.Path(out),
                held_out.first(),
                original.target,
                generator=generator,
                seconds=5.0,
            ).ratio
            assert agreement is not None
            assert sqnr is not None
            tool, smaller = "ONNX Runtime" if name in THEIRS else "ours", os.path.getsize(model) / os.path.getsize(out)
            print(
                f"| {tool}: {name} | {smaller:.2f} "
                f"| {speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f}) | {accuracy:.4f} "
                f"| {agreement.value:.4f} ({agreement.low:.4f} to {agreement.high:.4f}) "
                f"| {sqnr.value:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
