"""Where a model runs, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from onnxslim.commands.placement import ModelPlacement
from onnxslim.report.figures import target_words
from onnxslim.report.terminal import line, print_table
from onnxslim.runtime.placement import Purpose, RunsIn
from onnxslim.units import in_milliseconds, in_percent

MEANING = {
    RunsIn.INT8: "computes on integers of 8 bits",
    RunsIn.WEIGHTS: "computes on floats, with weights of few bits",
    RunsIn.FLOAT: "computes on floats",
    RunsIn.CONVERSION: "between floats and integers",
    RunsIn.OTHER: "shapes, indices, truth values",
    RunsIn.NOWHERE: "computed when the model was opened, or not run",
}


def print_placement(placement: ModelPlacement, console: Console, *, top: int = 10) -> None:
    """Print how much runs where, the kernels that take longest, and the conversions that bring nothing."""
    line(console, f"{placement.path} on {target_words(placement.target)}, {placement.source}")
    rows = (
        (
            where,
            f"{figures.nodes:,}",
            f"{figures.kernels:,}",
            in_milliseconds(figures.time_ms),
            in_percent(figures.share),
            MEANING[RunsIn(where)],
        )
        for where, figures in placement.places.items()
    )
    print_table(console, ("runs in", "nodes", "kernels", "time", "share", ""), rows, right=(1, 2, 3, 4))
    kernels = (
        (
            kernel.nodes[-1] if kernel.nodes else kernel.name,
            ", ".join(kernel.ops),
            kernel.op_type,
            kernel.runs_in,
            in_milliseconds(kernel.time_ms),
            in_percent(kernel.share),
        )
        for kernel in placement.kernels[:top]
    )
    print_table(console, ("longest", "ops", "kernel", "runs in", "time", "share"), kernels, right=(4, 5))
    if placement.conversions_reason:
        line(console, f"What conversions are for is not known: {placement.conversions_reason}")
        return
    print_table(console, ("conversions", "for", "count", "time", "share"), _conversions(placement), right=(2, 3, 4))
    wasted = placement.wasted
    if wasted:
        shares = [conversion.share for conversion in wasted if conversion.share is not None]
        cost = f", {sum(shares):.1%} of the time" if shares else ""
        line(console, f"{len(wasted):,} conversions cost time and bring none{cost} (--json names them).")
    elif placement.conversions:
        line(console, "Every conversion leads into int8, or out of it.")


def _conversions(placement: ModelPlacement) -> Iterator[tuple[str, str, str, str, str]]:
    for purpose in Purpose:
        own = [conversion for conversion in placement.conversions or () if conversion.purpose == purpose.value]
        if own:
            times = [conversion.time_ms for conversion in own if conversion.time_ms is not None]
            shares = [conversion.share for conversion in own if conversion.share is not None]
            ops = list(dict.fromkeys(op for conversion in own for op in conversion.neighbours))
            yield (
                purpose.value,
                ", ".join(ops[:4]) + (", ..." if len(ops) > 4 else ""),
                f"{len(own):,}",
                in_milliseconds(sum(times) if times else None),
                in_percent(sum(shares) if shares else None),
            )
