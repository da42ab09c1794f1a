"""The part of a page that says where size, work, time and error lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from onnxslim.pipeline.records import Breakdown, LayerCost, LayerFigures, OpFigures
from onnxslim.report.page.bars import Bars
from onnxslim.report.page.plots import Plot, error_plot
from onnxslim.report.page.visible import shortened
from onnxslim.units import in_bytes, in_milliseconds, in_thousands

TOP_LAYERS = 40
TOP_OPS = 12
"""How many are shown one by one; the rest is added up."""
SMALLEST = 0.002
"""Share of the whole below which a layer is added to the rest, where there are many."""
NAME = 200


def short_time(milliseconds: float | None) -> str:
    """Return the time of a layer, which is often less than a tenth of a millisecond."""
    if milliseconds is None or milliseconds >= 0.1 or milliseconds == 0:
        return in_milliseconds(milliseconds) if milliseconds else "0"
    return f"{1e3 * milliseconds:.3g} µs"


Quantity = tuple[str, Callable[[LayerCost], float | None], Callable[[float | None], str]]
QUANTITIES: tuple[Quantity, ...] = (
    ("weights", lambda cost: cost.weight_bytes, in_bytes),
    ("MACs", lambda cost: cost.macs, in_thousands),
    ("time", lambda cost: cost.time_ms, short_time),
)


def breakdown_view(breakdown: Breakdown | None) -> dict[str, Any]:
    """Return what the template shows of a breakdown; empty lists where there is none."""
    if breakdown is None:
        return {"layers": [], "ops": [], "quantities": [], "errors": None, "untimed": ""}
    known = [quantity for quantity in QUANTITIES if _total(breakdown.ops, quantity) > 0]
    timed = any(cost.time_ms is not None for row in breakdown.ops for cost in (row.before, row.after))
    reasons = [cost.time_reason for row in breakdown.ops for cost in (row.before, row.after) if cost.time_reason]
    layers, rest = _split(breakdown.layers, known, TOP_LAYERS)
    ops, more = _split(breakdown.ops, known, TOP_OPS)
    return {
        "quantities": [name for name, _, _ in known],
        "layers": _layer_rows(layers, rest, known),
        "ops": _op_rows(ops, more, known),
        "errors": _errors(breakdown.layers),
        "untimed": "" if timed or not reasons else shortened(reasons[0], NAME),
    }


CostRow = LayerFigures | OpFigures


def _total(figures: Sequence[CostRow], quantity: Quantity) -> float:
    return sum(quantity[1](cost) or 0.0 for row in figures for cost in (row.before, row.after))


def _split(figures: Sequence[CostRow], known: Sequence[Quantity], most: int) -> tuple[list[CostRow], list[CostRow]]:
    """Return the heaviest in the order in which they came, and the rest."""
    totals = [_total(figures, quantity) for quantity in known]

    def weight(row: CostRow) -> float:
        return max((_total([row], one) / total for one, total in zip(known, totals, strict=True)), default=0.0)

    ranked = sorted(range(len(figures)), key=lambda index: -weight(figures[index]))
    shown = {index for index in ranked[:most] if weight(figures[index]) >= SMALLEST or len(figures) <= most // 2}
    heaviest = [row for index, row in enumerate(figures) if index in shown]
    return heaviest, [row for index, row in enumerate(figures) if index not in shown]


def _layer_rows(layers: Sequence[CostRow], rest: Sequence[CostRow], known: Sequence[Quantity]) -> list[dict[str, Any]]:
    longest = _longest(layers, known)
    rows = []
    for row in layers:
        assert isinstance(row, LayerFigures)
        widths = (
            f"{change.before:,} → {change.after:,} {shortened(change.quantity, 40)}"
            for change in row.changes
            if change.before != change.after and change.quantity != "bits"  # the types say it
        )
        costs = (row.before, row.after) if row.before.weight_type or row.after.macs else ()
        types = dict.fromkeys(cost.weight_type for cost in costs if cost.weight_type)
        reason = (row.sqnr_reason or "").partition(":")[0]
        error = reason if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
        rows.append(
            {
                "name": shortened(row.name, NAME),
                "op": shortened(row.op, 40),
                "facts": ", ".join([" → ".join(types), *list(widths)[:4]]).strip(", "),
                "bars": _bars([row], known, longest),
                "error": shortened(error, 80),
                "measured": row.sqnr_db is not None,
            }
        )
    if rest:
        rows.append(
            {
                "name": f"{len(rest):,} smaller layers together" if rows else f"{len(rest):,} layers together",
                "op": "",
                "facts": "",
                "bars": _bars(rest, known, longest),
                "error": "",
                "measured": False,
            }
        )
    return rows


def _op_rows(ops: Sequence[CostRow], rest: Sequence[CostRow], known: Sequence[Quantity]) -> list[dict[str, Any]]:
    longest = _longest(ops, known)
    rows = [
        {
            "name": shortened(row.op, 60),
            "nodes": f"{row.before.nodes:,} → {row.after.nodes:,}" if row.before.nodes + row.after.nodes else "",
            "bars": _bars([row], known, longest),
        }
        for row in ops
    ]
    if rest:
        nodes = (sum(cost.nodes for cost in side) for side in zip(*((e.before, e.after) for e in rest), strict=True))
        name = f"{len(rest):,} other op{'s' * (len(rest) != 1)}"
        rows.append({"name": name, "nodes": " → ".join(map("{:,}".format, nodes)), "bars": _bars(rest, known, longest)})
    return rows


def _longest(figures: Sequence[CostRow], known: Sequence[Quantity]) -> list[float]:
    return [
        max((read(cost) or 0.0 for row in figures for cost in (row.before, row.after)), default=0.0)
        for _, read, _ in known
    ]


def _bars(rows: Sequence[CostRow], known: Sequence[Quantity], longest: Sequence[float]) -> list[Bars | None]:
    """Return the bars of each quantity, of all rows together; None where there is nothing of it."""
    found = []
    for (_, read, show), most in zip(known, longest, strict=True):
        before = _sum(read(row.before) for row in rows)
        after = _sum(read(row.after) for row in rows)
        found.append(Bars.of(before, after, most, show) if before or after else None)
    return found


def _sum(amounts: Iterable[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def _errors(layers: Sequence[LayerFigures]) -> Plot | None:
    measured = [(place, row) for place, row in enumerate(layers, 1) if row.sqnr_db is not None]
    if len(measured) < 2:
        return None
    return error_plot([(place, row.name, row.sqnr_db or 0.0) for place, row in measured], len(layers))
