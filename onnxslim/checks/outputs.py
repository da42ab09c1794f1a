"""Checks of the original's outputs on samples: a single class for all, or constant outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic
from onnxslim.runtime.session import Session

FEWEST = 16
"""Minimum of samples: fewer may be of one class by chance."""
CONSTANT = 1e-3
"""Outputs whose deviation over the samples is below this share of their root mean square are constant."""


def check_outputs(session: Session, batches: Sequence[Batch], classes: str | None) -> list[Diagnostic]:
    """Return a warning if the original puts all samples into one class, or gives constant outputs.

    `classes` is the name of the output with a score per class, [N, C]; None: there is none.

    Raises:
        RunError: The model does not run on the samples.
    """
    count = sum(batch.count for batch in batches)
    if count < FEWEST:
        return []
    runs = [session.run(batch.feeds) for batch in batches]
    if classes is not None and all(
        np.shape(outputs[classes])[:1] == (batch.count,) for outputs, batch in zip(runs, batches, strict=True)
    ):
        scores = [np.asarray(outputs[classes]) for outputs in runs]
        predicted = {int(best) for array in scores if array.ndim == 2 for best in array.argmax(1)}
        if len(predicted) == 1:
            message = f"the original puts all of {count} samples into one class, number {predicted.pop()}"
            hint = "give samples of all classes, and see that they are prepared as in training"
            return [Diagnostic("one-class", message, hint)]
    stacked = [
        np.concatenate([np.asarray(outputs[name], np.float64).reshape(1, -1) for outputs in runs])
        for name, first in runs[0].items()
        if isinstance(first, np.ndarray)
        and first.dtype.kind == "f"
        and len({np.shape(outputs[name]) for outputs in runs}) == 1
    ]
    spread = [np.sqrt(array.var(0).mean()) / max(float(np.sqrt(np.square(array).mean())), 1e-30) for array in stacked]
    if len(runs) > 1 and spread and max(spread) < CONSTANT:
        differ = f"its outputs differ by {max(spread):.1e} of their size"
        message = f"the original gives nearly the same for all of {count} samples: {differ}"
        return [Diagnostic("constant-outputs", message, "see that the samples are prepared as in training")]
    return []
