"""The import of ONNX Runtime, without telemetry and without output of its own.

Official builds send telemetry by default (ONNX Runtime, docs/Privacy.md). `disable_telemetry_events` is too late for
recent builds: on import they report the process, assign a permanent number to the machine, and keep a database in the
user's cache, unless an environment variable forbids it, whose name has changed once. Child processes inherit the
variable. If the user has set either variable, it is not changed.
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
