"""Checks of samples against the model that they are for. What is found is a warning: a diagnostic with its reason."""

from onnxslim.checks.examination import examine

__all__ = ["examine"]
