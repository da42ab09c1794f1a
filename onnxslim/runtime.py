"""ONNX Runtime as all of onnxslim imports it: it reports nothing to anybody, and prints nothing of its own.

Official builds for some platforms send telemetry unless they are told not to (ONNX Runtime, docs/Privacy.md). A child
process that imports this module is told, too.
"""

from __future__ import annotations

import onnxruntime

__all__ = ["onnxruntime"]

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)  # what goes wrong reaches us as an exception; stderr belongs to the user
