"""Looks at some of the samples before anything is made of them, and says what is wrong with them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.cost import count_macs
from onnxslim.checks.answers import check_answers
from onnxslim.checks.preparation import PARTS, check_preparation
from onnxslim.checks.values import SHARE, check_values, digests
from onnxslim.data import Batch, Samples
from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import RunError
from onnxslim.fit.refit import FEWEST
from onnxslim.runtime.session import Session

LOOKED_AT = 256
"""Samples that are looked at, at most: the order of colours shows on so many."""
HELD = 2.5e8
"""Bytes of them that are held."""
RUNS = 5e10
"""Multiply-accumulates that running them may take: a few seconds on two cores."""
FEWEST_RUN = 32


def examine(
    model: ir.Model,
    session: Session,
    calibration: Samples,
    validation: Samples | None,
    open_session: Callable[[ir.Model], Session],
    seed: int,
    *,
    lossy: Sequence[str] = (),
    classes: str | None = None,
) -> tuple[Diagnostic, ...]:
    """Return what is wrong with the samples, as warnings. Those that are looked at are drawn with the seed.

    Args:
        model: The original, as it was opened; not changed.
        session: The original, opened.
        calibration: Samples that calibrate.
        validation: Samples of another source that measure; None: they are part of the same.
        open_session: Opens a model on the target.
        seed: Of the draw.
        lossy: Names of the passes that will learn from the samples.
        classes: The output that holds a score for each class; None: there is none.

    Raises:
        DataError: The samples cannot be read.
    """
    batches = _drawn(calibration, seed)
    found = [*_few(calibration.count, lossy), *check_values(batches)]
    if validation is not None:
        found += _shared(batches, _drawn(validation, seed))
    shapes = {name: array.shape for name, array in batches[0].feeds.items() if hasattr(array, "shape")}
    affordable = max(FEWEST_RUN, int(RUNS * batches[0].count / max(count_macs(model, shapes), 1)))
    totals = itertools.accumulate(batch.count for batch in batches)
    run = [batch for batch, total in zip(batches, totals, strict=True) if total <= affordable] or batches[:1]
    # Several samples at once, or pieces of the model, may not run: then nothing is told.
    if lossy:
        with contextlib.suppress(RunError):
            found += check_answers(session, run, classes)
    with contextlib.suppress(RunError):
        found += check_preparation(model, run, open_session, seed)
    return tuple(found)


def _drawn(samples: Samples, seed: int) -> list[Batch]:
    first = samples.first()
    size = sum(getattr(array, "nbytes", 8) for array in first.values())
    drawn = samples.draw(int(min(LOOKED_AT, max(FEWEST_RUN, HELD / max(size, 1)))), np.random.default_rng(seed))
    return list(drawn.batches(max(1, drawn.count // PARTS)))


def _few(count: int, lossy: Sequence[str]) -> list[Diagnostic]:
    if not lossy or count >= FEWEST:
        return []
    many = f"{count} sample{'s' * (count != 1)} for {', '.join(dict.fromkeys(lossy))}"
    why = f"weights are fitted on {FEWEST} and more only, and fewer tell ranges badly"
    return [Diagnostic("few-samples", f"{many}: {why}", f"give at least {FEWEST}, better 256")]


def _shared(one: Sequence[Batch], other: Sequence[Batch]) -> list[Diagnostic]:
    known = set(digests(one))
    same = sum(digest in known for digest in digests(other))
    count = sum(batch.count for batch in other)
    if same <= SHARE * count:
        return []
    return [
        Diagnostic(
            "shared-samples",
            f"{same} of {count} samples to measure with that were looked at also calibrate",
            "measure on others: what was learned from is judged too well",
        )
    ]
