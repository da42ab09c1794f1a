"""Rounds stored weights so that what their products make changes least, by what samples show of their inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Floats, Singles
from onnxslim.chunks import chunks
from onnxslim.data import Samples
from onnxslim.fit.rounding import output_error, round_columns
from onnxslim.observe.gram import Sums, joined_moments, measurable, sums, sums_bytes
from onnxslim.pipeline.interface import Context

from ..sensitivity import noise_of_parts
from .codebooks import Codebook, fit_codebook, fit_powers
from .grids import LevelGrid, WeightType, fit_grid
from .stored import StoredWeight, WeightUse, column_order, weight_groups

COLUMNS = 4608
"""Weights with more columns are rounded one by one: their moments would take over 170 MB."""
MOMENT_BYTES = 400_000_000
"""Bytes of the moments that are summed at once."""
PLACES = 64
"""Places of each sample where a convolution is seen."""


@dataclasses.dataclass(frozen=True)
class LevelType:
    """What levels a weight gets."""

    levels: WeightType
    bits: int
    block: int
    """Weights that share a scale; 0: all of an output."""
    symmetric: bool


@dataclasses.dataclass(frozen=True)
class RoundedWeight:
    """A weight on its levels."""

    grid: LevelGrid | Codebook
    levels: npt.NDArray[np.uint8]
    """Shape [columns, outputs]."""
    error: float
    """The energy of what its products lose as a share of theirs; of the weight itself where nothing is known of what it
    is multiplied with."""
    fitted: bool
    """Whether it is known."""
    corrections: tuple[Floats | None, ...] = ()
    """For each product what its bias takes back."""
    noise: float | None = None
    """The energy of the noise of the model's outputs where it alone is rounded, as a share of theirs; None: not
    measured."""

    @property
    def lost(self) -> float:
        """What counts: the noise of the outputs, and where that is not known its own error."""
        return self.error if self.noise is None else self.noise


def rounded_weights(
    model: ir.Model, types: Mapping[StoredWeight, LevelType], samples: Samples | None, correct: bool, context: Context
) -> dict[str, RoundedWeight]:
    """Return weights on their levels, by name.

    Args:
        model: Not changed.
        types: The weights, and what each gets.
        samples: What the products are seen on; None: nothing is known of what weights are multiplied with.
        correct: Whether biases take back the mean of what is lost.
        context: Of the run.

    Raises:
        RunError: The model does not run on the samples.
    """
    done: dict[str, RoundedWeight] = {}
    seen = [] if samples is None else [weight for weight in types if _seen(weight)]
    for weights in chunks(seen, _moment_bytes, MOMENT_BYTES):
        assert samples is not None
        products = [product.contraction for weight in weights for product in weight.products]
        found = iter(sums(model, products, samples, PLACES, context.generator, context.open_session))
        for weight in weights:
            own = [next(found) for _ in weight.products]
            done[weight.value.name or ""] = _fitted(weight, types[weight], own, correct)
            context.progress("rounding weights", len(done), len(types))
    for weight, kind in types.items():
        if weight.value.name not in done:
            done[weight.value.name or ""] = rounded_alone(weight, kind)
            context.progress("rounding weights", len(done), len(types))
    return done


def with_noise(
    model: ir.Model,
    rounded: Mapping[str, RoundedWeight],
    weights: Iterable[StoredWeight],
    copies: Mapping[ir.Value, ir.Value],
    macs: int,
    context: Context,
) -> dict[str, RoundedWeight]:
    """Return rounded weights, by name, with the noise that each alone brings to the outputs.

    Args:
        model: Not changed.
        rounded: The weights on their levels, by name.
        weights: All of them.
        copies: What of the model is a turned copy of what.
        macs: Multiply-accumulates of one run.
        context: Of the run.

    Raises:
        RunError: The model does not run on the samples.
    """
    turned = {original: copy for copy, original in copies.items()}
    parts: list[dict[str, Singles]] = []
    names: list[str] = []
    for weight in weights:
        name = weight.value.name or ""
        array = weight.restored(rounded[name].grid.dequantized(rounded[name].levels))
        copy = turned.get(weight.value)
        parts.append({name: array} | ({} if copy is None else {copy.name or "": np.ascontiguousarray(array.T)}))
        names.append(name)
    found = zip(names, noise_of_parts(model, parts, macs, context), strict=True)
    return {name: dataclasses.replace(rounded[name], noise=noise) for name, noise in found}


def rounded_alone(weight: StoredWeight, kind: LevelType) -> RoundedWeight:
    """Return a weight whose elements are rounded one by one."""
    matrix = weight.matrix()
    grid = _fit_levels(matrix, kind, None)
    levels = grid.levels(matrix)
    lost, energy = (
        float(np.square(part, dtype=np.float64).sum()) for part in (grid.dequantized(levels) - matrix, matrix)
    )
    return RoundedWeight(grid, levels, lost / energy if energy else 0.0, False)


def _fit_levels(matrix: Singles, kind: LevelType, importance: Floats | None) -> LevelGrid | Codebook:
    """Return the levels that suit a weight, shape [columns, outputs], best, each weight rounded by itself."""
    if kind.levels.equal_steps:
        return fit_grid(matrix, kind.bits, kind.block, symmetric=kind.symmetric, importance=importance)
    fit = fit_codebook if kind.levels is WeightType.CODEBOOK else fit_powers
    return fit(matrix, importance)


def _seen(weight: StoredWeight) -> bool:
    """Whether what a weight is multiplied with can be seen, and its moments are not too large."""
    products = [product.contraction for product in weight.products]
    return bool(products) and all(map(measurable, products)) and products[0].columns <= COLUMNS


def _moment_bytes(weight: StoredWeight) -> int:
    return sum(sums_bytes(product.contraction) for product in weight.products)


def _fitted(weight: StoredWeight, kind: LevelType, seen: Sequence[Sums], correct: bool) -> RoundedWeight:
    """Return a weight whose products lose least on what they were seen to read."""
    corrects = correct and all(_corrects(product) for product in weight.products)
    order = column_order(weight.products[0].contraction)
    moment = joined_moments(seen, about_mean=corrects)[:, order[:, None], order]
    energies = np.einsum("gcc->gc", moment).copy()
    if weight.tables:  # rows are read as they are, too: errors of all columns count alike there
        moment += energies.mean(axis=1)[:, None, None] * np.eye(len(order))
    matrix = weight.matrix()
    importance = energies.mean(axis=0)
    grid = _fit_levels(matrix, kind, importance)
    groups = np.stack(weight_groups(weight.products[0].contraction, matrix.astype(np.float64)))

    def nearest(column: int | np.integer[Any], values: Floats, _: Floats) -> Floats:
        return grid.nearest(int(column), values.reshape(-1)).reshape(values.shape)

    plain = np.stack([nearest(column, groups[:, column], groups) for column in range(groups.shape[1])], axis=1)
    rounded = round_columns(groups, moment, nearest, plain)
    if isinstance(grid, Codebook):
        grid, rounded = _rescaled(grid, groups, rounded, moment)
    noise, signal = (float(output_error(part, moment).sum()) for part in (groups - rounded, groups))
    lost = np.concatenate(list(groups - rounded), axis=1)
    corrections = tuple(
        _correction(product, lost, sums_, order) if corrects else None
        for product, sums_ in zip(weight.products, seen, strict=True)
    )
    on_levels = np.concatenate(list(rounded), axis=1)
    return RoundedWeight(grid, grid.levels(on_levels), max(noise, 0.0) / signal if signal else 0.0, True, corrections)


def _rescaled(codebook: Codebook, weight: Floats, rounded: Floats, moment: Floats) -> tuple[Codebook, Floats]:
    """Return a codebook whose scales suit rounded weights best, and what these are then; all of shape [groups, ...]."""
    made = moment @ rounded
    energy = (rounded * made).sum(axis=1)
    factor = (weight * made).sum(axis=1) / np.where(energy > 0, energy, 1)
    factor = np.where((energy > 0) & (factor > 0), factor, 1)
    scale = codebook.scale * factor.reshape(-1).astype(np.float32)
    return dataclasses.replace(codebook, scale=scale), rounded * factor[:, None]


def _corrects(product: WeightUse) -> bool:
    bias = product.contraction.bias
    return bias is not None and bias.free


def _correction(product: WeightUse, lost: Floats, seen: Sums, order: npt.NDArray[np.int64]) -> Floats:
    """Return the mean of what each output loses: (W - W') E[x]."""
    mean = (seen.inputs / max(seen.rows, 1))[:, order]
    groups = weight_groups(product.contraction, lost)
    return np.concatenate([group_mean @ group for group_mean, group in zip(mean, groups, strict=True)])


def decibels(error: float) -> float:
    """Return how far an error lies below the signal."""
    return -10 * math.log10(error) if error > 0 else math.inf
