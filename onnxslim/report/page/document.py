"""Chooses the page that belongs to a record."""

from __future__ import annotations

from typing import Any

from onnxslim.commands.bench import Benchmark
from onnxslim.commands.compare import Comparison
from onnxslim.pipeline.records import Report
from onnxslim.report.page.benchmark import benchmark_page
from onnxslim.report.page.comparison import comparison_page
from onnxslim.report.page.optimization import optimization_page
from onnxslim.report.page.rendering import need_libraries


def page_of(record: Any) -> str:
    """Return the page of a record: HTML in one piece.

    Raises:
        OutputError: What a page needs is not installed.
        TypeError: There is no page for such a record.
    """
    need_libraries()
    if isinstance(record, Report):
        return optimization_page(record)
    if isinstance(record, Benchmark):
        return benchmark_page(record)
    if isinstance(record, Comparison):
        return comparison_page(record)
    raise TypeError(f"there is no page of a {type(record).__name__}")
