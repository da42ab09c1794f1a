"""The inputs on which two models are compared whole: a sample, and others like it at several sizes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnxslim.data.synthetic import SampleRecipe, dimension_name, roles_of_dimensions
from onnxslim.runtime.session import TensorSpec

SIZES = (2, 3, 1, 7, 33, 64)
"""What each symbolic dimension is in turn, the others being as they are in the sample: 1 broadcasts, primes divide
nothing, and what takes an image or a window of samples seldom runs below 32."""

MOST = 16
"""How many inputs there are at most, that of the sample included."""


@dataclasses.dataclass(frozen=True)
class InputProbe:
    """One input of a model."""

    draw: Callable[[], Mapping[str, Any]]
    """Makes the feeds: many inputs are too large to be run, and take long to draw."""
    at: str = ""
    """The size that differs from the sample's, as ``batch = 3``; empty: none does."""
    cost: float = 1.0
    """Elements of the inputs, relative to those of the sample."""

    @functools.cached_property
    def feeds(self) -> Mapping[str, Any]:
        """An array for every input."""
        return self.draw()


def draw_probes(
    inputs: Sequence[TensorSpec], sample: Mapping[str, Any], generator: np.random.Generator
) -> Iterator[InputProbe]:
    """Yield `sample`, then inputs in which one symbolic dimension has another size: first each its first other size.

    What is in them is drawn from the elements of the sample, so that indices stay within bounds and masks are masks. A
    model need not run at each size: whoever asks leaves out those at which the original does not. The elements of an
    input do not depend on whether others were asked for.
    """
    yield InputProbe(lambda: sample)
    specs = [spec for spec in inputs if isinstance(sample.get(spec.name), np.ndarray)]
    base = {
        dimension_name(spec, axis): int(size)
        for spec in specs
        if len(spec.shape) == sample[spec.name].ndim
        for axis, size in enumerate(sample[spec.name].shape)
        if not isinstance(spec.shape[axis], int)
    }
    names = [name for name in roles_of_dimensions(specs) if name in base]
    choices = [[(name, size) for size in SIZES if size != base[name]] for name in names]
    turns = (choice for turn in itertools.zip_longest(*choices) for choice in turn if choice is not None)
    elements = max(1, sum(sample[spec.name].size for spec in specs))
    for name, size in itertools.islice(turns, MOST - 1):
        recipe = SampleRecipe(tuple(specs), (), {**base, name: size})
        shapes = {
            spec.name: recipe.shape(spec) if len(spec.shape) == sample[spec.name].ndim else sample[spec.name].shape
            for spec in specs
        }
        draw = functools.partial(_drawn, sample, shapes, generator.spawn(1)[0])
        yield InputProbe(draw, f"{name} = {size}", sum(map(math.prod, shapes.values())) / elements)


def _drawn(
    sample: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator
) -> dict[str, Any]:
    """Return the sample with arrays of other shapes where it has others, filled with elements of its own."""
    feeds = dict(sample)
    for name, shape in shapes.items():
        array = sample[name]
        if shape == array.shape:
            continue
        if not array.size:
            feeds[name] = np.zeros(shape, array.dtype)
        else:  # half the time of Generator.choice, which draws places of 64 bits
            narrow = array.size <= np.iinfo(np.int32).max
            places = generator.integers(0, array.size, shape, np.int32 if narrow else np.int64)
            feeds[name] = np.asarray(array.reshape(-1)[places])
    return feeds


def rounded_otherwise(probe: InputProbe, generator: np.random.Generator) -> dict[str, Any] | None:
    """Return the feeds of a probe with each float up or down by one rounding; None where there are no floats."""
    feeds = dict(probe.feeds)
    floats = [name for name, value in feeds.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    for name in floats:
        array = feeds[name]
        epsilon = float(ml_dtypes.finfo(array.dtype).eps)  # type: ignore[no-untyped-call]  # not annotated there
        step = epsilon * generator.choice([-1, 1], array.shape)
        feeds[name] = np.asarray(array + array * step).astype(array.dtype)
    return feeds if floats else None
