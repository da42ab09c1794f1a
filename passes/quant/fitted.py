"""Rounds the weights of a plan by what their layers read: errors of the weights of one output make up for each other.

The scales are those of `quantize_weight`; the levels are chosen by `onnxslim.fit.rounding` on the second moments of the
inputs. Where a bias follows that is corrected anyway, moments are taken about the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.fit.rounding import round_columns
from onnxslim.model.constants import constant
from onnxslim.observe.gram import Sums, measurable, sums
from onnxslim.pipeline.interface import Context

from .parameters import WeightSettings, quantize_site_weight
from .plan import QuantPlan
from .saturation import Saturation
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

    Sites are left out whose weight others share, whose rows are not known, or whose products saturate in pairs.

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
    sites = [site for site in plan.sites if _can_be_fitted(site, settings)]
    few = samples.draw(SAMPLES, np.random.default_rng(context.seed))
    found: dict[str, QuantizedWeight] = {}
    for part in _parts(sites):
        read = [site.product for site in part if site.product is not None]
        places = -(-ROWS * max(contraction.columns for contraction in read) // few.count)
        moments = sums(model, read, few, places, context.generator, context.open_session)
        for site, own in zip(part, moments, strict=True):
            found[site.key] = _fitted(site, own, settings, about_mean=correct and site.bias is not None)
            context.progress("fitting weights", len(found), len(sites))
    return found


def _can_be_fitted(site: QuantSite, settings: WeightSettings) -> bool:
    product = site.product
    return (
        product is not None
        and product.weight_axis is not None
        and measurable(product)
        and 1 < product.columns <= COLUMNS
        and len(product.weight.uses()) == 1
        and (settings.saturation_of(site) is not Saturation.PAIRS)
    )


def _parts(sites: Sequence[QuantSite]) -> Iterator[list[QuantSite]]:
    """Yield sites whose moments fit into memory together."""
    part: list[QuantSite] = []
    size = 0
    for site in sites:
        assert site.product is not None
        own = 8 * site.product.groups * site.product.columns**2
        if part and size + own > BYTES:
            yield part
            part, size = [], 0
        part.append(site)
        size += own
    if part:
        yield part


def _fitted(site: QuantSite, moments: Sums, settings: WeightSettings, *, about_mean: bool) -> QuantizedWeight:
    product, array = site.product, constant(None if site.product is None else site.product.weight)
    assert product is not None
    assert array is not None
    plain = quantize_site_weight(site, settings)
    rows = max(moments.rows, 1)
    mean = moments.inputs / rows
    moment = moments.products / rows - (mean[:, :, None] * mean[:, None] if about_mean else 0.0)
    blocks = product.blocks()
    groups, _, outputs = blocks.shape
    step = np.broadcast_to(plain.scale.astype(np.float64), (groups * outputs,)).reshape(groups, outputs)
    most = settings.saturation_of(site).largest

    def nearest(_: int | np.integer, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(np.rint(values / step), -most, most) * step)

    levels = np.rint(product.from_blocks(round_columns(blocks, moment, nearest) / step[:, None]))
    return QuantizedWeight(levels.astype(np.int8), plain.scale, plain.axis)
