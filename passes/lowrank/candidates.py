"""The splits that each layer admits: ranks that save something, with the error to be expected of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer

from .factors import PAIRS, Factorization, Problem, pair_outputs, split

Array = npt.NDArray[np.float64]

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


def parameters(layer: LinearLayer, form: Factorization, ranks: tuple[int, ...]) -> int:
    """Return how many elements the factors have."""
    return sum(count for count, _ in _terms(layer, form, ranks, Positions(1, 1, 1)))


def macs(layer: LinearLayer, form: Factorization, ranks: tuple[int, ...], positions: Positions) -> float:
    """Return the multiply-accumulates of the factors as a share of those of the layer."""
    after = sum(count * places for count, places in _terms(layer, form, ranks, positions))
    return after / max(layer.parameters * positions.outputs, 1)


def _terms(
    layer: LinearLayer, form: Factorization, ranks: tuple[int, ...], positions: Positions
) -> Iterator[tuple[int, int]]:
    """Yield for each factor (elements, places that it works in)."""
    inputs, outputs, taps = layer.inputs, layer.outputs, math.prod(layer.kernel)
    if form in PAIRS:
        yield inputs * ranks[0], positions.outputs
        yield ranks[0] * pair_outputs(form, outputs, ranks[0]), positions.outputs
    elif form is Factorization.TUCKER:
        few, narrow = ranks
        if few < inputs:
            yield inputs * few, positions.inputs
        yield few * taps * narrow, positions.outputs
        if narrow < outputs:
            yield narrow * outputs, positions.outputs
    elif form is Factorization.SPATIAL:
        yield inputs * layer.kernel[0] * ranks[0], positions.between
        yield ranks[0] * layer.kernel[1] * outputs, positions.outputs
    else:
        yield inputs * ranks[0] * taps, positions.outputs
        yield inputs * ranks[0] * outputs, positions.outputs


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
    return [
        SplitCandidate(form, ranks, parameters(layer, form, ranks), work, 0.0, _share(layer, form, ranks))
        for ranks in _ranks(layer, form, align)
        if parameters(layer, form, ranks) < layer.parameters
        and ((work := macs(layer, form, ranks, positions)) <= 1 or more_macs)
    ]


def full_ranks(layer: LinearLayer, form: Factorization) -> tuple[tuple[str, int], ...]:
    """Return what each rank of a form is called, and how large it is when nothing is lost."""
    return {
        Factorization.MATRIX: (("rank", min(layer.inputs, layer.outputs)),),
        Factorization.PIVOT: (("rank", min(layer.inputs, layer.outputs)),),
        Factorization.TUCKER: (("rank of inputs", layer.inputs), ("rank of outputs", layer.outputs)),
        Factorization.SPATIAL: (("rank", min(layer.inputs * layer.kernel[0], layer.outputs * layer.kernel[-1])),)
        if layer.kernel
        else (),
        Factorization.SEPARABLE: (("windows", math.prod(layer.kernel)),),
    }[form]


def _share(layer: LinearLayer, form: Factorization, ranks: tuple[int, ...]) -> float:
    full = full_ranks(layer, form)
    return sum(rank / whole for rank, (_, whole) in zip(ranks, full, strict=True)) / len(full)


def losses(problem: Problem, form: Factorization) -> Callable[[tuple[int, ...]], float]:
    """Return what says which share of the energy of the output a split loses, by its ranks, from spectra alone."""
    floor = problem.floor
    spectra: dict[Factorization, Callable[[], list[Array]]] = {
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


def tail(energies: Array) -> Array:
    """Return what share of the energies is lost where the first 0, 1, 2 ... are kept."""
    total = max(float(energies.sum()), np.finfo(np.float64).tiny)
    shares: Array = np.append(energies[::-1].cumsum()[::-1], 0.0) / total
    return shares


def _ranks(layer: LinearLayer, form: Factorization, align: int) -> Iterator[tuple[int, ...]]:
    if form in PAIRS:
        full = min(layer.inputs, layer.outputs)
        yield from ((rank,) for rank in multiples(full, align, STEPS * 4))
    elif form is Factorization.SPATIAL:
        full = min(layer.inputs * layer.kernel[0], layer.outputs * layer.kernel[1])
        yield from ((rank,) for rank in multiples(full, align, STEPS * 4))
    elif form is Factorization.SEPARABLE:
        yield from ((rank,) for rank in range(1, math.prod(layer.kernel)))
    else:
        for few in (*multiples(layer.inputs, align, STEPS), layer.inputs):
            for narrow in (*multiples(layer.outputs, align, STEPS), layer.outputs):
                if few < layer.inputs or narrow < layer.outputs:
                    yield few, narrow


def multiples(full: int, align: int, steps: int) -> list[int]:
    """Return multiples of `align` below `full`, about `steps` of them."""
    step = align * max(1, math.ceil(full / align / steps))
    return list(range(step, full, step))
