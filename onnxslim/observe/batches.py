"""How many samples run at once while a model is observed."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx_ir as ir

from onnxslim.analysis.specialize import infer_at
from onnxslim.data import Batch, Samples
from onnxslim.model.nesting import nodes_within

FEWEST_BATCHES = 8
"""Every fourth batch is held out where damping is chosen, and one batch is too few for that."""
LARGEST_BATCH = 32
"""With more samples at once products of matrices hardly get faster."""
BYTES = 64_000_000
"""Bytes of the largest value of one run; some three of that size are alive at once."""
KEPT_BYTES = 4 * BYTES
"""Bytes of all values of one run that are looked at, which are alive together."""


def batch_size(model: ir.Model, samples: Samples, at_least: int = 1, kept: Collection[str] = ()) -> int:
    """Return how many samples run at once, where the model takes any number; 1 where no shape is known.

    Args:
        model: The model that they run through; it is not changed.
        samples: All that will run.
        at_least: How many batches there are at least, where there are as many samples.
        kept: Names of values that are all looked at after a run.
    """
    view = infer_at(model, {name: array.shape for name, array in samples.first().items()})
    values = [*model.graph.inputs, *(value for node in nodes_within(model.graph) for value in node.outputs)]
    sizes = {
        value.name: (4 if value.dtype is None else value.dtype.itemsize) * math.prod(size or 1 for size in shape)
        for value in values
        if (shape := view.shape(value)) is not None
    }
    if not sizes:
        return 1
    together = sum(size for name, size in sizes.items() if name in kept)
    most = min(BYTES // max(*sizes.values(), 1), KEPT_BYTES // max(together, 1))
    return max(1, min(LARGEST_BATCH, samples.count // at_least, int(most)))


def held_batches(model: ir.Model, samples: Samples) -> list[Batch]:
    """Return all samples, which are read once, in batches for `model`: enough of them to hold every fourth out."""
    return list(samples.batches(batch_size(model, samples, at_least=FEWEST_BATCHES)))
