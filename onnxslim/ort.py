"""ONNX Runtime as all of onnxslim imports it: it reports nothing to anybody, and prints nothing of its own.

Official builds send telemetry unless they are told not to (ONNX Runtime, docs/Privacy.md). `disable_telemetry_events`
comes too late for recent ones: while they are imported they report the process, give the machine a lasting number, and
keep a database in the user's cache, unless an environment variable forbids it, whose name has changed once. Child
processes inherit it. A user who set either variable has decided, and is not overruled.
"""

from __future__ import annotations

import os

NO_TELEMETRY = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")
if not any(name in os.environ for name in NO_TELEMETRY):
    os.environ.update(dict.fromkeys(NO_TELEMETRY, "1"))

import onnxruntime  # noqa: E402 - it reads them while it is imported

__all__ = ["onnxruntime"]

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)  # what goes wrong reaches us as an exception; stderr belongs to the user
