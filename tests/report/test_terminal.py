from __future__ import annotations

import dataclasses
import io
import re

from report_strategies import sample_report
from rich.console import Console

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.records import AttemptRecord, Budget, FidelityFigures, Figures, QualityFigures, Report
from onnxslim.report.terminal import print_changes, print_layers, print_report, print_sensitivity
from onnxslim.runtime.statistics import Interval


def printed(report: Report, **options) -> str:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=80, highlight=False), **options)
    return "\n".join(text.rstrip() for text in stream.getvalue().splitlines())


def test_the_whole_report_as_a_newcomer_reads_it():
    assert printed(sample_report()) == GOLDEN


def test_verbose_prints_every_change():
    text = printed(sample_report(), verbose=True)
    assert "/layer5/Conv[0]" in text
    assert "more (--verbose" not in text


def test_synthetic_data_is_said_first():
    report = sample_report()
    data = dataclasses.replace(report.data, synthetic=True)
    assert printed(dataclasses.replace(report, data=data)).startswith("The data is synthetic: ")


def test_warnings_are_printed_with_what_to_do_about_them():
    warnings = (
        Diagnostic("few-samples", "8 samples are few", "give 256"),
        Diagnostic("constant", "[red]all alike[/red]"),
    )
    text = printed(dataclasses.replace(sample_report(), diagnostics=warnings))
    assert "Warning: 8 samples are few. Hint: give 256.\nWarning: [red]all alike[/red].\n" in text


def test_without_labels_the_original_is_taken_as_right():
    report = sample_report()
    unlabelled = dataclasses.replace(report.before, accuracy=None, accuracy_interval=None, accuracy_reason="no labels")
    (figure,) = report.quality.figures
    lower = dataclasses.replace(figure, name="mAP", unit="", after=Interval(12.0, 11.0, 13.0))
    quality = dataclasses.replace(report.quality, figures=(figure, lower))
    data = dataclasses.replace(report.data, labels=False)
    text = printed(dataclasses.replace(report, before=unlabelled, after=unlabelled, quality=quality, data=data))
    assert " Top-1                       93.25 %   92.00 % to 94.30 %, against the original" in text
    assert " mAP                              12   11 to 13, against the original" in text
    assert "Accuracy" not in text


def test_labels_that_the_metric_does_not_read_are_told():
    report = sample_report()
    why = "the metric sqnr reads no labels"
    unread = dataclasses.replace(report.before, accuracy=None, accuracy_interval=None, accuracy_reason=why)
    assert why in printed(dataclasses.replace(report, before=unread, after=unread))


def test_what_was_not_measured_says_why():
    report = sample_report()
    why = "not measured: asked not to"
    unknown = dict.fromkeys(("latency", "throughput", "peak_memory", "energy", "accuracy"), why)
    values = dict.fromkeys(
        ("latency_ms", "throughput_per_s", "peak_memory_bytes", "energy_mj", "accuracy", "accuracy_interval")
    )
    reasons = {f"{key}_reason": text for key, text in unknown.items()}
    figures: Figures = dataclasses.replace(report.before, **values, **reasons)
    claim = "not claimed"
    report = dataclasses.replace(
        report,
        before=figures,
        after=figures,
        ratio=dataclasses.replace(report.ratio, latency=None, latency_reason=why),
        fidelity=FidelityFigures(None, None, None, None, claim, claim, claim, claim),
        quality=QualityFigures(None, claim, claim, None, metric_reason=claim, loss_reason=claim),
        budget=Budget(None, True, None, None, "no budget was given", "no budget was given", "no budget was given"),
        passes=(),
        data=dataclasses.replace(report.data, samples=1, labels=False),
    )
    text = printed(report)
    assert text.count(why) == 4
    assert text.count(claim) == 2
    assert "Budget" not in text
    assert text.startswith("Measured on 1 sample without labels: test.npz")


def test_a_terminal_gets_colour_unless_it_wants_none(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for coloured in (True, False):
        if not coloured:
            monkeypatch.setenv("NO_COLOR", "1")
        stream = io.StringIO()
        print_report(sample_report(), Console(file=stream, width=80, force_terminal=True, highlight=False))
        assert ("\x1b[32mkept" in stream.getvalue()) == coloured


def test_layers_of_a_kept_pass_are_printed_those_that_save_the_most_first():
    report = sample_report()
    step = dataclasses.replace(report.passes[0], kept=True)
    for limit, verbose in ((1, False), (2, True)):
        stream = io.StringIO()
        print_layers(step, Console(file=stream, width=100), limit=None if verbose else 1)
        assert "/layer0/Conv" in stream.getvalue()
        assert "64      48        9.40 M       7.10 M" in stream.getvalue()
        assert stream.getvalue().count("channels") == limit
        assert ("1 more layers" in stream.getvalue()) is not verbose
    stream = io.StringIO()
    print_layers(report.passes[0], Console(file=stream), limit=None)
    assert not stream.getvalue()


def test_what_a_pass_did_that_was_not_kept_is_not_called_a_change():
    kept = sample_report().passes[1]
    for step, title in ((kept, "what changed"), (dataclasses.replace(kept, kept=False), "what it found, not kept")):
        stream = io.StringIO()
        print_changes(step, Console(file=stream, width=100), limit=None)
        assert "/layer0/Conv[0]" in stream.getvalue()
        assert title in stream.getvalue()


def test_the_forms_that_were_tried_are_printed_where_it_was_more_than_one():
    asked = {"ratio": 0.7, "align": 8}
    missed = AttemptRecord(
        asked, 1.0, Interval(0.031, 0.02, 0.04), 4.0, None, False, "too much", 2.0, latency_reason="-"
    )
    held = dataclasses.replace(missed, options={"ratio": 0.4213, "align": 8}, kept=True, reason="within the budget")
    step = dataclasses.replace(sample_report().passes[0], asked=asked, attempts=(missed, held))
    text = printed(dataclasses.replace(sample_report(), passes=(step,)))
    assert re.search(r"as asked +not kept +3\.10 % +4\.00x +2\.0 +too much", text)
    assert re.search(r"ratio=0\.421 +kept", text)
    assert "forms tried" not in printed(sample_report())


GOLDEN = """\
Measured on 2,000 samples with labels: test.npz
Target: cpu avx2, 2 threads (AMD EPYC)

                    before      after   change
 ────────────────────────────────────────────────────────────────────
 Size              1.25 MB     330 kB   3.79x smaller
   compressed      1.14 MB     270 kB   4.22x smaller
 Parameters          308 k      308 k   the same
 MACs               41.3 M     41.3 M   the same
 Nodes                  52         61   1.17x more
 Latency, median   2.31 ms    1.00 ms   2.31x faster (2.25 to 2.37)
 Loading           41.0 ms    20.5 ms   2.00x less
 First run         5.20 ms    2.60 ms   2.00x less
 Throughput         433 /s   1,000 /s   2.31x more
 Peak memory       8.40 MB    4.20 MB   2.00x less
 Energy                  -          -   no RAPL counters here
 Top-1             93.40 %    93.25 %   -0.15 points (-0.40 to +0.10)
 SQNR                                   28.7 dB (28.5 to 28.9)

Metric: classification: logits [1, 10] holds a score for each of 10 classes
Lost: 0.15 % of top-1 accuracy (-0.10 % to 0.40 %)
SQNR within logits: scores 8.5 dB (8.0 to 9.0)
Budget: at most 1.00 % lost, met with a confidence of 95.00 %

 pass    kind               nodes      seconds   why
 ──────────────────────────────────────────────────────────────────────────────
 prune   lossy   not kept   52 -> 50       8.0   3.10% of accuracy would be
                                                 lost
 quant   lossy   kept       50 -> 61       3.2   within the budget


 quant: what changed
 ────────────────────────────────────────
 /layer0/Conv[0]       int8   per channel
 /layer1/Conv[0]       int8   per channel
 /layer2/Conv[0]       int8   per channel
 /layer3/Conv[0]       int8   per channel

... and 2 more (--verbose prints all)

 quant: costliest     alone     noise               weight      saves   became
 ─────────────────────────────────────────────────────────────────────────────
 /layer0/Conv       31.2 dB   75.00 %   36.9 kB -> 9.22 kB          -   float
 /layer1/Conv       36.0 dB   25.00 %   36.9 kB -> 9.22 kB   0.310 ms   int8

Written to model.slim.onnx"""


def test_layers_that_cost_most_come_first_and_those_not_measured_are_left_out():
    costs = sample_report().passes[1].sensitivity
    unmeasured = dataclasses.replace(costs[0], layer="unmeasured", share=None, share_reason="asked not to")
    stream = io.StringIO()
    print_sensitivity("costly", (unmeasured, *reversed(costs)), Console(file=stream, width=120), limit=None)
    lines = stream.getvalue().splitlines()
    first, second = (next(line for line in lines if f"/layer{index}/" in line) for index in range(2))
    assert lines.index(first) < lines.index(second)
    for words in ("31.2 dB", "75.00 %", "36.9 kB -> 9.22 kB", "float"):
        assert words in first
    assert "310" in second or "0.310 ms" in second
    assert "unmeasured" not in stream.getvalue()
    assert "it brings" not in stream.getvalue()
    short = io.StringIO()
    print_sensitivity("costly", costs, Console(file=short, width=160), limit=1)
    assert "1 more layers that cost less" in short.getvalue()
