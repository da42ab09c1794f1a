"""Time and memory of what prune finds out before it cuts: coupling, groups, and the choice of channels.

    python tests/bench/prune_analysis.py MODEL ...

One row for each model; memory is what Python and numpy took at most (tracemalloc), as a multiple of the weights. No
part of CI.
"""

from __future__ import annotations

import pathlib
import sys
import time
import tracemalloc

import numpy as np
from onnxslim.passes.prune.allocation import Limits, allocate, blocks
from onnxslim.passes.simplify import Simplify

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import couple, groups
from onnxslim.analysis.remaining_cost import macs_left
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.shared_vectors import untie_vectors
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.data import synthetic_samples
from onnxslim.model import open_model
from onnxslim.pipeline.interface import Context
from onnxslim.runtime.target import detect_target


def main() -> int:
    """Print one row for each model."""
    print("| model | labels | groups | couple | groups | allocate 30 % | memory, of the weights |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for path in map(pathlib.Path, sys.argv[1:]):
        print(row(path), flush=True)
    return 0


def row(path: pathlib.Path) -> str:
    """Return the row of one model."""
    model = open_model(path)
    samples = synthetic_samples(model, 1)
    Simplify().run(model, Context(model.clone(), samples, detect_target("cpu"), np.random.default_rng(0)))
    untie_vectors(model)
    infer_shapes(model)
    sized = specialize_shapes(model, {name: array.shape for name, array in samples.first().items()})
    weights = measure_cost(model).weight_bytes
    seconds, peak = [], 0.0
    for traced in (False, True):  # tracing takes time: once for the clock, once for memory
        if traced:
            tracemalloc.start()
        marks = [time.perf_counter()]
        coupling = couple(model)
        marks.append(time.perf_counter())
        found = [group for group in groups(coupling) if blocks(group, Limits(8, 0.8))]
        marks.append(time.perf_counter())
        cost = macs_left(coupling, sized)
        scores = [np.linspace(0, 1, len(group.roots)) for group in found]
        whole = cost(np.zeros(coupling.labels.count, np.bool_))
        allocate(coupling, found, scores, 0.3 * whole, Limits(8, 0.8), cost)
        marks.append(time.perf_counter())
        if traced:
            peak = tracemalloc.get_traced_memory()[1] / max(weights, 1)
            tracemalloc.stop()
        else:
            seconds = list(np.diff(marks))
    times = " | ".join(f"{each:.2f} s" for each in seconds)
    return f"| {path.stem} | {coupling.labels.count:,} | {len(found)} | {times} | {peak:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
