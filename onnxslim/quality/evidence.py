"""Evidence for the choice of a metric: a model's inputs and outputs, their values on samples, and their ops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Batch, Samples
from onnxslim.model.constants import CONSTANT
from onnxslim.ops.families.control_flow import branches
from onnxslim.ops.table import moved_inputs
from onnxslim.ops.traits import Trait, has
from onnxslim.runtime.session import Session, TensorSpec

MOST_SAMPLES, MOST_BYTES = 8, 250_000_000
"""Limits of the samples, and of the bytes of their outputs."""


@dataclasses.dataclass(frozen=True)
class OutputEvidence:
    """An output of the original, with its values on samples."""

    spec: TensorSpec
    """Name, type and declared shape."""
    values: tuple[Any, ...]
    """Value of each run: an array, list or dict."""
    ops: tuple[str, ...]
    """Types of the ops that compute it, before those that move, convert or average values; several if concatenated."""

    @property
    def name(self) -> str:
        """Name of the output."""
        return self.spec.name

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The values that are arrays; none for sequences and maps."""
        return tuple(value for value in self.values if isinstance(value, np.ndarray))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the first run; () if the value is not an array."""
        return self.arrays[0].shape if self.arrays else ()

    @property
    def is_float(self) -> bool:
        """Whether the output is a tensor of floats."""
        return bool(self.arrays) and all(array.dtype.kind == "f" for array in self.arrays)

    @property
    def flat(self) -> npt.NDArray[np.float64]:
        """All finite values as a float64 vector; empty if they are not numbers."""
        numbers = [array.reshape(-1) for array in self.arrays if array.dtype.kind in "fiub"]
        joined = np.concatenate(numbers).astype(np.float64) if numbers else np.zeros(0)
        return joined[np.isfinite(joined)]

    @property
    def in_unit(self) -> bool:
        """Whether all values are within 0 to 1, as probabilities are."""
        return within_unit(self.flat)

    def sums_to_one(self, axis: int) -> bool:
        """Return whether the values along an axis are probabilities of exclusive classes."""
        if not self.in_unit or any(array.ndim < 2 or array.shape[axis] < 2 for array in self.arrays):
            return False
        sums = [array.astype(np.float64).sum(axis=axis) for array in self.arrays]
        return all(bool(np.allclose(total, 1, atol=2e-3)) for total in sums)

    def made_by(self, *traits: Trait) -> bool:
        """Return whether an op with one of these traits computes the output."""
        return any(op_type in self.ops for trait in traits for _, op_type in trait.ops)

    @property
    def is_stored(self) -> bool:
        """Whether the output, or a part of it, is a constant of the model."""
        return CONSTANT[1] in self.ops


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Inputs, outputs and labels of a model on a few samples."""

    inputs: tuple[TensorSpec, ...]
    feeds: tuple[Mapping[str, Any], ...]
    """Inputs of each run."""
    outputs: tuple[OutputEvidence, ...]
    counts: tuple[int, ...]
    """Number of samples of each run."""
    labels: npt.NDArray[Any] | None
    """Labels of the first run; None without labels."""
    synthetic: bool
    """Whether the samples are synthetic, so that values mean little."""
    named: bool = False
    """Whether the user named the metric, so that only shapes must fit."""

    @property
    def images(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the inputs that are images: [N, 1 or 3 or 4, H, W] or [N, H, W, 1 or 3 or 4]."""
        found = []
        for spec in self.inputs:
            given = self.feeds[0].get(spec.name) if self.feeds else None
            shape: tuple[int, ...] = getattr(given, "shape", ())  # a sequence is a list
            if len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) >= 8:
                found.append((shape[2], shape[3]))
            elif len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) >= 8:
                found.append((shape[1], shape[2]))
        return tuple(found)

    @property
    def tokens(self) -> str | None:
        """Name of the first input of token ids, integers [N, T]; None if there is none."""
        for spec in self.inputs:
            if spec.dtype is not None and spec.dtype.kind in "iu" and spec.dtype.itemsize >= 4 and len(spec.shape) == 2:
                return spec.name
        return None


def gather_evidence(session: Session, model: ir.Model, samples: Samples) -> Evidence:
    """Return the evidence from running the original on the first few samples, one at a time.

    `model` tells which ops compute its outputs.

    Raises:
        RunError: The model does not run on the samples.
        DataError: The samples cannot be read.
    """
    batches: list[Batch] = []
    runs: list[dict[str, Any]] = []
    total_bytes = 0
    for batch in itertools.islice(samples.batches(1), MOST_SAMPLES):
        batches.append(batch)
        runs.append(session.run(batch.feeds))
        total_bytes += sum(getattr(output, "nbytes", 0) for output in runs[-1].values())
        if total_bytes > MOST_BYTES:
            break
    producers = {value.name: producer_ops(value) for value in model.graph.outputs}
    outputs = tuple(
        OutputEvidence(spec, tuple(run[spec.name] for run in runs), producers.get(spec.name, ()))
        for spec in session.outputs
    )
    return Evidence(
        inputs=session.inputs,
        feeds=tuple(batch.feeds for batch in batches),
        outputs=outputs,
        counts=tuple(batch.count for batch in batches),
        labels=batches[0].labels if batches else None,
        synthetic=samples.synthetic,
    )


def within_unit(values: npt.NDArray[np.float64]) -> bool:
    """Return whether there are values, and all are within 0 to 1, as probabilities are."""
    return bool(values.size) and bool((values >= -1e-6).all() and (values <= 1 + 1e-4).all())


def producer_ops(value: ir.Value) -> tuple[str, ...]:
    """Return the distinct types of the ops that compute `value`, before those that only move values."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting: list[ir.Value | None] = [value]
    while waiting:
        current = waiting.pop()
        node = None if current is None else current.producer()
        if current is None or node is None or id(current) in seen:
            continue
        seen.add(id(current))
        passed = has(node, Trait.CONVERTS) or has(node, Trait.AVERAGES)
        indices = (0,) if passed else moved_inputs(node)
        if indices:
            waiting += [node.inputs[index] for index in reversed(indices)]
        elif (pair := branches(node)) is not None:
            waiting += [branch.outputs[node.outputs.index(current)] for branch in pair]
        else:
            found[node.op_type] = None
    return tuple(found)
