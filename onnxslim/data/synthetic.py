"""Samples made up from the model alone, for when nobody gives any: of types, shapes and values that make it run.

They tell how fast a model is and whether two models compute the same, not how well a model does on real data.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.tied import tied_sizes
from onnxslim.data.input_semantics import ONES, RATE, ZEROS, index_bound
from onnxslim.data.room import free_bytes
from onnxslim.data.samples import Array, Batch, BatchLayout, Nothing, Samples, TrialRun
from onnxslim.data.table import kind
from onnxslim.errors import DataError, RunError
from onnxslim.runtime.session import Session, TensorSpec
from onnxslim.runtime.target import Target

SIZES: Mapping[str, tuple[int, ...]] = {
    "batch": (1, 2, 16, 8),
    "spatial": (224, 64, 128, 256, 32, 48, 320, 512, 16, 8, 1),
    "sequence": (16, 32, 64, 128, 512, 8, 256, 224, 576, 1024, 16000, 1),
}
"""Sizes to try for a symbolic dimension, by what it seems to be; the first that runs is taken."""

MOST_ELEMENTS = 1 << 22
"""Elements of one input of a sample, as far as sizes are ours to choose: 64 x 64 x 64 x 16, or an image of 1182 x 1182.
"""

TRIES = 250
"""How many combinations of sizes and values are tried before giving up."""

SECONDS, FEWEST_TRIES = 60.0, 10
"""After so long there are no more tries, once there were a few: a large model may fail late, and each time."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]
"""Draws the values of one input, given its shape."""


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draw what normalised images, spectra and embeddings look like."""
    return generator.standard_normal(shape)


def unit(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draw numbers between 0 and 1, for models that take roots or logarithms."""
    return generator.random(shape)


def below(bound: int) -> Draw:
    """Draw whole numbers from 0 up to `bound`, exclusive."""
    return lambda generator, shape: generator.integers(0, max(1, bound), shape).astype(np.float64)


def always(number: float) -> Draw:
    """Draw the same number always."""
    return lambda generator, shape: np.full(shape, number, np.float64)


def candidates(spec: TensorSpec, value: ir.Value | None) -> tuple[Draw, ...]:
    """Return ways to draw values for an input, the likeliest first.

    Args:
        spec: What the session says about it.
        value: The graph's input, to see what it is used for; None where only `spec` is known.
    """
    if spec.dtype is None:
        raise DataError(
            "an input that is no tensor cannot be made up",
            where=spec.name,
            hint="give samples with --data module:function",
        )
    of_kind, bound = kind(spec.dtype), None if value is None else index_bound(value)
    if of_kind == "b" or ONES.search(spec.name):
        return (always(1), below(2))
    if bound is not None:
        draw = below(bound)
        return (always(0), draw) if ZEROS.search(spec.name) else (draw, below(min(bound, 2)), always(0))
    if RATE.search(spec.name) and not spec.shape:
        return (always(16000), always(8000))
    if of_kind == "f":
        return (normal, unit)
    if not spec.shape:
        return (always(1), always(16000), always(0))
    if spec.dtype.itemsize == 1:
        limits = ml_dtypes.iinfo(spec.dtype) if spec.dtype.kind == "V" else np.iinfo(spec.dtype)  # type: ignore[no-untyped-call]
        return (lambda generator, shape: generator.integers(limits.min, limits.max + 1, shape).astype(np.float64),)
    return (below(2), always(0), below(100))


def roles_of_dimensions(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return for each symbolic dimension whether it is a batch, spatial or a sequence; one that occurs twice is one.

    Dimensions without a name are told apart by the input and axis where they stand; sums of others are not listed.
    """
    roles: dict[str, str] = {}
    symbols = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, int) or (isinstance(size, str) and _terms(size, symbols)):
                continue
            state = axis == 1 and len(spec.shape) == 3 and isinstance(spec.shape[0], int)  # [layers, batch, hidden]
            role = "batch" if axis == 0 or state else "spatial" if len(spec.shape) >= 4 else "sequence"
            name = _dimension(spec, axis)
            roles[name] = "batch" if "batch" in (role, roles.get(name)) else role
    return roles


def _terms(symbol: str, symbols: Collection[str]) -> list[str]:
    """Return the terms of a dimension that is written as a sum of others, ``past_length + 1``; none if it is not."""
    terms = [term.strip() for term in symbol.split("+")]
    return terms if len(terms) > 1 and all(term.isdigit() or term in symbols for term in terms) else []


def _dimension(spec: TensorSpec, axis: int) -> str:
    size = spec.shape[axis]
    return size if isinstance(size, str) else f"{spec.name}[{axis}]"


@dataclasses.dataclass(frozen=True)
class SampleRecipe:
    """How to draw the feeds of one sample."""

    inputs: tuple[TensorSpec, ...]
    draws: tuple[Draw, ...]
    sizes: Mapping[str, int]
    """A size for every symbolic dimension."""

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape of an input with the sizes put in."""
        return tuple(
            size if isinstance(size, int) else self._size(_dimension(spec, axis))
            for axis, size in enumerate(spec.shape)
        )

    def _size(self, symbol: str) -> int:
        if symbol in self.sizes:
            return self.sizes[symbol]
        return sum(int(term) if term.isdigit() else self.sizes[term] for term in _terms(symbol, self.sizes))

    def elements(self) -> int:
        """Return how many elements the largest input has."""
        return max((math.prod(self.shape(spec)) for spec in self.inputs), default=0)

    def needed_bytes(self) -> int:
        """Return what one sample takes while it is drawn: numbers of 8 bytes, then those of the input's own type."""
        sizes = [0 if spec.dtype is None else spec.dtype.itemsize for spec in self.inputs]
        own = [math.prod(self.shape(spec)) for spec in self.inputs]
        return sum(count * size for count, size in zip(own, sizes, strict=True)) + 8 * max(own, default=0)

    def feeds(self, generator: np.random.Generator) -> dict[str, Array]:
        """Draw one sample."""
        drawn = zip(self.inputs, self.draws, strict=True)
        return {spec.name: _typed(draw(generator, self.shape(spec)), spec) for spec, draw in drawn}


def _typed(values: npt.NDArray[np.float64], spec: TensorSpec) -> Array:
    if spec.dtype == object:
        texts: Array = np.vectorize(lambda number: f"text {number:.3f}", otypes=[object])(values)
        return texts
    return values.astype(spec.dtype)


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Samples that are drawn when they are read; the same index gives the same sample always."""

    recipe: SampleRecipe
    count: int
    seed: int
    rehearsal: TrialRun | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def layout(self) -> BatchLayout:
        """Samples can be joined where every input has a free first dimension (or is a scalar)."""
        firsts = [spec.shape[0] for spec in self.recipe.inputs if spec.shape]
        free = bool(firsts) and not any(isinstance(size, int) for size in firsts)
        one = all(self.recipe.shape(spec)[0] == 1 for spec in self.recipe.inputs if spec.shape)
        shared = frozenset(spec.name for spec in self.recipe.inputs if not spec.shape)
        return BatchLayout(None if free and one else 1, shared)

    def pieces(self, size: int) -> Iterator[Batch]:
        """Yield all samples, one at a time."""
        return self.read(np.arange(self.count, dtype=np.int64), size)

    def read(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """Yield the samples at `indices`, one at a time."""
        for index in indices:
            yield Batch(self.recipe.feeds(np.random.default_rng([self.seed, int(index)])))


def synthetic_samples(
    model: ir.Model,
    count: int = 16,
    seed: int = 0,
    *,
    session: Session | None = None,
    target: Target | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Samples:
    """Make up samples that `model` runs on.

    Types and fixed dimensions are those of the inputs. A symbolic dimension gets one size wherever it occurs: 1 for a
    batch, else the first of `SIZES` with which the model runs. Indices stay below the size of what they index, masks
    are ones, sampling rates 16 kHz; where the graph does not tell what integers mean, small ones are tried.

    Args:
        model: The model; not changed.
        count: How many samples.
        seed: The same seed gives the same samples.
        session: `model` opened already, to save opening it here.
        target: Where to try it; None: what `detect_target` finds.
        sizes: Sizes of symbolic dimensions by name that are not to be searched.

    Raises:
        RunError: ONNX Runtime refuses the model.
        DataError: The model runs on nothing that was tried, or has an input that is no tensor.
    """
    session = session or Session.of(model, target, optimize=False)
    runs: SampleRecipe | None = None
    failure: str | None = None
    began = time.perf_counter()
    for tried, recipe in enumerate(itertools.islice(_recipes(model, session.inputs, sizes or {}), TRIES)):
        if tried >= FEWEST_TRIES and time.perf_counter() - began > SECONDS:
            break
        free = free_bytes()
        if free is not None and recipe.needed_bytes() > free:
            failure = failure or f"one sample takes {recipe.needed_bytes():,} bytes of memory, and {free:,} are free"
            continue
        try:
            feeds = recipe.feeds(np.random.default_rng([seed, 0]))
            started = time.perf_counter()
            outputs = session.run(feeds)
            seconds = time.perf_counter() - started
        except RunError as error:
            failure = failure or error.what
            continue
        runs = runs or recipe
        if _finite(outputs.values()):
            rehearsal = TrialRun(weakref.ref(session), outputs, seconds)
            return Samples(SyntheticSource(recipe, count, seed, rehearsal), "synthetic samples", synthetic=True)
    if runs is None:
        raise DataError(
            "no made-up sample runs" + (f"; {failure}" if failure else ""),
            where=model.graph.name,
            hint="give real samples with --data",
        )
    return Samples(SyntheticSource(runs, count, seed), "synthetic samples", synthetic=True)


def _recipes(model: ir.Model, inputs: tuple[TensorSpec, ...], given: Mapping[str, int]) -> Iterator[SampleRecipe]:
    """Yield how samples may be drawn, the likeliest first.

    What the weights say about sizes is worked out once the first one has failed: most models run on it.
    """
    values = {value.name: value for value in model.graph.inputs}
    draws = [candidates(spec, values.get(spec.name)) for spec in inputs]
    yield from itertools.islice(_with_sizes(inputs, draws, given, given), 1)
    yield from _with_sizes(inputs, draws, {**_tied(model, inputs), **given}, given)


def _with_sizes(
    inputs: tuple[TensorSpec, ...],
    draws: Sequence[tuple[Draw, ...]],
    known: Mapping[str, int],
    given: Mapping[str, int],
) -> Iterator[SampleRecipe]:
    """Yield how samples may be drawn where some sizes are known, and some of these are given: no others will do."""
    most = max(MOST_ELEMENTS, _least_elements(inputs))
    fitting = _fitting(inputs, roles_of_dimensions(inputs), known)
    choices = {name: (given[name],) if name in given else sizes for name, sizes in fitting.items()}
    for picked in _by_rank([len(options) for options in (*draws, *choices.values())]):
        chosen = tuple(options[index] for options, index in zip(draws, picked, strict=False))
        indices = zip(choices.items(), picked[len(draws) :], strict=True)
        recipe = SampleRecipe(inputs, chosen, {name: options[index] for (name, options), index in indices})
        if recipe.elements() <= most:
            yield recipe


def _tied(model: ir.Model, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return the sizes of symbolic dimensions that the weights fix."""
    try:
        tied = tied_sizes(model)
    except Exception:  # a model that runs, and that shape inference or a signature does not understand
        return {}
    every = ((spec, axis) for spec in inputs for axis, size in enumerate(spec.shape) if not isinstance(size, int))
    return {_dimension(spec, axis): tied[spec.name, axis] for spec, axis in every if (spec.name, axis) in tied}


def _fitting(
    inputs: Sequence[TensorSpec], dimensions: Mapping[str, str], known: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return sizes for each symbolic dimension: what is known first, then those with which no input is too large."""
    most: dict[str, float] = {}
    for spec in inputs:
        names = [_dimension(spec, axis) for axis, size in enumerate(spec.shape) if not isinstance(size, int)]
        free = [name for name in names if name not in known and dimensions.get(name) != "batch"]
        fixed = math.prod([size for size in spec.shape if isinstance(size, int)])
        fixed *= math.prod(known.get(name, 1) for name in names)
        share = (MOST_ELEMENTS / max(fixed, 1)) ** (1 / max(len(free), 1))
        for name in free:
            most[name] = min(most.get(name, share), share)
    result: dict[str, tuple[int, ...]] = {}
    for name, role in dimensions.items():
        small = tuple(size for size in SIZES[role] if size <= most.get(name, MOST_ELEMENTS) + 1e-6) or (1,)
        result[name] = (known[name], *small) if name in known else small
    return result


def _least_elements(inputs: Sequence[TensorSpec]) -> int:
    """Return how many elements the largest input has with all symbolic dimensions at 1."""
    return max((math.prod([size for size in spec.shape if isinstance(size, int)]) for spec in inputs), default=0)


def no_samples() -> Samples:
    """Return samples for a run that never runs the model: there are none."""
    return Samples(Nothing(), "no samples", synthetic=True)


def _finite(outputs: Iterable[object]) -> bool:
    arrays = (each for each in outputs if isinstance(each, np.ndarray))
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def _by_rank(lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield one index below each length, those with the smallest sum first, and then those that change later ones."""
    free = [position for position, length in enumerate(lengths) if length > 1][::-1]
    for total in range(sum(length - 1 for length in lengths) + 1):
        for raised in itertools.combinations_with_replacement(free, total):
            indices = [0] * len(lengths)
            for position in raised:
                indices[position] += 1
            if all(indices[position] < lengths[position] for position in raised):
                yield tuple(indices)
