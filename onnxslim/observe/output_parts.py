"""Tells the parts of an output that hold quantities of different scale: boxes in pixels beside scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array

APART = 10.0
"""Parts of an axis whose magnitudes differ by this factor in every sample are quantities of different scale."""
LEAST = 1e-5
"""Share of the largest magnitude of all below which there is no quantity: it is rounding, or was not seen."""
LONGEST = 4096
"""Axes longer than this are not taken apart: they are positions, and not quantities."""

Part = tuple[int, npt.NDArray[np.bool_]] | None
"""An axis and a mask along it; None: the whole."""


def cut(array: Array, part: Part) -> Array:
    """Return a part of an output."""
    return array if part is None else np.compress(part[1], array, part[0])


def parts(outputs: Sequence[Array]) -> list[Part]:
    """Return the parts of an output that hold quantities of different scale; see `Magnitudes`.

    Args:
        outputs: The output for each run; samples lie along its first axis.
    """
    magnitudes = Magnitudes()
    for output in outputs:
        magnitudes.add(output)
    return magnitudes.parts()


class Magnitudes:
    """The largest magnitudes of an output along its axes, in each sample, which tell the parts of different scale.

    The axis behind the first that counts is the one along which magnitudes lie furthest apart; it is cut wherever in
    every sample all magnitudes on one side are more than `APART` times as large as all on the other. What is small in
    most samples only is a place where little was seen, or a class that is rare, and the same quantity. Samples that are
    zero everywhere tell nothing.
    """

    def __init__(self) -> None:
        self._shapes: set[tuple[int, ...]] = set()
        self._seen: dict[int, list[Array]] = {}
        """By axis: of each run, shape [samples, size of the axis]."""

    def add(self, output: Array, *, together: bool = False) -> None:
        """Add the output of a run; samples lie along its first axis, unless all of it is of one sample `together`."""
        self._shapes.add(output.shape[1:])
        if not output.size:
            return
        magnitudes = np.abs(output)
        for axis in range(1, output.ndim):
            if 2 <= output.shape[axis] <= LONGEST:
                others = tuple(index for index in range(output.ndim) if index != axis and (index or together))
                self._seen.setdefault(axis, []).append(magnitudes.max(axis=others).reshape(-1, output.shape[axis]))

    def parts(self) -> list[Part]:
        """Return an axis and a mask along it for each part; None for the whole."""
        widest, found = APART, list[Part]([None])
        for axis, seen in self._seen.items() if len(self._shapes) == 1 else ():
            magnitudes = np.concatenate(seen).astype(np.float64)
            magnitudes = magnitudes[magnitudes.any(axis=1)]
            largest = magnitudes.max(axis=0, initial=0.0)
            nothing = LEAST * float(largest.max())
            order = np.argsort(largest, kind="stable")[np.count_nonzero(largest <= nothing) :]
            below = np.maximum.accumulate(magnitudes[:, order], axis=1)[:, :-1]
            above = np.minimum.accumulate(magnitudes[:, order[::-1]], axis=1)[:, -2::-1]
            gaps = np.min(above / np.maximum(below, nothing), axis=0, initial=np.inf)
            if gaps.max(initial=0.0) > widest:
                widest = float(gaps.max())
                borders = [0.0, *largest[order[1:]][gaps > APART], np.inf]
                found = [(axis, (largest >= low) & (largest < high)) for low, high in itertools.pairwise(borders)]
        return found
