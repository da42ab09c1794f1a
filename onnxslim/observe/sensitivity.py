"""Measures how far the outputs of a model are off on few samples when something in it is changed, in one number.

Outputs count alike, and so do parts of an output whose values differ in every sample by more than a power of ten in
magnitude: where boxes in pixels and scores lie in one tensor, the scores would otherwise count for nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Parts of an axis whose magnitudes differ by this factor in every sample are quantities of different scale."""
LEAST = 1e-5
"""Share of the largest magnitude of all below which there is no quantity: it is rounding, or was not seen."""
TELLING = 16
"""Samples that tell the parts of an output."""
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
        telling: The inputs of runs that tell the parts of the outputs, each of which is needed once; None: `runs`.

    Raises:
        RunError: The model does not run.
    """

    def __init__(self, reference: Run, runs: Sequence[Feeds], telling: Iterable[Feeds] | None = None) -> None:
        self._runs = runs
        self._reference = list(_outputs(reference, runs))
        names = self._reference[0] if self._reference else {}
        finite = [name for name in names if all(np.isfinite(made[name]).all() for made in self._reference)]
        magnitudes = {name: Magnitudes() for name in finite}
        seen = zip(runs, self._reference, strict=True) if telling is None else _runs(reference, telling)
        for feeds, made in seen:
            counts = {np.shape(array)[0] for array in feeds.values() if np.ndim(array)}
            for name in finite:
                magnitudes[name].add(made[name], together=len(made[name]) not in counts)
        self._parts = {name: found.parts() for name, found in magnitudes.items()}

    @classmethod
    def on(
        cls, model: ir.Model, samples: Samples, open_session: OpenSession, telling: Samples | None = None
    ) -> OutputDeviation:
        """Return the error of the outputs beside those of `model` on all of `samples`, as many at once as it takes.

        Args:
            model: It is not changed.
            samples: What changed versions will run on.
            open_session: Opens a model.
            telling: Samples of which `TELLING` tell the parts of the outputs where `samples` are fewer: of few samples
                a place where nothing was seen looks like another quantity.

        Raises:
            RunError: The model does not run.
        """

        size = batch_size(model, samples)
        more = telling is not None and samples.count < min(TELLING, telling.count)
        seen = telling.draw(TELLING).batches(size) if telling is not None and more else None
        return cls(
            functools.partial(run_on, open_session(model)),
            [batch.feeds for batch in samples.batches(size)],
            None if seen is None else (batch.feeds for batch in seen),
        )

    def __call__(self, changed: Run) -> float:
        """Return the energy of the error where `changed` runs the model, as a share of that of the outputs: the mean
        over their parts.

        Raises:
            RunError: The changed model does not run.
        """
        deviations = {name: [Deviation() for _ in own] for name, own in self._parts.items()}
        lost: set[str] = set()
        for wanted, given in zip(self._reference, _outputs(changed, self._runs), strict=True):
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


def _runs(run: Run, runs: Iterable[Feeds]) -> Iterator[tuple[Feeds, dict[str, Array]]]:
    """Yield the inputs and the outputs of floats of each run: those of the next when these are done with."""
    for feeds in runs:
        results = {name: np.asarray(array) for name, array in run(feeds).items()}
        yield feeds, {name: np.atleast_1d(array) for name, array in results.items() if array.dtype.kind == "f"}


def _outputs(run: Run, runs: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    """Yield the outputs of floats of each run, of rank 1 or more."""
    return (made for _, made in _runs(run, runs))


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
