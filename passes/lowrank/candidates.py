"""The splits that each layer admits: ranks that save something, with the error to be expected of each."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.arrays import Floats

from .emit import parts
from .factors import Factorization, Problem, split

STEPS = 24
"""Ranks of one axis that are looked at, at most; more make the choice finer than errors are known."""
TELLING = 1e-6
"""An expected error below this is rounding: it does not tell how far expected errors are from real ones."""


@dataclasses.dataclass(frozen=True)
class SplitCandidate:
    """One split of one layer."""

    form: Factorization
    ranks: tuple[int, ...]
    parameters: int
    """Of all factors together."""
    macs: float
    """For one sample, as a share of those of the layer."""
    error: float
    """Expected energy of the error as a share of the energy of the output."""
    share: float = 0.0
    """Its rank as a share of the full rank; of two ranks the mean."""


@dataclasses.dataclass(frozen=True)
class Positions:
    """The number of positions that a layer is applied to, for one sample."""

    inputs: int
    """Places of the image that comes in; 1 for each row where there is no image."""
    outputs: int
    between: int
    """Places after columns have been summed and before rows are."""


def forms(layer: LinearLayer) -> tuple[Factorization, ...]:
    """Return what a layer may be split into."""
    if math.prod(layer.kernel) == 1:
        # The pivoted form makes outputs of outputs: half precision is too coarse for that.
        return (
            Factorization.MATRIX,
            *((Factorization.PIVOT,) if layer.weight.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else ()),
        )
    wide = len(layer.kernel) == 2 and min(layer.kernel) > 1
    return (Factorization.TUCKER, *((Factorization.SPATIAL,) if wide else ()), Factorization.SEPARABLE)


def cost(layer: LinearLayer, form: Factorization, ranks: tuple[int, ...], positions: Positions) -> tuple[int, float]:
    """Return the elements of the factors, and their multiply-accumulates as a share of those of the layer."""
    sizes = [math.prod(part.shape) for part in parts(layer, form, ranks)]
    places = [positions.outputs] * len(sizes)
    if form is Factorization.SPATIAL:
        places[0] = positions.between
    elif form is Factorization.TUCKER and ranks[0] < layer.inputs:
        places[0] = positions.inputs
    macs = sum(size * count for size, count in zip(sizes, places, strict=True))
    return sum(sizes), macs / max(layer.parameters * positions.outputs, 1)


def candidates(
    layer: LinearLayer,
    problem: Problem,
    allowed: Sequence[Factorization],
    align: int,
    positions: Positions,
    *,
    exact: bool,
    more_macs: bool,
    most: float | None = None,
) -> list[SplitCandidate]:
    """Return the splits of a layer that have fewer parameters than the layer, and no more MACs.

    Args:
        layer: The layer.
        problem: What it gets and gives.
        allowed: Forms to look at.
        align: Ranks are multiples of this, or full.
        positions: Where it works.
        exact: Scale what is expected of each form by the error of one split that is really made.
        more_macs: Splits that have more MACs will do, too.
        most: The largest error allowed: splits that are expected to stay below it are computed, and have the error
            measured then. None: no limit.
    """
    result: list[SplitCandidate] = []
    for form in forms(layer):
        splits = shapes(layer, form, align, positions, more_macs=more_macs) if form in allowed else []
        if not splits:
            continue
        expected_error = losses(problem, form)
        splits = [dataclasses.replace(candidate, error=expected_error(candidate.ranks)) for candidate in splits]
        if exact and form is not Factorization.MATRIX:
            # Of a layer that is of low rank exactly, the middle has no error that tells anything of the others.
            telling = [candidate for candidate in splits if candidate.error > TELLING]
            if telling:
                middle = nearest(telling, layer.parameters // 2)
                splits = _scaled(splits, problem.loss(split(problem, form, middle.ranks).dense) / middle.error)
        result += splits if most is None else _made(splits, problem, most)
    return result


def _scaled(splits: Sequence[SplitCandidate], scale: float) -> list[SplitCandidate]:
    return [dataclasses.replace(candidate, error=min(candidate.error * scale, 1.0)) for candidate in splits]


def _made(splits: Sequence[SplitCandidate], problem: Problem, most: float) -> list[SplitCandidate]:
    """Return the splits of one form, of those that are said to lose no more than `most` only such as were made.

    The smallest of them as a rule holds what is said of it; where it does not, a bisection by size finds one that does.
    """
    sufficient = sorted(
        (candidate for candidate in splits if candidate.error <= most),
        key=lambda candidate: (candidate.parameters, candidate.error),
    )
    made: list[SplitCandidate] = []
    low, high, index = 0, len(sufficient), 0
    while low < high:
        candidate = sufficient[index]
        made.append(
            dataclasses.replace(candidate, error=problem.loss(split(problem, candidate.form, candidate.ranks).dense))
        )
        if made[-1].error <= most:
            high = index
        else:
            low = index + 1
        index = (low + high) // 2
    return [*(candidate for candidate in splits if candidate.error > most), *made]


def nearest(splits: Sequence[SplitCandidate], parameters: int) -> SplitCandidate:
    """Return the split that has about so many parameters, the best of equals."""
    return min(splits, key=lambda candidate: (abs(candidate.parameters - parameters), candidate.error))


def shapes(
    layer: LinearLayer, form: Factorization, align: int, positions: Positions, *, more_macs: bool
) -> list[SplitCandidate]:
    """Return the splits of one form as `candidates` does, before anything is known of their errors: these are 0."""
    result: list[SplitCandidate] = []
    full = [size for _, size in full_ranks(layer, form)]
    for ranks in _ranks(full, form, align):
        parameters, macs = cost(layer, form, ranks, positions)
        if parameters < layer.parameters and (macs <= 1 or more_macs):
            share = sum(rank / whole for rank, whole in zip(ranks, full, strict=True)) / len(full)
            result.append(SplitCandidate(form, ranks, parameters, macs, 0.0, share))
    return result


def full_ranks(layer: LinearLayer, form: Factorization) -> tuple[tuple[str, int], ...]:
    """Return what each rank of a form is called, and how large it is when nothing is lost."""
    match form:
        case Factorization.TUCKER:
            return ("rank of inputs", layer.inputs), ("rank of outputs", layer.outputs)
        case Factorization.SPATIAL:
            return (("rank", min(layer.inputs * layer.kernel[0], layer.outputs * layer.kernel[1])),)
        case Factorization.SEPARABLE:
            return (("windows", math.prod(layer.kernel)),)
        case _:
            return (("rank", min(layer.inputs, layer.outputs)),)


def losses(problem: Problem, form: Factorization) -> Callable[[tuple[int, ...]], float]:
    """Return what says which share of the energy of the output a split loses, by its ranks, from spectra alone."""
    floor = problem.floor
    spectra: dict[Factorization, Callable[[], list[Floats]]] = {
        Factorization.MATRIX: lambda: [problem.output_basis[0]],
        Factorization.PIVOT: lambda: [problem.output_basis[0]],
        Factorization.TUCKER: lambda: [problem.input_basis[0], problem.output_basis[0]],
        Factorization.SPATIAL: lambda: [problem.column_basis[0]],
        Factorization.SEPARABLE: lambda: [problem.channel_basis[0].sum(axis=0)],
    }
    tails = [tail(energies) for energies in spectra[form]()]

    def lost(ranks: tuple[int, ...]) -> float:
        shares = [
            float(lost_shares[min(rank, len(lost_shares) - 1)]) for lost_shares, rank in zip(tails, ranks, strict=True)
        ]
        return min(sum(shares) * (1 - floor) + floor, 1.0)

    return lost


def tail(energies: Floats) -> Floats:
    """Return what share of the energies is lost where the first 0, 1, 2 ... are kept."""
    total = max(float(energies.sum()), np.finfo(np.float64).tiny)
    shares: Floats = np.append(energies[::-1].cumsum()[::-1], 0.0) / total
    return shares


def _ranks(full: Sequence[int], form: Factorization, align: int) -> Iterator[tuple[int, ...]]:
    """Yield the ranks to look at, below the full ones; of two ranks one may be full."""
    if form is Factorization.SEPARABLE:
        yield from ((rank,) for rank in range(1, full[0]))
    elif len(full) == 1:
        yield from ((rank,) for rank in multiples(full[0], align, STEPS * 4))
    else:
        choices = ((*multiples(size, align, STEPS), size) for size in full)
        yield from (ranks for ranks in itertools.product(*choices) if ranks != tuple(full))


def multiples(full: int, align: int, steps: int) -> list[int]:
    """Return multiples of `align` below `full`, about `steps` of them."""
    step = align * max(1, math.ceil(full / align / steps))
    return list(range(step, full, step))
