"""Measures how far the outputs of a model are off on few samples when something in it is changed, in one number.

Outputs count alike, and so do parts of an output whose values differ by more than a power of ten in magnitude: where
boxes in pixels and scores lie in one tensor, the scores would otherwise count for nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.data import Samples
from onnxslim.runtime.session import Session

BATCH = 8
"""Samples that run at once, where the model takes any number."""
LARGEST = 1e6
"""The relative error that stands for outputs that are not finite."""
APART = 10.0
"""Parts of an axis whose largest magnitudes differ by this factor are quantities of different scale."""
LONGEST = 4096
"""Axes longer than this are not taken apart: they are places, and not quantities."""

Floats = npt.NDArray[np.float64]
Feeds = Mapping[str, npt.NDArray[Any]]
Part = tuple[int, npt.NDArray[np.bool_]] | None
"""An axis and a mask along it; None: the whole."""


class OutputDeviation:
    """The error of the outputs of a model that is changed by some of its inputs.

    Args:
        session: The model.
        samples: Read once, and held.

    Raises:
        RunError: The model does not run on the samples.
    """

    def __init__(self, session: Session, samples: Samples) -> None:
        self._session = session
        used = {spec.name for spec in session.inputs}
        self._feeds = [
            {name: array for name, array in batch.feeds.items() if name in used} for batch in samples.batches(BATCH)
        ]
        self._wanted: list[dict[str, Floats]] = []
        self._parts: dict[str, list[Part]] = {}

    def refer(self, settings: Feeds) -> None:
        """Take the outputs with these inputs for what is right."""
        self._wanted = self._run(settings)
        names = self._wanted[0] if self._wanted else {}
        self._parts = {name: parts([outputs[name] for outputs in self._wanted]) for name in names}

    def __call__(self, settings: Feeds) -> float:
        """Return the energy of the error with these inputs, as a share of that of the outputs: the mean over parts."""
        made = self._run(settings)
        shares: list[float] = []
        for name, own in self._parts.items():
            pairs = [(one[name], two[name]) for one, two in zip(self._wanted, made, strict=True)]
            for part in own:
                energy = error = 0.0
                for wanted, found in pairs:
                    right = _cut(wanted, part)
                    energy += float(np.square(right).sum())
                    error += float(np.square(right - _cut(found, part)).sum())
                if energy > 0:
                    shares.append(error / energy)
        mean = float(np.mean(shares)) if shares else 0.0
        return mean if np.isfinite(mean) else LARGEST

    def _run(self, settings: Feeds) -> list[dict[str, Floats]]:
        made = []
        for feeds in self._feeds:
            results = {name: np.asarray(array) for name, array in self._session.run({**feeds, **settings}).items()}
            made.append(
                {
                    name: np.atleast_1d(array.astype(np.float64))
                    for name, array in results.items()
                    if array.dtype.kind == "f"
                }
            )
        return made


def _cut(array: Floats, part: Part) -> Floats:
    return array if part is None else np.compress(part[1], array, part[0])


def parts(outputs: list[Floats]) -> list[Part]:
    """Return the parts of an output that hold quantities of different scale.

    The axis behind the first that counts is the one along which magnitudes lie furthest apart; it is cut wherever the
    next larger magnitude is more than `APART` times as large.

    Args:
        outputs: The output for each run.
    """
    shapes = {output.shape[1:] for output in outputs}
    if len(shapes) != 1 or not all(output.size for output in outputs):
        return [None]
    widest, found = APART, list[Part]([None])
    rank = outputs[0].ndim
    for axis in range(1, rank):
        if not 2 <= outputs[0].shape[axis] <= LONGEST:
            continue
        others = tuple(other for other in range(rank) if other != axis)
        magnitudes = np.max([np.abs(output).max(axis=others) for output in outputs], axis=0)
        ordered = np.sort(magnitudes[magnitudes > 0])
        gaps = ordered[1:] / ordered[:-1]
        if gaps.max(initial=0.0) > widest:
            widest = float(gaps.max())
            borders = [0.0, *ordered[1:][gaps > APART], np.inf]
            found = [(axis, (magnitudes >= low) & (magnitudes < high)) for low, high in itertools.pairwise(borders)]
    return found
