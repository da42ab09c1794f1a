"""The page of a comparison: what two models answer on the same samples."""

from __future__ import annotations

import pathlib
from typing import Any

from onnxslim.commands.compare import Comparison
from onnxslim.commands.difference import Difference
from onnxslim.installation import version
from onnxslim.quality.fidelity import FIGURES
from onnxslim.report.comparison import comparison_rows, output_rows
from onnxslim.report.figures import data_words, judgement, target_words
from onnxslim.report.page.facts import provenance, warnings_view
from onnxslim.report.page.layers import breakdown_view
from onnxslim.report.page.plots import latency_plot
from onnxslim.report.page.rendering import render
from onnxslim.report.page.tiles import Tile, latency_tiles, quality_tile, size_tile
from onnxslim.report.page.visible import shortened

TOP_REGIONS, TOP_LINES = 60, 24
"""How many regions that differ are shown, and lines of each side."""


def comparison_page(result: Comparison) -> str:
    """Return the page of `result`."""
    names = [shortened(pathlib.PurePath(path).name, 60) for path in (result.candidate, result.reference)]
    labelled = result.reference_accuracy is not None
    timed = (names[1], result.reference_latency_ms), (names[0], result.candidate_latency_ms)
    latencies = [(name, latency) for name, latency in timed if latency is not None]
    return render(
        "comparison.html",
        {
            "version": version(),
            "title": f"{names[0]} against {names[1]}",
            "names": names,
            "summary": f"{data_words(result.data)}. Run on {target_words(result.target)}.",
            "tiles": _tiles(result, labelled),
            "warnings": warnings_view(result.diagnostics),
            "judgement": judgement(result.quality),
            "rows": comparison_rows(result),
            "latency": latency_plot(latencies) if latencies else None,
            "unlabelled": "" if labelled else result.reference_accuracy_reason or "",
            "fidelity": [figure.title for figure in FIGURES],
            "outputs": output_rows(result),
            "slices": [(output.name, output.slices) for output in result.outputs if output.slices],
            "change": _change(result.difference),
            **breakdown_view(result.breakdown),
            "widths": [],
            "more_widths": "",
            "apart": result.target.facts.own_process,
            "made": result.reproduction,
            "provenance": [
                ("reference", result.reference),
                ("candidate", result.candidate),
                ("data", result.data.source),
                *provenance(result.target, None, result.reproduction),
            ],
        },
    )


def _tiles(result: Comparison, labelled: bool) -> list[Tile]:
    tile = quality_tile(result.quality, result.fidelity, labelled=labelled)
    tiles = [size_tile(result.reference_bytes, result.candidate_bytes)]
    tiles += latency_tiles(result.speedup, result.reference_latency_ms, result.candidate_latency_ms)
    if tile is not None:
        tiles.append(tile)
    fidelity = result.fidelity
    if fidelity.sqnr_db is not None and (tile is None or tile.label != "Signal to noise"):
        between = f"95 % interval {fidelity.sqnr_db.low:.1f} to {fidelity.sqnr_db.high:.1f}"
        tiles.append(Tile("Signal to noise", f"{fidelity.sqnr_db.value:.1f}", "dB", between))
    if result.difference is not None:
        regions = sum(region.times for region in result.difference.regions)
        unchanged = f"{result.difference.unchanged:,} nodes are unchanged"
        tiles.append(
            Tile("Graph", f"{regions:,}", f"region{'s' * (regions != 1)} differ{'s' * (regions == 1)}", unchanged)
        )
    return tiles


def _change(difference: Difference | None) -> list[dict[str, Any]]:
    """Return the first regions in which the graphs differ, as lines of ONNX text."""
    if difference is None:
        return []
    return [
        {
            "title": f"{len(region.before):,} → {len(region.after):,} nodes"
            + (f", {region.times:,} times" if region.times > 1 else ""),
            "lines": "\n".join(
                f"{mark} {shortened(line, 300)}"
                for mark, lines in (("-", region.before), ("+", region.after))
                for line in lines[:TOP_LINES]
            ),
        }
        for region in difference.regions[:TOP_REGIONS]
    ]
