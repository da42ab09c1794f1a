"""How many samples run at once while a model is observed."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxslim.analysis.specialize import infer_at
from onnxslim.data import Batch, Samples

FEWEST_BATCHES = 8
"""Every fourth batch is held out where damping is chosen, and one batch is too few for that."""
LARGEST_BATCH = 32
"""With more samples at once products of matrices hardly get faster."""
BYTES = 64_000_000
"""Bytes of the largest value of one run; some three of that size are alive at once."""


def batch_size(model: ir.Model, samples: Samples, at_least: int = 1) -> int:
    """Return how many samples run at once, where the model takes any number.

    Args:
        model: The model that they run through; it is not changed.
        samples: All that will run.
        at_least: How many batches there are at least, where there are as many samples.
    """
    view = infer_at(model, {name: array.shape for name, array in samples.first().items()})
    shapes = (view.shape(value) for node in model.graph for value in node.outputs)
    largest = max((4 * math.prod(size or 1 for size in shape) for shape in shapes if shape is not None), default=1)
    return max(1, min(LARGEST_BATCH, samples.count // at_least, BYTES // max(largest, 1)))


def held_batches(model: ir.Model, samples: Samples) -> list[Batch]:
    """Return all samples in batches, enough of them to hold every fourth out.

    Args:
        model: The model that they run through; it is not changed.
        samples: Read once.
    """
    return list(samples.batches(batch_size(model, samples, at_least=FEWEST_BATCHES)))
