"""Chooses the metric that fits a model's outputs, or the one that the user named."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.data.function import names_function
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.quality.custom import guarded, load_metric
from onnxslim.quality.discovery import find_metric, metric_names
from onnxslim.quality.evidence import Evidence, gather_evidence
from onnxslim.quality.metric import Metric, Recognition
from onnxslim.runtime.session import Session


@dataclasses.dataclass(frozen=True)
class MetricRequest:
    """Which metric the user asks for; checked before anything is run."""

    text: str | None = None
    """What stands behind ``--metric``; None: the one that fits."""
    given: type[Metric] | Metric | None = None
    """The metric that this names: a class that has yet to be bound, or a function as a metric; None: none is named."""

    @classmethod
    def read(cls, text: str | None) -> MetricRequest:
        """Read what stands behind ``--metric``: a name, or ``module:function``.

        Raises:
            BadOptionValue: There is no such metric or function.
        """
        if text is None:
            return cls()
        return cls(text, load_metric(text) if names_function(text) else find_metric(text))


def choose_metric(request: MetricRequest, session: Session, model: ir.Model, samples: Samples) -> Recognition:
    """Return the metric to judge a model by, bound to its outputs, and why.

    Args:
        request: What the user asked for.
        session: The original, opened; it is run on a few samples.
        model: The same, to see which ops make its outputs.
        samples: What it is run on.

    Raises:
        BadOptionValue: The metric that was named does not fit the outputs.
        RunError, DataError: The model does not run, or the samples cannot be read.
    """
    if isinstance(request.given, Metric) and (samples.labelled or not request.given.needs_labels):
        return Recognition(request.given, 1.0, f"--metric {request.text}")
    evidence = gather_evidence(session, model, samples)
    if request.given is not None and not isinstance(request.given, Metric):
        return bind(request.given, evidence, f"--metric {request.text}")
    best = recognise(evidence)
    if request.given is None:
        return best
    why = f"--metric {request.text} needs labels, and there are none; {best.reason}"
    return dataclasses.replace(best, reason=why)


def bind(metric: type[Metric], evidence: Evidence, option: str) -> Recognition:
    """Return a metric that the user named, bound to the outputs that fit it best.

    Raises:
        BadOptionValue: No output has a shape that it can read, or it is the user's own, and raises.
    """
    with guarded(metric):
        found = metric.recognise(evidence) or metric.recognise(dataclasses.replace(evidence, named=True))
    if found is None:
        shapes = ", ".join(f"{output.name} {list(output.shape)}" for output in evidence.outputs)
        raise BadOptionValue(
            f"no output fits {metric.name}: {shapes}",
            where="--metric",
            hint="leave it out for the metric that fits, or name another one, or give module:function",
        )
    return dataclasses.replace(found, strength=1.0, reason=f"{option}: {found.reason}")


def recognise(evidence: Evidence) -> Recognition:
    """Return the metric that fits the outputs of a model best, among those that understand the labels, if any does."""
    metrics = [find_metric(name) for name in metric_names()]
    found = [one for metric in metrics if (one := metric.recognise(evidence)) is not None]
    understood = [one for one in found if one.strength > 0 and _understands(one.metric, evidence)]
    return max(understood or found, key=lambda recognition: recognition.strength)


def _understands(metric: Metric, evidence: Evidence) -> bool:
    """Whether a metric can judge the outputs by the labels that there are."""
    if evidence.labels is None or not metric.reads_labels:
        return True
    outputs = {output.name: output.values[0] for output in evidence.outputs}
    try:
        metric.rows(outputs, outputs, evidence.labels, evidence.counts[0])
    except DataError:
        return False
    return True
