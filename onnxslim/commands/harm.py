"""Speaks up where a lossy pass clearly did harm and no budget was there to stop it: how much, and what to try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.interface import Pass
from onnxslim.pipeline.options import format_passes
from onnxslim.pipeline.records import PassRecord

GENTLER = 0.5
"""The part of its strength at which a milder form is suggested."""


def harm(steps: Sequence[Pass], records: Sequence[PassRecord], lost: str, harmed: float) -> Iterator[Diagnostic]:
    """Yield a warning for each lossy pass that was kept and clearly did harm.

    A loss, which is one of `lost`, is harm where the lower end of its interval is above `harmed` (`Metric.harmful`).
    """
    before = 0.0
    for step, record in zip(steps, records, strict=True):
        loss = next((attempt.loss for attempt in record.attempts if attempt.kept), None)
        if loss is None:
            continue
        if loss.low - before > harmed:
            part = max(0.0, loss.value - before)
            yield Diagnostic(
                "harmful-pass",
                f"{record.name} cost {part:.1%} of {lost.rstrip(',')} ({max(0.0, loss.low - before):.1%} to "
                f"{loss.high - before:.1%})",
                _try(step),
            )
        before = max(0.0, loss.value)


def _try(step: Pass) -> str:
    milder = step.milder(step.opening * GENTLER)
    if milder is None:
        return "--max-drop 0.01 rolls back what costs more than that"
    return f"--max-drop 0.01 keeps the strongest form that costs no more; or try -p {format_passes([milder])}"
