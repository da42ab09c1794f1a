from __future__ import annotations

import dataclasses

from page_checks import check_page
from report_pages import HOSTILE, hostile_report
from report_strategies import sample_report

from onnxslim.commands.compare import Comparison
from onnxslim.commands.difference import Difference, RewrittenRegion
from onnxslim.pipeline.records import OutputFigures, Reproduction, SliceFigures
from onnxslim.report.page.document import page_of
from onnxslim.runtime.statistics import Interval


def comparison() -> Comparison:
    report = sample_report()
    slices = (SliceFigures("boxes", Interval(31.0, 30.0, 32.0)), SliceFigures("scores", None, "it is all zeros"))
    return Comparison(
        reference="models/a.onnx",
        candidate="b.onnx",
        target=report.target,
        data=report.data,
        fidelity=report.fidelity,
        quality=dataclasses.replace(report.quality, outputs=(OutputFigures("logits", report.fidelity, slices),)),
        outputs=(OutputFigures("logits", report.fidelity, slices),),
        reference_accuracy=Interval(0.93, 0.92, 0.94),
        candidate_accuracy=Interval(0.92, 0.91, 0.93),
        reference_bytes=4000,
        candidate_bytes=1000,
        reference_latency_ms=report.before.latency_ms,
        candidate_latency_ms=report.after.latency_ms,
        speedup=report.ratio.latency,
        reproduction=Reproduction("onnxslim compare models/a.onnx b.onnx", {"onnxslim": "0.1.0"}),
        difference=Difference("a", "b", 12, (RewrittenRegion(("y = Relu (x)",), ("y = Clip (x)",), 3),)),
    )


def test_the_page_says_what_differs():
    page = check_page(page_of(comparison()))
    assert page.title == "b.onnx against a.onnx"
    words = " ".join(page.words)
    for expected in (
        *("28.7 dB (28.5 to 28.9)", "0.9993", "0.31", "SQNR within logits: boxes 31.0 dB", "scores it is all zeros"),
        *("4.00×", "smaller", "4.00 kB → 1.00 kB", "2.31×", "faster", "Latency, median", "spread, warm"),
        *("1 → 1 nodes, 3 times", "- y = Relu (x)", "+ y = Clip (x)", "12 nodes are unchanged"),
        "onnxslim compare models/a.onnx b.onnx",
    ):
        assert expected in words, expected


def test_a_process_of_its_own_is_said_only_where_there_was_one():
    result = comparison()
    on_cuda = dataclasses.replace(result, target=dataclasses.replace(result.target, provider="cuda"))
    assert "in a process of its own" in page_of(result)
    assert "in a process of its own" not in page_of(on_cuda)


def test_what_was_not_timed_is_not_drawn():
    untimed = {"reference_latency_ms": None, "candidate_latency_ms": None, "speedup": None}
    why = ("reference_latency_reason", "candidate_latency_reason", "speedup_reason")
    result = dataclasses.replace(comparison(), **untimed, **dict.fromkeys(why, "not timed: --no-measure"))
    words = " ".join(check_page(page_of(result)).words)
    assert "not timed: --no-measure" in words
    assert "spread, warm" not in words


def test_names_run_nothing_and_long_differences_are_cut():
    regions = tuple(RewrittenRegion(HOSTILE * 30, HOSTILE * 30, 1) for _ in range(500))
    hostile = dataclasses.replace(
        comparison(),
        reference=HOSTILE[0],
        candidate=HOSTILE[-1],
        outputs=tuple(OutputFigures(name, sample_report().fidelity) for name in HOSTILE),
        breakdown=hostile_report().breakdown,
        difference=Difference("a", "b", 0, regions),
    )
    check_page(page_of(hostile))
