"""Quality as the report tells it: with a reason beside everything that is null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.records import FidelityFigures, OutputFigures, QualityFigures, SliceFigures, reason_key
from onnxslim.quality.fidelity import FIGURES, Estimate, Fidelity
from onnxslim.quality.measure import Quality

WEAK_DB = 15.0
"""A slice of an output with more noise than this (18 % of the amplitude) is as good as lost."""
HIDDEN_DB = 6.0
"""So far below the whole output a slice has twice its relative noise: larger numbers beside it hide that."""
NO_DECISIONS = "the metric counts no decisions"


def fidelity_figures(measured: Quality) -> FidelityFigures:
    """Return how close a model is as a whole; agreement is of the decisions that the metric knows of."""
    agreement = {} if measured.agreement is None else {"agreement": measured.agreement}
    values = {key: value for key, value in measured.fidelity.values.items() if key != "agreement"}
    return record_fidelity({**values, **agreement}, measured.fidelity.reason, NO_DECISIONS)


def quality_figures(measured: Quality) -> QualityFigures:
    """Return what was measured of a model, in its task's terms."""
    return QualityFigures(
        metric=measured.metric.name,
        chosen=measured.reason,
        lost=measured.lost,
        loss=measured.loss,
        figures=measured.figures,
        outputs=tuple(output_figures(output) for output in measured.fidelity.parts),
    )


def quality_diagnostics(measured: Quality, *, labelled: bool) -> tuple[Diagnostic, ...]:
    """Return what the user should know about how a model was judged; `labelled`: the samples carry labels."""
    found = []
    if not measured.fits:
        message = "no task is recognised in the outputs: they are judged by the noise against their signal (SQNR)"
        found.append(Diagnostic("no-metric", message, "name a metric, --metric NAME, or give --metric module:function"))
    if labelled and not measured.labelled:
        message = f"the labels are not used: the metric {measured.metric.name} reads none"
        found.append(Diagnostic("labels-unread", message, "name one that does: --metric NAME, or module:function"))
    for output in measured.fidelity.parts:
        for part in output.parts:
            if part["sqnr_db"] is None or output["sqnr_db"] is None:
                continue
            weak, whole = part["sqnr_db"].value, output["sqnr_db"].value
            if weak < WEAK_DB and weak < whole - HIDDEN_DB:
                message = f"{part.name} within {output.name} follow at {weak:.1f} dB only, the whole at {whole:.1f} dB"
                hint = "leave the ops that join quantities of different scale as they are: exclude= of the pass"
                found.append(Diagnostic("weak-slice", message, hint))
    return tuple(found)


def output_figures(measured: Fidelity) -> OutputFigures:
    """Return how close one output is, and each of its slices."""
    return OutputFigures(
        measured.name,
        record_fidelity(measured.values, measured.reason, "it holds no whole numbers"),
        tuple(SliceFigures(part.name, part["sqnr_db"], part.reason) for part in measured.parts),
    )


def record_fidelity(values: Mapping[str, Estimate], reason: str | None, undecided: str) -> FidelityFigures:
    """Return figures of fidelity with `reason` beside those that are missing, and `undecided` beside the agreement."""
    found: dict[str, Any] = {}
    for figure in FIGURES:
        missing = (reason or "it does not apply to these outputs") if figure.of_floats else undecided
        found[figure.key] = values.get(figure.key)
        found[reason_key(figure.key)] = missing if found[figure.key] is None else None
    return FidelityFigures(**found)
