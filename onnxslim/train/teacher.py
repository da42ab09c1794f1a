"""What a teacher gives for each batch: computed once for each sample where inputs stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxslim.arrays import Array
from onnxslim.observe.probe import run_on
from onnxslim.runtime.session import Session
from onnxslim.train.batches import LABELS, TrainingBatch

MOST_CACHED = 1 << 30
"""Bytes of outputs of the teacher that are kept; where there are more, it runs anew in each epoch."""


class Teacher:
    """Gives the targets of a training.

    Args:
        session: The teacher; None where labels are the only target.
        targets: The output of the teacher that each target is.
        count: How many samples there are.
        cached: Whether a sample gives the same each time.
    """

    def __init__(self, session: Session | None, targets: Mapping[str, str], count: int, *, cached: bool) -> None:
        self._session = session
        self._targets = targets
        self._count = count
        self._cached = cached
        self._known = np.zeros(count, bool)
        self._kept: dict[str, Array] = {}

    def __call__(self, batch: TrainingBatch) -> Mapping[str, Array]:
        """Return the targets of a batch, labels among them where it has any.

        Raises:
            RunError: The teacher does not run.
        """
        labels = {} if batch.labels is None else {LABELS: batch.labels}
        if self._session is None:
            return labels
        if self._cached and self._known[batch.positions].all():
            return {**labels, **{name: array[batch.positions] for name, array in self._kept.items()}}
        outputs = run_on(self._session, batch.feeds, sorted(set(self._targets.values())))
        found = {name: np.asarray(outputs[output]) for name, output in self._targets.items()}
        if self._cached:
            self._keep(batch, found)
        return {**labels, **found}

    def _keep(self, batch: TrainingBatch, found: Mapping[str, Array]) -> None:
        if not self._kept:
            size = len(batch.positions)
            whole = all(_is_by_sample(array, size) for array in found.values())
            if not whole or sum(array.nbytes for array in found.values()) // size * self._count > MOST_CACHED:
                self._cached = False
                return
            self._kept = {name: np.empty((self._count, *array.shape[1:]), array.dtype) for name, array in found.items()}
        for name, array in found.items():
            self._kept[name][batch.positions] = array
        self._known[batch.positions] = True


def _is_by_sample(array: Array, size: int) -> bool:
    """Whether the rows of an output are those of the samples of a batch, and no other axis could be theirs (as where an
    output of shape [steps, N, classes] has as many steps)."""
    return array.shape[:1] == (size,) and (size == 1 or array.shape.count(size) == 1)
