"""Evidence for tests of metrics: outputs that somebody gives, without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.runtime.session import TensorSpec


def evidence_of(
    outputs: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    ops: Mapping[str, Sequence[str]] | None = None,
    runs: int = 1,
    named: bool = False,
    synthetic: bool = False,
) -> Evidence:
    """Return the evidence of a model that gives `outputs` on each of its runs of one sample."""
    feeds = inputs or {"x": np.zeros((1, 8), np.float32)}

    def spec(name: str, value: Any) -> TensorSpec:
        array = isinstance(value, np.ndarray)
        return TensorSpec(name, value.dtype if array else None, ("N", *value.shape[1:]) if array else ())

    return Evidence(
        inputs=tuple(spec(name, value) for name, value in feeds.items()),
        feeds=(feeds,) * runs,
        outputs=tuple(
            OutputEvidence(spec(name, value), (value,) * runs, tuple((ops or {}).get(name, ())))
            for name, value in outputs.items()
        ),
        counts=(1,) * runs,
        labels=None,
        synthetic=synthetic,
        named=named,
    )
