"""The page of a benchmark: models timed against the first of them."""

from __future__ import annotations

import pathlib

from onnxslim.commands.bench import Benchmark
from onnxslim.installation import version
from onnxslim.report.benchmark import benchmark_rows, missing_figures
from onnxslim.report.figures import target_words
from onnxslim.report.page.facts import provenance
from onnxslim.report.page.plots import latency_plot
from onnxslim.report.page.rendering import render
from onnxslim.report.page.tiles import Tile, latency_tiles, ratio_tile, size_tile
from onnxslim.report.page.visible import shortened
from onnxslim.units import in_bytes, in_milliseconds


def benchmark_page(result: Benchmark) -> str:
    """Return the page of `result`."""
    names = [shortened(pathlib.PurePath(model.path).name, 60) for model in result.models]
    return render(
        "benchmark.html",
        {
            "version": version(),
            "title": " against ".join([names[-1], names[0]]) if len(names) > 1 else names[0],
            "names": names,
            "summary": f"One sample of: {result.source}. Measured on {target_words(result.target)}.",
            "tiles": _tiles(result),
            "rows": benchmark_rows(result),
            "missing": missing_figures(result),
            "latency": latency_plot(
                [(name, model.latency_ms) for name, model in zip(names, result.models, strict=True)]
            ),
            "apart": result.target.facts.own_process,
            "made": result.reproduction,
            "provenance": [
                *[(f"model {number}", model.path) for number, model in enumerate(result.models, 1)],
                *provenance(result.target, result.seed, result.reproduction),
            ],
        },
    )


def _tiles(result: Benchmark) -> list[Tile]:
    """Return the figures of the last model against the first."""
    first, last = result.models[0], result.models[-1]
    if last is first:
        return [Tile("Latency, median", in_milliseconds(first.latency_ms.p50), "", "of one inference")]
    tiles = latency_tiles(last.speedup, first.latency_ms, last.latency_ms)
    tiles.append(size_tile(first.size_bytes, last.size_bytes))
    if first.peak_memory_bytes and last.peak_memory_bytes:
        peaks = f"{in_bytes(first.peak_memory_bytes)} → {in_bytes(last.peak_memory_bytes)}"
        ratio = first.peak_memory_bytes / last.peak_memory_bytes
        tiles.append(ratio_tile("Peak memory", ratio, "less", "more", peaks))
    return tiles
