"""The fidelity of one session against another over samples, without a metric."""

from __future__ import annotations

import numpy as np

from onnxslim.data import Samples
from onnxslim.quality.fidelity import Fidelity, add_run, start_tallies, summarize
from onnxslim.runtime.session import Session


def measure_fidelity(
    reference: Session, candidate: Session, samples: Samples, generator: np.random.Generator, size: int | None = None
) -> Fidelity:
    """Return the fidelity of a candidate, from running both models, with equal output names, on all samples."""
    tallies = start_tallies([spec.name for spec in reference.outputs])
    for batch in samples.batches(size):
        add_run(tallies, *(side.run(batch.feeds, list(tallies)) for side in (reference, candidate)), batch.count)
    return summarize(list(tallies.values()), generator)
