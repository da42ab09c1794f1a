"""The operator set that quantization needs."""

from __future__ import annotations

from onnxslim.pipeline.opset import upgraded

__all__ = ["QUANTIZATION_OPSET", "upgraded"]

QUANTIZATION_OPSET = 13
"""DequantizeLinear has an axis since opset 13."""
