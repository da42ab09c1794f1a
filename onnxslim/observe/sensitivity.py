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
import onnx_ir as ir

from onnxslim.arrays import Array, Floats
from onnxslim.data import Samples
from onnxslim.observe.batches import batch_size
from onnxslim.observe.deviation import Deviation
from onnxslim.observe.output_parts import Magnitudes, Part, cut, parts
from onnxslim.observe.probe import Feeds, run_on
from onnxslim.runtime.session import OpenSession

NOT_FINITE = 1e6
"""The relative error that stands for an output that is not finite."""
ANOTHER_SHAPE = 1.0
"""The relative error of an output whose shape has changed: that of one that is lost."""
TELLING = 16
"""Samples that tell the parts of an output."""

Run = Callable[[Feeds], Mapping[str, Any]]
"""Returns the outputs of a model by name."""


class OutputDeviation:
    """The error of the outputs of changed versions of a model, beside those of the model as it is.

    Args:
        reference: Runs the model as it is.
        runs: The inputs of each run.
        telling: The inputs of runs that tell the parts of the outputs, each of which is needed once; None: `runs`.
        counts: How many samples each run has; empty: it is not known what tells them apart.

    Raises:
        RunError: The model does not run.
    """

    def __init__(
        self,
        reference: Run,
        runs: Sequence[Feeds],
        telling: Iterable[Feeds] | None = None,
        counts: Sequence[int] = (),
    ) -> None:
        self._runs = runs
        self._reference = list(_outputs(reference, runs))
        names = self._reference[0] if self._reference else {}
        finite = [name for name in names if all(np.isfinite(made[name]).all() for made in self._reference)]
        magnitudes = {name: Magnitudes() for name in finite}
        seen = zip(runs, self._reference, strict=True) if telling is None else _runs(reference, telling)
        for feeds, outputs in seen:
            rows = {np.shape(array)[0] for array in feeds.values() if np.ndim(array)}
            for name in finite:
                magnitudes[name].add(outputs[name], together=len(outputs[name]) not in rows)
        self._parts = {name: found.parts() for name, found in magnitudes.items()}
        self._counts = list(counts)

    @functools.cached_property
    def varying(self) -> float:
        """The share of the energy of the outputs that is left without their mean over the samples, the least of all
        outputs and parts: what tells samples apart. 0 where samples are no rows of an output, or too few."""
        made = {name: [outputs[name] for outputs in self._reference] for name in self._parts}
        return min((_varying(made[name], own, self._counts) for name, own in self._parts.items()), default=0.0)

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
        batches = list(samples.batches(size))
        return cls(
            functools.partial(run_on, open_session(model)),
            [batch.feeds for batch in batches],
            None if seen is None else (batch.feeds for batch in seen),
            [batch.count for batch in batches],
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
                    deviation.add(cut(reference, part), cut(array, part))
        errors = [
            ANOTHER_SHAPE if name in lost else deviation.relative if deviation.reason is None else NOT_FINITE
            for name, own in deviations.items()
            for deviation in own
        ]
        known = [error for error in errors if error is not None]
        return float(np.mean(known)) if known else 0.0


def _varying(made: Sequence[Array], parts: Sequence[Part], counts: list[int]) -> float:
    """Return `OutputDeviation.varying` of one output, of which each run made one array of so many samples."""
    count = sum(counts)
    of_samples = [len(array) for array in made] == counts
    if not of_samples or count < TELLING or len({array.shape[1:] for array in made}) > 1:
        return 0.0
    total, energy = np.zeros((2, *made[0].shape[1:]))
    for row in itertools.chain.from_iterable(made):
        total += row
        energy += np.square(row, dtype=np.float64)
    left = np.maximum(energy - total**2 / count, 0.0) * count / (count - 1)
    pairs = [tuple(float(cut(array[None], part).sum()) for array in (left, energy)) for part in parts]
    return min((own / whole for own, whole in pairs if whole > 0), default=0.0)


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
            (part, sum(float(np.square(cut(array, part), dtype=np.float64).sum()) for array in arrays))
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
