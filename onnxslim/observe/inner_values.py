"""How far the values inside two models are apart, where both have them by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.analysis.cost import value_bytes
from onnxslim.data import Samples
from onnxslim.runtime.session import Session

MOST_BYTES = 200_000_000
"""Bytes of values that are looked at in one run."""
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclasses.dataclass
class ValueDeviation:
    """How far one value is from what it was, over all samples."""

    signal: float = 0.0
    """Energy of the value in the one model."""
    noise: float = 0.0
    """Energy of the difference."""
    reason: str | None = None
    """Why the two cannot be compared."""

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise in decibels; None where nothing differs, or where the two cannot be compared."""
        if self.reason is not None or self.noise == 0 or self.signal == 0:
            return None
        return 10 * math.log10(self.signal / self.noise)

    def add(self, one: Any, other: Any) -> None:
        """Compare what the two models gave for one sample."""
        if np.shape(one) != np.shape(other):
            self.reason = f"another shape: {list(np.shape(other))}, which was {list(np.shape(one))}"
            return
        wanted, given = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if not (np.isfinite(wanted).all() and np.isfinite(given).all()):
            self.reason = "it is not finite"
            return
        self.signal += float(np.vdot(wanted, wanted))
        self.noise += float(np.vdot(wanted - given, wanted - given))


def compare_values(
    before: ir.Model,
    after: ir.Model,
    names: Sequence[str],
    samples: Samples,
    open_session: Callable[[ir.Model], Session],
) -> dict[str, ValueDeviation]:
    """Return how far the values `names` of `after` are from those of `before`; those that are no floats are left out.

    Both models compute all of them, so that ONNX Runtime fuses less than it does for users: the numbers are those of
    the nodes as they are written.

    Args:
        before: The one model; its values must have types (`infer_shapes`). Not changed.
        after: The other. Not changed.
        names: Values of both main graphs.
        samples: Run one by one.
        open_session: Opens a model.

    Raises:
        RunError: A model does not run on the samples.
        DataError: The samples cannot be read.
    """
    made = {output.name: output for node in before.graph for output in node.outputs if output.name}
    values = [made[name] for name in names if name in made and made[name].dtype in FLOATS]
    if not values:
        return {}
    sessions = [open_session(_exposed(model, values)) for model in (before, after)]
    found = {str(value.name): ValueDeviation() for value in values}
    for batch in samples.batches():
        for part in _parts(values):
            one, other = (session.run(batch.feeds, part) for session in sessions)
            for name in part:
                found[name].add(one[name], other[name])
    return found


def _exposed(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """Return a copy of `model` whose outputs are `values`, by name."""
    copy = model.clone()
    made = {output.name: output for node in copy.graph for output in node.outputs}
    copy.graph.outputs.clear()
    for value in values:
        own = made[value.name]
        own.type = own.type or value.type
        copy.graph.outputs.append(own)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(copy)
    return copy


def _parts(values: Sequence[ir.Value]) -> Iterator[list[str]]:
    """Yield names of values that together are small enough for one run."""
    part: list[str] = []
    size = 0
    for value in values:
        if part and size + value_bytes(value) > MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(str(value.name))
        size += value_bytes(value)
    if part:
        yield part
