"""What became of a quantized model, seen from outside: its task's metric, how close its outputs are, detections, size.

    python check_quantized.py ORIGINAL.onnx RESULT.onnx TEST.npz [--held-out COUNT]
    python check_quantized.py ORIGINAL.onnx RESULT.onnx TEST.npz --latency SECONDS [--lock FILE]

Prints a line of JSON. Both models run in ONNX Runtime with its default optimisation on samples that calibrated nothing.
Of a detector it is told how many of the original's boxes are kept: found again at IoU 0.5 with the same class and a
score of 0.25. Latency is paired and in blocks, of one sample; --lock is a file that whoever else times something on
this machine takes, too.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np
import onnxruntime
from check_result import locked

from onnxslim import open_model
from onnxslim.data import Samples, open_samples
from onnxslim.metrics.classification import Classification
from onnxslim.metrics.detection import SCORE, Detection
from onnxslim.quality.choosing import MetricRequest, choose_metric
from onnxslim.quality.fidelity import Fidelity
from onnxslim.quality.measure import measure_quality
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target
from onnxslim.runtime.timing import compare_latency

BATCH = 50
"""How many samples a classifier runs at once."""


def value(estimate: Any) -> float | None:
    number = getattr(estimate, "value", estimate)
    return None if number is None else round(float(number), 5)


def by_name(fidelity: Fidelity) -> dict[str, float | None]:
    """Return the SQNR of each output and of each part of one, in dB."""
    found: dict[str, float | None] = {}
    for output in fidelity.parts:
        found[output.name] = value(output["sqnr_db"])
        found |= {f"{output.name} {part.name}": value(part["sqnr_db"]) for part in output.parts}
    return found


def judged(original: Session, candidate: Session, path: pathlib.Path, samples: Samples) -> dict[str, Any]:
    recognition = choose_metric(MetricRequest(), original, open_model(path), samples)
    generator = np.random.default_rng(0)
    size = BATCH if isinstance(recognition.metric, Classification) else None
    quality = measure_quality(recognition, original, candidate, samples, generator=generator, size=size)
    answer: dict[str, Any] = {"samples": len(quality.rows), "metric": recognition.metric.name}
    if quality.figures and quality.fits:
        figure = quality.figures[0]
        answer |= {"figure": figure.name, "before": value(figure.before), "after": value(figure.after)}
    answer |= {
        "agreement": value(quality.agreement),
        "sqnr_db": value(quality.fidelity["sqnr_db"]),
        "reason": quality.fidelity.reason,
        "outputs": by_name(quality.fidelity),
    }
    if isinstance(recognition.metric, Detection) and recognition.metric.score == SCORE:
        sums = quality.rows.sum(axis=0)
        answer |= {"kept": int(sums[6]), "of": int(sums[1]), "found": int(sums[3])}
    return answer


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=pathlib.Path)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("test")
    parser.add_argument("--held-out", type=int, help="the most samples that measure")
    parser.add_argument("--latency", type=float, default=0.0, help="measure nothing but latency, for that many seconds")
    parser.add_argument("--lock", help="a file to lock while latency is measured")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    target = detect_target(threads=None if options.latency else 1)  # one thread: others may be at work here
    original, candidate = (Session.of(path, target) for path in (options.original, options.result))
    samples = open_samples(options.test, original.inputs)
    if not options.latency:
        chosen = samples if options.held_out is None else samples.draw(options.held_out)
        return {"bytes": options.result.stat().st_size, **judged(original, candidate, options.original, chosen)}
    with locked(options.lock):
        ratio = compare_latency(
            options.original,
            options.result,
            samples.first(),
            target,
            generator=np.random.default_rng(0),
            seconds=options.latency,
        ).ratio
    return {"speed": [round(each, 4) for each in (ratio.value, ratio.low, ratio.high)]}


if __name__ == "__main__":
    print(json.dumps(main()))
