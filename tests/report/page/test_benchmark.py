from __future__ import annotations

import dataclasses

import numpy as np
from page_checks import check_page
from report_pages import HOSTILE

from onnxslim.commands.bench import Benchmark, SpeedFigures
from onnxslim.pipeline.records import Reproduction
from onnxslim.report.page.document import page_of
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target

TIMES = tuple(np.sort(np.random.default_rng(0).lognormal(0, 0.3, 101)))
FIRST = SpeedFigures(
    "models/a.onnx", 4_000_000, Percentiles(1.0, 1.6, 2.0, TIMES), 20.0, 3.0, 1000.0, 9_000_000, None, None,
    energy_reason="no RAPL counters here", speedup_reason="the model that the others are compared with",
)  # fmt: skip
SECOND = dataclasses.replace(
    FIRST, path="b.onnx", size_bytes=1_000_000, latency_ms=Percentiles(2.0, 2.1, 2.2), speedup=Interval(0.5, 0.4, 0.6)
)
MADE = Reproduction("onnxslim bench models/a.onnx b.onnx", {"onnxslim": "0.1.0"})


def bench(*models: SpeedFigures) -> Benchmark:
    return Benchmark(Target("cpu", "AMD EPYC", "avx2", 2), 7, "x.npz", models, MADE)


def test_the_page_says_what_was_measured():
    page = check_page(page_of(bench(FIRST, SECOND)))
    assert page.title == "b.onnx against a.onnx"
    words = " ".join(page.words)
    for expected in (
        *(
            "2.00x slower (1.67 to 2.50)",
            "4.00×",
            "smaller",
            "2.00×",
            "slower",
            "4.00 MB → 1.00 MB",
            "1.00 ms",
            "20.0 ms",
        ),
        *("No energy: no RAPL counters here", "onnxslim bench models/a.onnx b.onnx", "Latency of one inference"),
    ):
        assert expected in words, expected


def test_one_model_or_many_hostile_ones():
    assert check_page(page_of(bench(FIRST))).title == "a.onnx"
    many = [dataclasses.replace(SECOND, path=name, energy_reason=name) for name in HOSTILE]
    check_page(page_of(bench(FIRST, *many)))


def test_a_process_of_its_own_is_said_only_where_there_was_one():
    result = bench(FIRST, SECOND)
    on_cuda = dataclasses.replace(result, target=dataclasses.replace(result.target, provider="cuda"))
    assert "in a process of its own" in page_of(result)
    assert "in a process of its own" not in page_of(on_cuda)
