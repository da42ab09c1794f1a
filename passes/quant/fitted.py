"""Rounds the weights of a plan by what their layers read: errors of the weights of one output make up for each other.

The scales are those of `quantize_weight`; the levels are chosen by `onnxslim.fit.rounding` on the second moments of the
inputs. Where a bias follows that is corrected anyway, moments are taken about the mean.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.arrays import Floats, Indices
from onnxslim.chunks import chunks
from onnxslim.data import Samples
from onnxslim.fit.rounding import best_steps, round_columns
from onnxslim.observe.gram import joined_moments, measurable, sums, sums_bytes
from onnxslim.pipeline.interface import Context

from .parameters import WeightSettings, quantize_site_weight
from .plan import QuantPlan
from .saturation import PAIR_LIMIT, Saturation, fit_pairs, products_in_order
from .site import QuantSite
from .weights import QuantizedWeight

SAMPLES = 64
"""Samples that the moments are taken of."""
ROWS = 4
"""Rows for each column: more do not change the moments much."""
BYTES = 256_000_000
"""Bytes of moments that are summed in one run over the samples."""
COLUMNS = 5000
"""Layers with more columns are rounded to the nearest levels: their moments would take more than 200 MB."""


def fitted_weights(
    model: ir.Model, plan: QuantPlan, settings: WeightSettings, samples: Samples, correct: bool, context: Context
) -> dict[str, QuantizedWeight]:
    """Return weights whose levels are fitted to the samples, by the keys of their sites.

    Sites are left out whose weight others share, or whose rows are not known.

    Args:
        model: The float model; it is not changed.
        plan: Of the model.
        settings: How weights are quantized.
        samples: As many as are wanted are drawn of them.
        correct: Whether biases take back the mean error.
        context: The context of the pass.

    Raises:
        RunError: The model does not run on the samples.
        ValuesNotFinite: A layer reads values that are not finite.
    """
    sites = [site for site in plan.sites if can_be_fitted(site, settings)]
    products = {site.key: site.product for site in sites if site.product is not None}
    few = samples.draw(SAMPLES, np.random.default_rng(context.seed))
    found: dict[str, QuantizedWeight] = {}
    for part in chunks(sites, lambda site: sums_bytes(products[site.key]), BYTES):
        read = [products[site.key] for site in part]
        places = -(-ROWS * max(contraction.columns for contraction in read) // few.count)
        moments = sums(model, read, few, places, context.generator, context.open_session)
        for site, product in zip(part, read, strict=True):
            moment = joined_moments([moments.pop(0)], about_mean=correct and site.bias is not None)
            found[site.key] = _fitted(site, product, moment, settings)
            del moment  # before those of the next layers are summed: they may be the largest thing in memory
            context.progress("fitting weights", len(found), len(sites))
    return found


def can_be_fitted(site: QuantSite, settings: WeightSettings) -> bool:
    """Whether the weight of a site is its own, and the rows that it multiplies are known."""
    product = site.product
    return (
        product is not None
        and product.weight_axis is not None
        and measurable(product)
        and 1 < product.columns <= COLUMNS
        and len(product.weight.uses()) == 1
    )


def _fitted(site: QuantSite, product: Contraction, moment: Floats, settings: WeightSettings) -> QuantizedWeight:
    """Return the weight of a site that has one, at the scales of the nearest levels.

    Where levels are few the scales are such that the nearest ones change the outputs least, and not the weights.
    """
    plain = quantize_site_weight(site, settings)
    blocks = product.blocks()
    groups, _, outputs = blocks.shape
    step = np.broadcast_to(plain.scale.astype(np.float64), (groups * outputs,)).reshape(groups, outputs)
    ends = settings.saturation_of(site).ends(plain.integers)
    scale = plain.scale
    if plain.integers.narrow and plain.axis is not None:
        step = best_steps(blocks, moment, step, ends)
        scale = step.reshape(-1).astype(np.float32)

    return rounded_to(dataclasses.replace(plain, scale=scale), site, blocks, moment, settings)


def rounded_to(
    like: QuantizedWeight, site: QuantSite, blocks: Floats, moment: Floats, settings: WeightSettings
) -> QuantizedWeight:
    """Return levels, on the scales of a quantized weight of a site, that do to its outputs what a weight does.

    Args:
        like: What the scales, the axis and the integers are taken of.
        site: One that can be fitted.
        blocks: The weight, shape [groups, columns, outputs]; see `Contraction.blocks`.
        moment: The mean products of what the columns read, shape [groups, columns, columns].
        settings: How weights are quantized.
    """
    product = site.product
    assert product is not None
    grid = _grid(like, site, blocks.shape, settings)
    rounded = round_columns(blocks, moment, grid.nearest, grid.plain(blocks))
    levels = np.rint(product.from_blocks(rounded / grid.step[:, None]))
    return dataclasses.replace(like, levels=levels.astype(np.int8))


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The values that the weight of a site may have."""

    step: Floats
    """Between levels, shape [groups, outputs]."""
    ends: tuple[int, int]
    """The lowest and the highest level."""
    left: Indices
    right: Indices
    """Columns of which no two together may exceed what the kernel can hold, in step; none where all can be held."""

    def plain(self, blocks: Floats) -> Floats:
        """Return the values next to a weight, shape [groups, columns, outputs]."""
        levels = np.clip(blocks / self.step[:, None], *self.ends)
        pairs = np.stack([levels[:, self.left], levels[:, self.right]], axis=-1)
        fitted = fit_pairs(pairs.reshape(-1, 2).astype(np.float32)).reshape(pairs.shape)
        levels[:, self.left], levels[:, self.right] = fitted[..., 0], fitted[..., 1]
        rounded: Floats = np.rint(levels) * self.step[:, None]
        return rounded

    def nearest(self, column: int | np.integer[Any], values: Floats, others: Floats) -> Floats:
        """Return the values next to those of a column, as far as its partner leaves room; see `Nearest`."""
        levels: Floats = np.clip(np.rint(values / self.step), *self.ends)
        partner = self._partners.get(int(column))
        if partner is not None:
            beside = np.rint(others[:, partner] / self.step)
            levels = np.clip(levels, np.maximum(-beside, 0) - PAIR_LIMIT, PAIR_LIMIT - np.maximum(beside, 0))
        return levels * self.step

    @functools.cached_property
    def _partners(self) -> dict[int, int]:
        left, right = self.left.tolist(), self.right.tolist()
        return dict(zip(left + right, right + left, strict=True))


def _grid(like: QuantizedWeight, site: QuantSite, shape: tuple[int, ...], settings: WeightSettings) -> _Grid:
    """Return the grid of a quantized weight of a site, whose blocks have a shape."""
    product, saturation = site.product, settings.saturation_of(site)
    assert product is not None
    assert product.weight_axis is not None
    groups, columns, outputs = shape
    step = np.broadcast_to(like.scale.astype(np.float64), (groups * outputs,)).reshape(groups, outputs)
    order = np.zeros(0, np.int64)
    if saturation is Saturation.PAIRS:
        places = np.broadcast_to(np.arange(columns, dtype=np.float64)[:, None], shape)
        rows = products_in_order(product.from_blocks(places), product.weight_axis, site.row.packing)
        order = rows[0, : columns // 2 * 2].astype(np.int64)
    return _Grid(step, saturation.ends(like.integers), order[0::2], order[1::2])
