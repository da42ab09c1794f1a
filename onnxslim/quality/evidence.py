"""What a metric is chosen by: a model's inputs and outputs, what it gives on a few samples, which op makes that."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Batch, Samples
from onnxslim.runtime.session import Session, TensorSpec

MOST_SAMPLES, MOST_BYTES = 8, 250_000_000
"""Samples that are looked at, and bytes of their outputs, at most: enough to see what sums to one, and little time."""

MOVING = frozenset(
    {
        "Cast",
        "Concat",
        "Flatten",
        "Gather",
        "Identity",
        "ReduceMean",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Ops that hand values on as they are, or their mean: what makes the values stands before them."""


@dataclasses.dataclass(frozen=True)
class OutputEvidence:
    """One output of the original."""

    spec: TensorSpec
    """Its name, type and declared shape."""
    values: tuple[Any, ...]
    """What it was on each run: arrays, or lists and dicts."""
    ops: tuple[str, ...]
    """Types of the ops that make it, past those that only move values (`MOVING`); several behind a Concat."""

    @property
    def name(self) -> str:
        """The name of the output."""
        return self.spec.name

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The values, where they are arrays; none for sequences and maps."""
        return tuple(value for value in self.values if isinstance(value, np.ndarray))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape on the first run; () where it is no array."""
        return self.arrays[0].shape if self.arrays else ()

    @property
    def is_float(self) -> bool:
        """Whether it is a tensor of floating-point numbers."""
        return bool(self.arrays) and all(array.dtype.kind == "f" for array in self.arrays)

    @property
    def flat(self) -> npt.NDArray[np.float64]:
        """All finite values in one row, as float64; empty where it holds no numbers."""
        numbers = [array.reshape(-1) for array in self.arrays if array.dtype.kind in "fiub"]
        joined = np.concatenate(numbers).astype(np.float64) if numbers else np.zeros(0)
        return joined[np.isfinite(joined)]

    @property
    def in_unit(self) -> bool:
        """Whether every number lies within 0 to 1, as probabilities do."""
        values = self.flat
        return bool(values.size) and bool((values >= -1e-6).all() and (values <= 1 + 1e-4).all())

    def sums_to_one(self, axis: int) -> bool:
        """Whether the numbers along an axis are probabilities of things that exclude each other."""
        if not self.in_unit or any(array.ndim < 2 or array.shape[axis] < 2 for array in self.arrays):
            return False
        sums = [array.astype(np.float64).sum(axis=axis) for array in self.arrays]
        return all(bool(np.allclose(each, 1, atol=2e-3)) for each in sums)

    def made_by(self, *ops: str) -> bool:
        """Whether one of these ops makes it."""
        return bool(set(ops) & set(self.ops))


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of a model when its metric is chosen."""

    inputs: tuple[TensorSpec, ...]
    feeds: tuple[Mapping[str, Any], ...]
    """The inputs of each run."""
    outputs: tuple[OutputEvidence, ...]
    counts: tuple[int, ...]
    """How many samples each run was of."""
    labels: npt.NDArray[Any] | None
    """The labels of the first run, where there are any."""
    synthetic: bool
    """The samples were made up: values say little."""
    named: bool = False
    """The user named the metric: only shapes must fit."""

    @property
    def images(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the inputs that look like images: [N, 1 or 3 or 4, H, W] or [N, H, W, 1 or 3 or 4]."""
        found = []
        for spec in self.inputs:
            shape: tuple[int, ...] = np.shape(self.feeds[0].get(spec.name, ())) if self.feeds else ()
            if len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) >= 8:
                found.append((shape[2], shape[3]))
            elif len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) >= 8:
                found.append((shape[1], shape[2]))
        return tuple(found)

    @property
    def tokens(self) -> str | None:
        """The name of the first input that holds token ids, integers [N, T]; None where no input does."""
        for spec in self.inputs:
            if spec.dtype is not None and spec.dtype.kind in "iu" and spec.dtype.itemsize >= 4 and len(spec.shape) == 2:
                return spec.name
        return None


def gather_evidence(session: Session, model: ir.Model, samples: Samples) -> Evidence:
    """Run the original on a few samples, and return what was seen.

    Args:
        session: The original, opened.
        model: The same, to see which ops make its outputs.
        samples: The first of them are run, one by one.

    Raises:
        RunError: The model does not run on them.
        DataError: The samples cannot be read.
    """
    batches: list[Batch] = []
    runs: list[dict[str, Any]] = []
    held = 0
    for batch in itertools.islice(samples.batches(1), MOST_SAMPLES):
        batches.append(batch)
        runs.append(session.run(batch.feeds))
        held += sum(getattr(output, "nbytes", 0) for output in runs[-1].values())
        if held > MOST_BYTES:
            break
    makers = {value.name: maker_ops(value) for value in model.graph.outputs}
    outputs = tuple(
        OutputEvidence(spec, tuple(run[spec.name] for run in runs), makers.get(spec.name, ()))
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


def maker_ops(value: ir.Value) -> tuple[str, ...]:
    """Return the types of the ops that make the values of `value`, past those that only move them, each once."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting: list[ir.Value | None] = [value]
    while waiting:
        current = waiting.pop()
        node = None if current is None else current.producer()
        if current is None or node is None or id(current) in seen:
            continue
        seen.add(id(current))
        if node.op_type in MOVING and node.domain == "":
            waiting += reversed(node.inputs if node.op_type == "Concat" else node.inputs[:1])
        elif node.op_type == "If":
            position = node.outputs.index(current)
            waiting += [branch.as_graph().outputs[position] for branch in node.attributes.values()]
        else:
            found[node.op_type] = None
    return tuple(found)
