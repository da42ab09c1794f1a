"""Synthetic samples: random inputs of types, shapes and values on which the model runs.

They suffice to measure speed and to compare two models, but show nothing about quality on real data.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.tied import tied_sizes
from onnxslim.arrays import Array, Indices
from onnxslim.data.input_semantics import ONES, RATE, ZEROS, index_bound
from onnxslim.data.room import free_bytes
from onnxslim.data.samples import Batch, BatchLayout, Samples, TrialRun
from onnxslim.data.sources import TableSequence
from onnxslim.data.table import kind
from onnxslim.errors import DataError, RunError
from onnxslim.runtime.session import Session, TensorSpec
from onnxslim.runtime.target import Target

SIZES: Mapping[str, tuple[int, ...]] = {
    "batch": (1, 2, 16, 8),
    "spatial": (224, 64, 128, 256, 32, 48, 320, 512, 16, 8, 1),
    "sequence": (16, 32, 64, 128, 512, 8, 256, 224, 576, 1024, 16000, 1),
}
"""Candidate sizes of a symbolic dimension by its role; the first with which the model runs is used."""

MOST_ELEMENTS = 1 << 22
"""Limit of the elements of one input whose sizes are free: 64 x 64 x 64 x 16, or an image of 1182 x 1182."""

TRIES = 250
"""Limit of the combinations of sizes and values that are tried."""

SECONDS, FEWEST_TRIES = 60.0, 10
"""Time limit of the search, which applies after the first `FEWEST_TRIES`: a large model may fail late each time."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]
"""Draws values for one input of a given shape."""


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draw from the standard normal distribution, as of normalized images, spectra and embeddings."""
    return generator.standard_normal(shape)


def unit(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draw uniformly between 0 and 1, for models that take roots or logarithms."""
    return generator.random(shape)


def below(bound: int) -> Draw:
    """Return a draw of integers from 0 to `bound`, exclusive."""
    return lambda generator, shape: generator.integers(0, max(1, bound), shape).astype(np.float64)


def always(number: float) -> Draw:
    """Return a draw that always gives `number`."""
    return lambda generator, shape: np.full(shape, number, np.float64)


def candidates(spec: TensorSpec, value: ir.Value | None) -> tuple[Draw, ...]:
    """Return ways to draw values for an input, the most likely first.

    The uses of `value`, the input in the graph, show its meaning (None: unknown).

    Raises:
        DataError: The input is not a tensor.
    """
    if spec.dtype is None:
        hint = "give samples with --data module:function"
        raise DataError("an input that is no tensor cannot be made up", where=spec.name, hint=hint)
    element_kind, bound = kind(spec.dtype), None if value is None else index_bound(value)
    if element_kind == "b" or ONES.search(spec.name):
        return (always(1), below(2))
    if bound is not None:
        draw = below(bound)
        return (always(0), draw) if ZEROS.search(spec.name) else (draw, below(min(bound, 2)), always(0))
    if RATE.search(spec.name) and not spec.shape:
        return (always(16000), always(8000))
    if element_kind == "f":
        return (normal, unit)
    if not spec.shape:
        return (always(1), always(16000), always(0))
    if spec.dtype.itemsize == 1:
        read_limits = ml_dtypes.iinfo if spec.dtype.kind == "V" else np.iinfo
        limits = read_limits(spec.dtype)
        return (lambda generator, shape: generator.integers(limits.min, limits.max + 1, shape).astype(np.float64),)
    return (below(2), always(0), below(100))


def roles_of_dimensions(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return the role of each symbolic dimension: ``batch``, ``spatial`` or ``sequence``.

    It is by `dimension_name`. Dimensions that are sums of others are left out.
    """
    roles: dict[str, str] = {}
    symbols = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, int) or (isinstance(size, str) and _terms(size, symbols)):
                continue
            state = axis == 1 and len(spec.shape) == 3 and isinstance(spec.shape[0], int)  # [layers, batch, hidden]
            role = "batch" if axis == 0 or state else "spatial" if len(spec.shape) >= 4 else "sequence"
            name = dimension_name(spec, axis)
            roles[name] = "batch" if "batch" in (role, roles.get(name)) else role
    return roles


def _terms(symbol: str, symbols: Collection[str]) -> list[str]:
    """Return the terms of a dimension that is a sum of others, such as ``past_length + 1``; else an empty list."""
    terms = [term.strip() for term in symbol.split("+")]
    return terms if len(terms) > 1 and all(term.isdigit() or term in symbols for term in terms) else []


def dimension_name(spec: TensorSpec, axis: int) -> str:
    """Return the name of a symbolic dimension: its own, or ``input[axis]``."""
    size = spec.shape[axis]
    return size if isinstance(size, str) else f"{spec.name}[{axis}]"


@dataclasses.dataclass(frozen=True)
class SampleRecipe:
    """Inputs, draws and sizes that determine the feeds of a sample."""

    inputs: tuple[TensorSpec, ...]
    draws: tuple[Draw, ...]
    sizes: Mapping[str, int]
    """Size of each symbolic dimension."""

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape of an input with all symbolic dimensions replaced by their sizes."""
        return tuple(
            size if isinstance(size, int) else self._size(dimension_name(spec, axis))
            for axis, size in enumerate(spec.shape)
        )

    def _size(self, symbol: str) -> int:
        if symbol in self.sizes:
            return self.sizes[symbol]
        return sum(int(term) if term.isdigit() else self.sizes[term] for term in _terms(symbol, self.sizes))

    def elements(self) -> int:
        """Return the number of elements of the largest input."""
        return max((math.prod(self.shape(spec)) for spec in self.inputs), default=0)

    def needed_bytes(self) -> int:
        """Return the peak memory of drawing one sample, in bytes: float64 values, then those of the input types."""
        sizes = [0 if spec.dtype is None else spec.dtype.itemsize for spec in self.inputs]
        counts = [math.prod(self.shape(spec)) for spec in self.inputs]
        return sum(count * size for count, size in zip(counts, sizes, strict=True)) + 8 * max(counts, default=0)

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
    """Samples that are drawn when they are read; an index always gives the same sample."""

    recipe: SampleRecipe
    count: int
    seed: int
    trial_run: TrialRun | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def layout(self) -> BatchLayout:
        """Batches of any size if every input has a free first dimension (or is a scalar); else one sample."""
        firsts = [spec.shape[0] for spec in self.recipe.inputs if spec.shape]
        free = bool(firsts) and not any(isinstance(size, int) for size in firsts)
        one = all(self.recipe.shape(spec)[0] == 1 for spec in self.recipe.inputs if spec.shape)
        shared = frozenset(spec.name for spec in self.recipe.inputs if not spec.shape)
        return BatchLayout(None if free and one else 1, shared)

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:
        """Yield the samples at `indices` (None: all), one at a time."""
        for index in range(self.count) if indices is None else indices:
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
    """Return synthetic samples on which `model` runs.

    Types and fixed dimensions are those of the inputs. A symbolic dimension has the same size wherever it occurs: 1
    for a batch, else the first of `SIZES` with which the model runs. Indices are less than the size of the indexed
    axis, masks are ones, sampling rates 16 kHz; integers of unknown meaning are small.

    Args:
        model: The model; not changed.
        count: Number of samples.
        seed: Equal seeds give equal samples.
        session: A session of `model`; None: it is opened here.
        target: Target of the session opened here; None: that of `detect_target`.
        sizes: Fixed sizes of symbolic dimensions by name.

    Raises:
        RunError: ONNX Runtime refuses the model.
        DataError: The model runs on no combination that was tried, or has an input that is not a tensor.
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
        if all(np.isfinite(output).all() for output in outputs.values() if _is_float(output)):
            trial_run = TrialRun(weakref.ref(session), outputs, seconds)
            return Samples(SyntheticSource(recipe, count, seed, trial_run), "synthetic samples", synthetic=True)
    if runs is None:
        raise DataError(
            "no made-up sample runs" + (f"; {failure}" if failure else ""),
            where=model.graph.name,
            hint="give real samples with --data",
        )
    return Samples(SyntheticSource(runs, count, seed), "synthetic samples", synthetic=True)


def _recipes(model: ir.Model, inputs: tuple[TensorSpec, ...], given: Mapping[str, int]) -> Iterator[SampleRecipe]:
    """Yield possible recipes, the most likely first.

    Sizes that weights fix are computed only after the first recipe has failed, since most models run on it.
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
    """Yield possible recipes; sizes in `known` are tried first, and sizes in `given` are the only choice."""
    limit = max(MOST_ELEMENTS, _least_elements(inputs))
    fitting = _fitting(inputs, roles_of_dimensions(inputs), known)
    choices = {name: (given[name],) if name in given else sizes for name, sizes in fitting.items()}
    for indices in _by_rank([len(options) for options in (*draws, *choices.values())]):
        chosen = tuple(options[index] for options, index in zip(draws, indices, strict=False))
        size_indices = zip(choices.items(), indices[len(draws) :], strict=True)
        recipe = SampleRecipe(inputs, chosen, {name: options[index] for (name, options), index in size_indices})
        if recipe.elements() <= limit:
            yield recipe


def _tied(model: ir.Model, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return the sizes of symbolic dimensions that the weights fix."""
    try:
        tied = tied_sizes(model)
    except Exception:  # the model runs, but shape inference or a signature does not support it
        return {}
    symbolic = ((spec, axis) for spec in inputs for axis, size in enumerate(spec.shape) if not isinstance(size, int))
    return {dimension_name(spec, axis): tied[spec.name, axis] for spec, axis in symbolic if (spec.name, axis) in tied}


def _fitting(
    inputs: Sequence[TensorSpec], dimensions: Mapping[str, str], known: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return candidate sizes of each symbolic dimension: a known size first, then those that keep inputs small."""
    limits: dict[str, float] = {}
    for spec in inputs:
        names = [dimension_name(spec, axis) for axis, size in enumerate(spec.shape) if not isinstance(size, int)]
        free = [name for name in names if name not in known and dimensions.get(name) != "batch"]
        fixed = math.prod([size for size in spec.shape if isinstance(size, int)])
        fixed *= math.prod(known.get(name, 1) for name in names)
        share = (MOST_ELEMENTS / max(fixed, 1)) ** (1 / max(len(free), 1))
        for name in free:
            limits[name] = min(limits.get(name, share), share)
    result: dict[str, tuple[int, ...]] = {}
    for name, role in dimensions.items():
        small = tuple(size for size in SIZES[role] if size <= limits.get(name, MOST_ELEMENTS) + 1e-6) or (1,)
        result[name] = (known[name], *small) if name in known else small
    return result


def _least_elements(inputs: Sequence[TensorSpec]) -> int:
    """Return the number of elements of the largest input with all symbolic dimensions at 1."""
    return max((math.prod([size for size in spec.shape if isinstance(size, int)]) for spec in inputs), default=0)


def no_samples() -> Samples:
    """Return an empty source of samples, for runs that never run the model."""
    return Samples(TableSequence((), BatchLayout(None)), "no samples", synthetic=True)


def _is_float(output: object) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def _by_rank(lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield all index tuples below `lengths` by ascending sum; of equal sums, raised later indices come first."""
    positions = [position for position, length in enumerate(lengths) if length > 1][::-1]
    for total in range(sum(length - 1 for length in lengths) + 1):
        for raised in itertools.combinations_with_replacement(positions, total):
            indices = [0] * len(lengths)
            for position in raised:
                indices[position] += 1
            if all(indices[position] < lengths[position] for position in raised):
                yield tuple(indices)
