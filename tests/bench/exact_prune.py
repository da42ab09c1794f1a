"""Exact pruning over folders of models, as a table: what is found in them as they are, and of what is planted.

    python tests/bench/exact_prune.py FOLDER_OR_MODEL ...

Planted are, in every group of at least eight channels, two that are zero in all weights and one that is the double of
another. Not found are those that a normalisation over channels, a product of two computed values or a recurrence
mixes: they are no less real, but the outputs would change. No part of CI.
"""

from __future__ import annotations

import pathlib
import sys
import time

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from insert_dead_channels import plant_dead, plant_double
from onnxslim.passes.prune.exact import RemovedChannels, remove_exactly
from onnxslim.passes.simplify import Simplify

from onnxslim.analysis.coupling import couple, groups
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.shared_vectors import retie_vectors, untie_vectors
from onnxslim.data import Samples, synthetic_samples
from onnxslim.model import open_model
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target


def main() -> int:
    """Print one row for each model."""
    print("| model | found as it is | error | planted: dead, double | found: dead, double | error | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for argument in map(pathlib.Path, sys.argv[1:]):
        for path in sorted(argument.glob("*.onnx")) if argument.is_dir() else [argument]:
            print(row_or_error(path), flush=True)
    return 0


def row_or_error(path: pathlib.Path) -> str:
    """Return the row of one model; one that fails must not hide the others."""
    try:
        return row(path)
    except Exception as error:  # whatever it is, the table says it
        return f"| {path.stem} | {type(error).__name__}: {error} | | | | | |"


def row(path: pathlib.Path) -> str:
    """Return the row of one model."""
    model = open_model(path)
    samples = synthetic_samples(model, 2)
    original = model.clone()
    Simplify().run(model, Context(original, samples, detect_target("cpu"), np.random.default_rng(0)))
    found, error, _ = removed(model, original, samples)
    planted, count = plant(model)
    went, planted_error, seconds = removed(planted, planted, samples)
    cells = [
        path.stem,
        f"{sum(each.dead + each.constant + each.double for each in found)}",
        f"{error:.1e}",
        f"{2 * count}, {count}",
        f"{sum(each.dead for each in went)}, {sum(each.double for each in went)}",
        f"{planted_error:.1e}",
        f"{seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def plant(model: ir.Model) -> tuple[ir.Model, int]:
    """Return a copy with planted channels, and how many doubles there are."""
    model = model.clone()
    untie_vectors(model)
    infer_shapes(model)
    coupling = couple(model)
    chosen = [group for group in groups(coupling) if len(group.roots) >= 8]
    for group in chosen:
        plant_double(coupling, int(group.roots[0]), int(group.roots[3]))
    for group in chosen:
        plant_dead(coupling, group.roots[[2, 6]])
    return model, sum(group.width for group in chosen)


def removed(model: ir.Model, original: ir.Model, samples: Samples) -> tuple[list[RemovedChannels], float, float]:
    """Return what went, the largest error relative to the largest output, and the seconds that it took."""
    left = model.clone()
    apart = untie_vectors(left)
    infer_shapes(left)
    started = time.perf_counter()
    found = remove_exactly(left, groups, RewriteGate())
    seconds = time.perf_counter() - started
    retie_vectors(left, apart)
    error = 0.0
    one, other = Session.of(original), Session.of(left)
    for batch in samples.batches():
        before, after = one.run(batch.feeds), other.run(batch.feeds)
        for name, array in before.items():
            if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                scale = np.abs(array).max(initial=0) or 1.0
                # Not max(): that would pass over NaN.
                error = float(np.maximum(error, np.abs(array - after[name]).max(initial=0) / scale))
    return found, error, seconds


if __name__ == "__main__":
    sys.exit(main())
