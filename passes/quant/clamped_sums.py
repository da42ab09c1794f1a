"""What a clamp leaves of an operand of a sum in front of it, the error of which counts there.

Behind a residual addition lies a Relu in most networks: of what the branch adds that is far below zero nothing is left,
however far, unless the stream is as large there. Operands are taken to be independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxslim.arrays import Floats
from onnxslim.ops.traits import Trait, has

from .intervals import Histogram
from .plan import QuantPlan, ScaleGroup
from .site import QuantSite, clamp_limits
from .table import Int8Table

QUANTILES = 32
"""Values of the other operand that stand for all of them."""


def clamped_sums(plan: QuantPlan, table: Int8Table, histograms: Mapping[str, Histogram]) -> dict[str, Floats]:
    """Return what clamps leave of sums for each tensor that is read by one such sum alone.

    Args:
        plan: What is quantized.
        table: Of the target, which says what a clamp is.
        histograms: Of the sources of the groups of the plan, by name.

    Returns:
        By the names of the sources, for each of `QUANTILES` values of the other operand what becomes of the centers of
        the histogram, shape [QUANTILES, BINS]; so small that the sum of their squares is the mean square.
    """
    sources, found = plan.sources, dict[str, Floats]()
    groups = {group.source.name or "": group for group in plan.groups}
    for site in plan.sites:
        names = [sources[value] for value in site.operands()]
        if not (has(site.node, Trait.ADDS) and len(names) == 2 and site.clamp is not None):
            continue
        limits = clamp_limits(site.clamp, table)
        if limits is None or not histograms.keys() >= set(names):
            continue
        for name, other in (names, reversed(names)):
            if _reads_alone(site, groups[name]):
                sums = histograms[name].centers + _quantiles(histograms[other])[:, None]
                found[name] = np.clip(sums, *limits) / np.sqrt(QUANTILES)
    return found


def _reads_alone(site: QuantSite, group: ScaleGroup) -> bool:
    (source, *moved) = group.members
    return not moved and not source.is_graph_output() and [use.node for use in source.uses()] == [site.node]


def _quantiles(histogram: Histogram) -> Floats:
    """Return values that as many elements lie between, the last one the largest that was seen."""
    cumulated = np.cumsum(histogram.counts)
    shares = np.append((np.arange(QUANTILES - 1) + 0.5) / (QUANTILES - 1), 1.0)
    indices = np.searchsorted(cumulated, shares * cumulated[-1])
    return np.asarray(histogram.centers[np.minimum(indices, len(cumulated) - 1)])
