"""Measures how far values of a model are from what they were: the energy of the difference against their own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import value_bytes
from onnxslim.chunks import chunks
from onnxslim.data import Samples
from onnxslim.observe.finite import FLOATS
from onnxslim.observe.probe import truncated
from onnxslim.runtime.session import OpenSession

MOST_BYTES = 200_000_000
"""Bytes of values that one run returns."""


@dataclasses.dataclass
class Deviation:
    """How far one value is from its reference, over all runs."""

    signal: float = 0.0
    """Energy of the reference."""
    noise: float = 0.0
    """Energy of the difference."""
    reason: str | None = None
    """Why the two cannot be compared."""

    @property
    def relative(self) -> float | None:
        """The noise as a share of the signal; None where there is no signal, or where the two cannot be compared."""
        return self.noise / self.signal if self.reason is None and self.signal else None

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise in decibels; None where nothing differs, or where the two cannot be compared."""
        return -10 * math.log10(self.relative) if self.relative else None

    def add(self, reference: Any, given: Any) -> None:
        """Add the value of one run."""
        if np.shape(reference) != np.shape(given):
            self.reason = f"another shape: {list(np.shape(given))}, which was {list(np.shape(reference))}"
            return
        signal = np.asarray(reference, np.float64)
        noise = signal - np.asarray(given, np.float64)
        if not (np.isfinite(signal).all() and np.isfinite(noise).all()):
            self.reason = "it is not finite"
            return
        self.signal += float(np.vdot(signal, signal))
        self.noise += float(np.vdot(noise, noise))


def compare_values(
    before: ir.Model,
    after: ir.Model,
    names: Sequence[str],
    samples: Samples,
    open_session: OpenSession,
) -> dict[str, Deviation]:
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
    probes = [truncated(model, [str(value.name) for value in values]) for model in (before, after)]
    for output, value in zip(probes[1].graph.outputs, values, strict=True):
        output.type = output.type or value.type
    sessions = [open_session(probe) for probe in probes]
    found = {str(value.name): Deviation() for value in values}
    for batch in samples.batches():
        for chunk in chunks(values, value_bytes, MOST_BYTES):
            part = [str(value.name) for value in chunk]
            reference, given = (session.run(batch.feeds, part) for session in sessions)
            for name in part:
                found[name].add(reference[name], given[name])
    return found
