"""Reports that are hard on a page: hostile names, and thousands of long ones."""

from __future__ import annotations

import dataclasses

from report_strategies import sample_report

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.interface import LayerChange, LayerSensitivity, Note
from onnxslim.pipeline.records import Breakdown, LayerCost, LayerFigures, ModelFile, OpFigures, Report, Reproduction

HOSTILE = (
    "<script>document.title = 'ran'</script>",
    "\" onload=\"document.title='ran'",
    "' onerror='document.title=1",
    "]]><!--",
    "javascript:document.title=1",
    "$\\frac$",
    "</style></svg><style>*{display:none}",
    "{{ 7 * 7 }}",
    "a\u202egnp.exe",
    "url(https://example.com/x)",
    "<img src=https://example.com/x onerror=document.title='ran'>",
    "W" * 5000,
)


def cost(number: int, kind: str = "float") -> LayerCost:
    """Return the cost of some layer."""
    return LayerCost(2, 1000 * number, 400 * number, kind, 0.01 * number)


def layer(name: str, number: int, sqnr: float | None = 20.0) -> LayerFigures:
    """Return a layer that was cut and quantized."""
    changes = (LayerChange(name, "Conv", "channels", 64, 48, 10, 5), LayerChange(name, "Conv", "channels", 8, 8, 1, 1))
    reason = None if sqnr else "another shape: [3], which was [4]"
    return LayerFigures(name, name, f"{name}_out", cost(number), cost(number, "int8"), changes, sqnr, reason)


def hostile_report() -> Report:
    """Return a report in which every name is one of those that break pages."""
    report = sample_report()
    steps = tuple(
        dataclasses.replace(
            report.passes[1],
            name=name,
            reason=name,
            options={name: name},
            changes=(Note(name, name, name),),
            layers=(LayerChange(name, name, name, 3, 2, 30, 20),),
            sensitivity=tuple(
                LayerSensitivity(layer, name, 20.0, name, 0.1, 40, 10, 0.2, name, name) for layer in HOSTILE
            ),
        )
        for name in HOSTILE
    )
    return dataclasses.replace(
        report,
        input=ModelFile(HOSTILE[0], HOSTILE[1]),
        output=ModelFile(HOSTILE[6], HOSTILE[1]),
        passes=steps,
        diagnostics=tuple(Diagnostic(name, name, name) for name in HOSTILE),
        reproduction=Reproduction(" ".join(HOSTILE), {name: name for name in HOSTILE}, "\n".join(HOSTILE)),
        breakdown=Breakdown(
            tuple(layer(name, 3 + at, 5.0 + at) for at, name in enumerate(HOSTILE)),
            tuple(OpFigures(name, cost(at), cost(at)) for at, name in enumerate(HOSTILE)),
        ),
    )


def long_report() -> Report:
    """Return the report of a model of thousands of layers with long names."""
    report = sample_report()
    names = [f"/block{at}/{'deep/' * 60}Conv" for at in range(6000)]
    layers = tuple(LayerChange(name, "Conv", "channels", 64, 48, at, at // 2) for at, name in enumerate(names))
    notes = tuple(Note("n" * 400, "a" * 400, "r" * 400) for _ in range(20_000))
    costs = tuple(
        LayerSensitivity(name, "Conv", 20 + at % 40, "outputs", 1 / 6000, 4 * at, at, None, "int8", "", None, None, "-")
        for at, name in enumerate(names)
    )
    step = dataclasses.replace(report.passes[1], layers=layers, changes=notes, sensitivity=costs)
    return dataclasses.replace(
        report,
        passes=(step,) * 6,
        breakdown=Breakdown(
            tuple(layer(name, 1 + at % 7, float(at % 90) + 1) for at, name in enumerate(names)),
            tuple(OpFigures(f"my.domain.{'Op' * 100}{at}", cost(at), cost(at)) for at in range(500)),
        ),
    )
