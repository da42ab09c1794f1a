"""Chooses the metric that fits a model's outputs, or the one named by the user."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.data.function import names_function
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.extensions import Group, extension_names
from onnxslim.quality.custom import guarded, load_metric
from onnxslim.quality.discovery import find_metric
from onnxslim.quality.evidence import Evidence, gather_evidence
from onnxslim.quality.metric import Metric, Recognition
from onnxslim.runtime.session import Session


@dataclasses.dataclass(frozen=True)
class MetricRequest:
    """The metric requested by the user, checked before any run."""

    text: str | None = None
    """Value of ``--metric``; None: automatic choice."""
    given: type[Metric] | Metric | None = None
    """The named metric: a class that is not bound yet, or a function as a metric; None: automatic choice."""

    @classmethod
    def read(cls, text: str | None) -> MetricRequest:
        """Parse the value of ``--metric``: a name, or ``module:function``.

        Raises:
            BadOptionValue: The metric or function does not exist.
        """
        if text is None:
            return cls()
        return cls(text, load_metric(text) if names_function(text) else find_metric(text))


def choose_metric(request: MetricRequest, session: Session, model: ir.Model, samples: Samples) -> Recognition:
    """Return the metric of the original, bound to its outputs, with the reason.

    Unless it is a function of the user, the original is run on a few of the samples.

    Raises:
        BadOptionValue: The named metric does not fit the outputs.
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
    reason = f"--metric {request.text} needs labels, and there are none; {best.reason}"
    return dataclasses.replace(best, reason=reason)


def bind(metric: type[Metric], evidence: Evidence, option: str) -> Recognition:
    """Return a metric named by the user, bound to the outputs that fit it best.

    Raises:
        BadOptionValue: No output has a suitable shape, or the user's metric raised an exception.
    """
    with guarded(metric):
        found = metric.recognise(evidence) or metric.recognise(dataclasses.replace(evidence, named=True))
    if found is None:
        shapes = ", ".join(f"{output.name} {list(output.shape)}" for output in evidence.outputs)
        hint = "leave it out for the metric that fits, or name another one, or give module:function"
        raise BadOptionValue(f"no output fits {metric.name}: {shapes}", where="--metric", hint=hint)
    return dataclasses.replace(found, strength=1.0, reason=f"{option}: {found.reason}")


def recognise(evidence: Evidence) -> Recognition:
    """Return the metric that fits the outputs best, preferably one that can read the labels."""
    metrics = [find_metric(name) for name in extension_names(Group.METRICS, ours=True)]
    found = [recognition for metric in metrics if (recognition := metric.recognise(evidence)) is not None]
    readable = [
        candidate for candidate in found if candidate.strength > 0 and _reads_labels(candidate.metric, evidence)
    ]
    return max(readable or found, key=lambda candidate: candidate.strength)


def _reads_labels(metric: Metric, evidence: Evidence) -> bool:
    """Return whether a metric can read the labels, if there are any."""
    if evidence.labels is None or not metric.reads_labels:
        return True
    outputs = {output.name: output.values[0] for output in evidence.outputs}
    try:
        metric.rows(outputs, outputs, evidence.labels, evidence.counts[0])
    except DataError:
        return False
    return True
