"""Fidelity as the report tells it: with a reason beside everything that is null."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from onnxslim.report.model import FidelityFigures
from onnxslim.runner.fidelity import Fidelity, OutputFidelity


@dataclasses.dataclass(frozen=True)
class OutputFigures:
    """How close one output is to that of the reference."""

    name: Annotated[str, "of the output"]
    fidelity: Annotated[FidelityFigures, "how close it is"]


def fidelity_figures(measured: Fidelity | OutputFidelity) -> FidelityFigures:
    """Return what was measured of a model, or of one of its outputs."""
    reason = measured.reason or "it does not apply to these outputs"
    return FidelityFigures(
        agreement=measured.agreement,
        sqnr_db=measured.sqnr_db,
        cosine=measured.cosine,
        max_abs_error=measured.max_abs_error,
        agreement_reason=None if measured.agreement else "no output holds classes or whole numbers",
        sqnr_reason=None if measured.sqnr_db else reason,
        cosine_reason=None if measured.cosine else reason,
        max_abs_error_reason=None if measured.max_abs_error is not None else reason,
    )


def output_figures(measured: Fidelity) -> tuple[OutputFigures, ...]:
    """Return what was measured of each output."""
    return tuple(OutputFigures(output.name, fidelity_figures(output)) for output in measured.outputs)
