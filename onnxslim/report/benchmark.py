"""Models that were timed against each other, as a table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from onnxslim.commands.bench import Benchmark
from onnxslim.report.terminal import line, print_table, print_target
from onnxslim.units import in_bytes, in_millijoules, in_milliseconds, per_second, speed


def print_benchmark(result: Benchmark, console: Console) -> None:
    """Print one column a model."""
    print_target(result.target, console)
    line(console, f"One sample of: {result.source}")
    names = (Path(model.path).name for model in result.models)
    print_table(console, ("", *names), ((name, *cells) for name, cells in benchmark_rows(result)))
    for text in missing_figures(result):
        line(console, text, style="dim")


def benchmark_rows(result: Benchmark) -> list[tuple[str, list[str]]]:
    """Return the figures as a person reads them: a name, and a cell for each model."""
    models = result.models
    latencies = [model.latency_ms for model in models]
    return [
        ("Size", [in_bytes(model.size_bytes) for model in models]),
        ("Latency, median", [in_milliseconds(latency.p50) for latency in latencies]),
        ("95 % within", [in_milliseconds(latency.p95) for latency in latencies]),
        ("99 % within", [in_milliseconds(latency.p99) for latency in latencies]),
        ("Loading", [in_milliseconds(model.load_ms) for model in models]),
        ("First run", [in_milliseconds(model.first_run_ms) for model in models]),
        ("Throughput", [per_second(model.throughput_per_s) for model in models]),
        ("Peak memory", [in_bytes(model.peak_memory_bytes) for model in models]),
        ("Energy", [in_millijoules(model.energy_mj) for model in models]),
        ("Against the first", ["", *(speed(model.speedup) for model in models[1:])]),
    ]


def missing_figures(result: Benchmark) -> list[str]:
    """Return what could not be measured, and why; each reason once."""
    found = []
    for what, key in (
        ("cold start", "load_reason"),
        ("energy", "energy_reason"),
        ("peak memory", "peak_memory_reason"),
    ):
        reasons = dict.fromkeys(filter(None, (getattr(model, key) for model in result.models)))
        found += [f"No {what}: {reason}" for reason in reasons]
    return found
