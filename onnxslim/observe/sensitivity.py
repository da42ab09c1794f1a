"""Measures how far the outputs of a model are off on few samples when something in it is changed, in one number.

Outputs count alike, and so do parts of an output whose values differ by more than a power of ten in magnitude: where
boxes in pixels and scores lie in one tensor, the scores would otherwise count for nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Array, Floats
from onnxslim.data import Samples
from onnxslim.observe.batches import batch_size
from onnxslim.observe.deviation import Deviation
from onnxslim.observe.probe import Feeds, run_on
from onnxslim.runtime.session import OpenSession

NOT_FINITE = 1e6
"""The relative error that stands for an output that is not finite."""
ANOTHER_SHAPE = 1.0
"""The relative error of an output whose shape has changed: that of one that is lost."""
APART = 10.0
"""Parts of an axis whose largest magnitudes differ by this factor are quantities of different scale."""
LONGEST = 4096
"""Axes longer than this are not taken apart: they are positions, and not quantities."""

Run = Callable[[Feeds], Mapping[str, Any]]
"""Returns the outputs of a model by name."""
Part = tuple[int, npt.NDArray[np.bool_]] | None
"""An axis and a mask along it; None: the whole."""


class OutputDeviation:
    """The error of the outputs of changed versions of a model, beside those of the model as it is.

    Args:
        reference: Runs the model as it is.
        runs: The inputs of each run.

    Raises:
        RunError: The model does not run.
    """

    def __init__(self, reference: Run, runs: Sequence[Feeds]) -> None:
        self._runs = runs
        self._reference = list(self._outputs(reference))
        names = self._reference[0] if self._reference else {}
        outputs = {name: [made[name] for made in self._reference] for name in names}
        self._parts = {
            name: parts(arrays) for name, arrays in outputs.items() if all(np.isfinite(array).all() for array in arrays)
        }

    @classmethod
    def on(cls, model: ir.Model, samples: Samples, open_session: OpenSession) -> OutputDeviation:
        """Return the error of the outputs beside those of `model` on all of `samples`, as many at once as it takes.

        Raises:
            RunError: The model does not run.
        """
        feeds = [batch.feeds for batch in samples.batches(batch_size(model, samples))]
        return cls(functools.partial(run_on, open_session(model)), feeds)

    def __call__(self, changed: Run) -> float:
        """Return the energy of the error where `changed` runs the model, as a share of that of the outputs: the mean
        over their parts.

        Raises:
            RunError: The changed model does not run.
        """
        deviations = {name: [Deviation() for _ in own] for name, own in self._parts.items()}
        lost: set[str] = set()
        for wanted, given in zip(self._reference, self._outputs(changed), strict=True):
            for name, own in self._parts.items():
                reference, array = wanted[name], given.get(name)
                if array is None or array.shape != reference.shape:
                    lost.add(name)
                    continue
                for part, deviation in zip(own, deviations[name], strict=True):
                    deviation.add(_cut(reference, part), _cut(array, part))
        errors = [
            ANOTHER_SHAPE if name in lost else deviation.relative if deviation.reason is None else NOT_FINITE
            for name, own in deviations.items()
            for deviation in own
        ]
        known = [error for error in errors if error is not None]
        return float(np.mean(known)) if known else 0.0

    def _outputs(self, run: Run) -> Iterator[dict[str, Array]]:
        """Yield the outputs of floats of each run, of rank 1 or more: those of the next when these are done with."""
        for feeds in self._runs:
            results = {name: np.asarray(array) for name, array in run(feeds).items()}
            yield {name: np.atleast_1d(array) for name, array in results.items() if array.dtype.kind == "f"}


def output_weights(made: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Return weights for the elements of each output of real numbers, of its shape: the energy of an error, weighed by
    them and summed over all runs, is what `OutputDeviation` says of it. Outputs that are zero, not finite, of
    several shapes, or no tensors are left out.

    Args:
        made: The outputs of each run, by name.
    """
    found: dict[str, list[tuple[Part, float]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in made[0]:
        if any(isinstance(outputs[name], (list, dict)) for outputs in made):
            continue
        arrays = [np.asarray(outputs[name]) for outputs in made]
        if arrays[0].dtype.kind != "f" or len({array.shape for array in arrays}) > 1:
            continue
        if not all(np.isfinite(array).all() for array in arrays):
            continue
        shapes[name], arrays = arrays[0].shape, [np.atleast_1d(array) for array in arrays]
        energies = [
            (part, sum(float(np.square(_cut(array, part), dtype=np.float64).sum()) for array in arrays))
            for part in parts(arrays)
        ]
        found[name] = [(part, energy) for part, energy in energies if energy]
    count = sum(map(len, found.values()))
    weights: dict[str, Floats] = {}
    for name, own in found.items():
        if not own:
            continue
        weights[name] = np.zeros(shapes[name])
        for part, energy in own:
            if part is None:
                weights[name][...] = 1 / (energy * count)
            else:
                np.moveaxis(weights[name], part[0], 0)[part[1]] = 1 / (energy * count)
    return weights


def _cut(array: Array, part: Part) -> Array:
    return array if part is None else np.compress(part[1], array, part[0])


def parts(outputs: Sequence[Array]) -> list[Part]:
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
        reduced = tuple(index for index in range(rank) if index != axis)
        magnitudes = np.max([np.abs(output).max(axis=reduced) for output in outputs], axis=0).astype(np.float64)
        ordered = np.sort(magnitudes[magnitudes > 0])
        gaps = ordered[1:] / ordered[:-1]
        if gaps.max(initial=0.0) > widest:
            widest = float(gaps.max())
            borders = [0.0, *ordered[1:][gaps > APART], np.inf]
            found = [(axis, (magnitudes >= low) & (magnitudes < high)) for low, high in itertools.pairwise(borders)]
    return found
