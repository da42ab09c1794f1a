"""Checks some of the samples before they are used, and returns their problems as warnings."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import count_macs
from onnxslim.checks.outputs import check_outputs
from onnxslim.checks.preparation import PARTS, check_preparation
from onnxslim.checks.values import SHARE, check_values, digests
from onnxslim.data import Batch, Samples
from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import RunError
from onnxslim.fit.refit import FEWEST
from onnxslim.runtime.session import OpenSession, Session

MAX_SAMPLES = 256
"""Maximum of samples that are checked, enough to detect a wrong order of colours."""
MAX_BYTES = 2.5e8
"""Limit of the bytes of these samples."""
MAX_MACS = 5e10
"""Limit of the multiply-accumulates of running them: a few seconds on two cores."""
MIN_RUN = 32


def examine(
    model: ir.Model,
    session: Session,
    calibration: Samples,
    validation: Samples | None,
    open_session: OpenSession,
    seed: int,
    *,
    lossy: Sequence[str],
    classes: str | None,
) -> tuple[Diagnostic, ...]:
    """Return the problems of the samples as warnings; none where an input is a sequence, or nothing.

    Args:
        model: The original in canonical form; not changed.
        session: Session of the original.
        calibration: Samples that calibrate.
        validation: Samples of another source that measure; None: they come from the same source.
        open_session: Opens a model on the target.
        seed: Draws the samples that are checked.
        lossy: Names of the passes that learn from the samples.
        classes: Name of the output with a score per class; None: there is none.

    Raises:
        DataError: The samples cannot be read.
    """
    batches = _drawn(calibration, seed)
    if not all(isinstance(array, np.ndarray) for batch in batches for array in batch.feeds.values()):
        return ()
    found = [*_few(calibration.count, lossy), *check_values(batches)]
    if validation is not None:
        found += _shared(batches, _drawn(validation, seed))
    shapes = {name: array.shape for name, array in batches[0].feeds.items()}
    affordable = max(MIN_RUN, int(MAX_MACS * batches[0].count / max(count_macs(model, shapes), 1)))
    totals = itertools.accumulate(batch.count for batch in batches)
    run = [batch for batch, total in zip(batches, totals, strict=True) if total <= affordable] or batches[:1]
    # several samples at once, or parts of the model, may not run: these checks are skipped then
    if lossy:
        with contextlib.suppress(RunError):
            found += check_outputs(session, run, classes)
    with contextlib.suppress(RunError):
        found += check_preparation(model, run, open_session, seed)
    return tuple(found)


def _drawn(samples: Samples, seed: int) -> list[Batch]:
    first = samples.first()
    size = sum(getattr(array, "nbytes", 8) for array in first.values())
    drawn = samples.draw(int(min(MAX_SAMPLES, max(MIN_RUN, MAX_BYTES / max(size, 1)))), np.random.default_rng(seed))
    return list(drawn.batches(max(1, drawn.count // PARTS)))


def _few(count: int, lossy: Sequence[str]) -> list[Diagnostic]:
    if not lossy or count >= FEWEST:
        return []
    samples = f"{count} sample{'s' * (count != 1)} for {', '.join(dict.fromkeys(lossy))}"
    reason = f"weights are fitted on {FEWEST} and more only, and fewer tell ranges badly"
    return [Diagnostic("few-samples", f"{samples}: {reason}", f"give at least {FEWEST}, better 256")]


def _shared(calibration: Sequence[Batch], validation: Sequence[Batch]) -> list[Diagnostic]:
    known = set(digests(calibration))
    same = sum(digest in known for digest in digests(validation))
    count = sum(batch.count for batch in validation)
    if same <= SHARE * count:
        return []
    message = f"{same} of {count} samples to measure with that were looked at also calibrate"
    return [Diagnostic("shared-samples", message, "measure on others: what was learned from is judged too well")]
