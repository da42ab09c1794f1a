"""Looks at what the original makes of samples: one class for all, or always the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic
from onnxslim.runtime.session import Session

FEWEST = 16
"""Of fewer samples chance may put all into one class."""
CONSTANT = 1e-3
"""Outputs whose spread over the samples is less than this share of their size do not depend on the samples."""


def check_answers(session: Session, batches: Sequence[Batch], classes: str | None) -> list[Diagnostic]:
    """Return a warning where the original puts all samples into one class, or gives the same for all.

    Args:
        session: The original.
        batches: Samples.
        classes: The output that holds a score for each class, [N, C]; None: there is none.

    Raises:
        RunError: The model does not run on them.
    """
    count = sum(batch.count for batch in batches)
    if count < FEWEST:
        return []
    answers = [session.run(batch.feeds) for batch in batches]
    if classes is not None and all(
        np.shape(each[classes])[:1] == (b.count,) for each, b in zip(answers, batches, strict=True)
    ):
        scores = [np.asarray(each[classes]) for each in answers]
        chosen = {int(best) for each in scores if each.ndim == 2 for best in each.argmax(1)}
        if len(chosen) == 1:
            return [
                Diagnostic(
                    "one-class",
                    f"the original puts all of {count} samples into one class, number {chosen.pop()}",
                    "give samples of all classes, and see that they are prepared as in training",
                )
            ]
    outputs = [
        np.concatenate([np.asarray(each[name], np.float64).reshape(1, -1) for each in answers])
        for name, first in answers[0].items()
        if isinstance(first, np.ndarray)
        and first.dtype.kind == "f"
        and len({np.shape(each[name]) for each in answers}) == 1
    ]
    spread = [np.sqrt(each.var(0).mean()) / max(float(np.sqrt(np.square(each).mean())), 1e-30) for each in outputs]
    if len(answers) > 1 and spread and max(spread) < CONSTANT:
        return [
            Diagnostic(
                "constant-outputs",
                f"the original gives nearly the same for all of {count} samples: its outputs differ by "
                f"{max(spread):.1e} of their size",
                "see that the samples are prepared as in training",
            )
        ]
    return []
