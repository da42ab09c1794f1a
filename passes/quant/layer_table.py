"""The table of layers: what each costs where it alone is quantized, what that saves, and what became of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence, Set

import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.model.constants import constant_tensor
from onnxslim.pipeline.interface import IN_FLOAT, LayerSensitivity

from .cost import PlanCosts
from .integers import IntegerType
from .plan import QuantPlan, layers_of
from .sensitivity import PartErrors
from .site import QuantSite

WIDE_ACTIVATIONS = "its activations have more bits: they cost the outputs most for their time"
WIDER = "its weight costs the outputs most for its bytes"


@dataclasses.dataclass(frozen=True)
class TableRow:
    """What is known of one layer."""

    node: ir.Node
    bytes_before: int
    """Its weight."""
    bytes_after: int
    """The same on its levels."""
    became: str
    why: str
    noise: float | None
    """Where it alone is quantized, as a share of the signal; None: not measured."""
    measured_on: str
    """Where the noise is."""
    own: float = 0.0
    """What it counts for in the sum of all; noise that is due to several layers counts for each in equal parts."""
    saved_ms: float | None = None


def layer_table(rows: Sequence[TableRow], unmeasured: str = "") -> tuple[LayerSensitivity, ...]:
    """Return what the report says of layers; `unmeasured` is why their noise is not known, where it is not."""
    total = sum(row.own for row in rows)
    return tuple(
        LayerSensitivity(
            layer=label(row.node),
            op=row.node.op_type,
            sqnr_db=-10 * math.log10(row.noise) if row.noise else None,
            measured_on=row.measured_on,
            share=None if row.noise is None else row.own / total if total else 0.0,
            bytes_before=row.bytes_before,
            bytes_after=row.bytes_after,
            saved_ms=row.saved_ms,
            became=row.became,
            why=row.why,
            sqnr_reason=None if row.noise else unmeasured if row.noise is None else "nothing changes",
            share_reason=unmeasured if row.noise is None else None,
            saved_reason="not measured" if row.saved_ms is None else None,
        )
        for row in rows
    )


def plan_table(
    asked: QuantPlan,
    made: QuantPlan,
    integers: Callable[[QuantSite], IntegerType],
    wider: Set[str],
    errors: PartErrors | None,
    costs: PlanCosts | None,
    against: str = "",
) -> tuple[LayerSensitivity, ...]:
    """Return what the report says of the layers of a plan.

    Args:
        asked: What could be quantized.
        made: What is.
        integers: What a product becomes.
        wider: Sites whose weights get more bits than was asked for, by their keys.
        errors: Of what could be; None: not measured.
        costs: The same.
        against: Why nothing is.
    """
    shares = () if errors is None else errors.of_layers(asked)
    of_plan = {site.node for site in made.sites}
    reasons = {note.subject: note.reason for note in made.left}
    seen: set[ir.Value] = set()
    rows: list[TableRow] = []
    for key, sites in layers_of(asked).items():
        site = next(site for site in sites if site.is_contraction)
        weight = None if site.product is None or site.product.weight in seen else site.product.weight
        tensor = None
        if weight is not None:
            seen.add(weight)
            tensor = constant_tensor(weight)
        own = [error for error in shares if key in error.layers]
        cost = costs.layers.get(key) if costs is not None and costs.measured else None
        why = "; ".join(words for words, keys in ((WIDER, wider), (WIDE_ACTIVATIONS, made.wide)) if site.key in keys)
        if site.node not in of_plan:
            why = reasons.get(label(site.node), against)
        rows.append(
            TableRow(
                site.node,
                bytes_before=0 if tensor is None else tensor.nbytes,
                bytes_after=0 if tensor is None else -(-tensor.size * integers(site).bits // 8),
                became=integers(site).name if site.node in of_plan else IN_FLOAT,
                why=why,
                noise=None if errors is None else sum(error.share for error in own),
                measured_on="outputs",
                own=sum(error.share / len(error.layers) for error in own),
                saved_ms=None if cost is None else cost.float_time - cost.int8_time,
            )
        )
    return layer_table(rows, "not measured: nothing that was asked for depends on it")
