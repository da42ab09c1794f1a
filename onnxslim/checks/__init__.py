"""Checks of samples against their model; problems are warnings, diagnostics with a reason."""

from onnxslim.checks.examination import examine

__all__ = ["examine"]
